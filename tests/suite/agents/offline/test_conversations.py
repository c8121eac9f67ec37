"""One conversation has one form: environment, DPO, SFT and judges write what its template does."""

from typing import Any

import numpy as np
import pytest

from tests.support.chats import KINDS, TEMPLATES, Talks, applied, make_tokenizer, reads_tags
from tokengym.agents import DPO, SFT
from tokengym.base.errors import DatasetError, TokenizerError
from tokengym.envs import Chat, Episode, Prompt, TokenGenerationEnv
from tokengym.rewards.attribution.alignment import Retokenizer
from tokengym.rewards.pairs.encode import TextEncoding

CONVERSATIONS = 40
ENCODING = TextEncoding()


def end_of(tokenizer: Any, ids: list[int]) -> list[int]:
    """Return ids up to the last control token: what a template writes behind it is no reply."""
    special = {n for n, token in tokenizer.added_tokens_decoder.items() if token.special}
    return ids[: 1 + max(n for n, one in enumerate(ids) if one in special)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("template", TEMPLATES)
def test_all_write_what_the_template_writes(template, kind):
    tokenizer, refused, compared = make_tokenizer(kind, template), 0, 0
    talks = Talks(len(template) + len(kind), tags=reads_tags(kind, template))
    rows = [talks.row() for _ in range(CONVERSATIONS)]
    kept = [row for row in rows if applied(tokenizer, row, *row["chosen"]) is not None]
    for row in rows:
        if row in kept:
            continue
        refused += 1
        with pytest.raises(DatasetError, match="template refuses"):
            DPO.encode([row], tokenizer, ENCODING)
        if applied(tokenizer, row) is None:
            with pytest.raises(TokenizerError, match="template refuses"):
                TokenGenerationEnv(tokenizer=tokenizer, prompts=[Chat.of_row(row["prompt"], row)])
    prompts = [Prompt.from_messages(Chat.of_row(row["prompt"], row)) for row in kept]
    env = TokenGenerationEnv(tokenizer=tokenizer, prompts=prompts)
    for number, row in enumerate(kept):
        asked = applied(tokenizer, row)
        wholes = [applied(tokenizer, row, *row[side]) for side in ("chosen", "rejected")]
        observation, _ = env.reset(options={"prompt_id": number})
        seen = observation["input_ids"][observation["attention_mask"].astype(bool)].tolist()
        assert seen == asked
        (pair,) = DPO.encode([row], tokenizer, ENCODING).rows
        told = {**row, "completion": row["chosen"]}
        (learned,) = SFT.encode([told], tokenizer, ENCODING).rows
        assert list(pair.prompt) == list(learned.prompt) == asked
        assert learned.responses == pair.responses[:1]
        for response, whole in zip(pair.responses, wholes, strict=True):
            assert [*pair.prompt, *response] == end_of(tokenizer, whole)
        compared += 1
    assert refused + compared == CONVERSATIONS
    assert compared >= 3
    print(f"{template} x {kind}: {compared} equal, {refused} refused alike, 0 differ")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("template", TEMPLATES)
def test_a_judge_reads_its_own_template(template, kind):
    """Whatever the policy's tokenizer and template are, in which it read the conversation."""
    policy, judge = make_tokenizer("bytes", "chatml"), make_tokenizer(kind, template)
    read = Retokenizer(policy, judge, form=None)
    talks = Talks(7, tags=reads_tags(kind, template))
    for row in (talks.row() for _ in range(CONVERSATIONS)):
        said = row["chosen"][0]["content"]
        reply = {"role": "assistant", "content": said}
        own = applied(judge, row, reply)
        chat = Chat.of_row(row["prompt"], row)
        episode = Episode(
            prompt=chat.text,
            messages=chat,
            response=said,
            prompt_ids=applied(policy, row),
            response_ids=[*policy(said)["input_ids"], policy.eos_token_id],
        )
        if own is None:
            with pytest.raises(TokenizerError, match="template refuses"):
                read([episode])
            continue
        (found,) = read([episode])
        assert found.ids == own
        spread = found.spread(np.ones(found.size + found.after))
        assert spread.shape == (len(episode.response_ids),)
        assert spread.sum() == pytest.approx(found.size + found.after)
