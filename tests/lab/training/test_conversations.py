"""A judge reads the same text when it is trained and when it scores."""

import copy
from typing import Any

import pytest

from tests.support.chats import KINDS, TEMPLATES, Talks, applied, make_tokenizer, reads_tags
from tests.support.rewards.common import make_classifier
from tokengym.envs import Episode
from tokengym.lab.training.readers import RewardReader
from tokengym.rewards import FORM_KEY, RewardModel, ScorerError, read_pairs

CONVERSATIONS = 40


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("template", TEMPLATES)
def test_training_and_scoring_read_the_same(template, kind):
    judge, policy = make_tokenizer(kind, template), make_tokenizer("words", "chatml")
    model = make_classifier(vocab_size=len(judge))
    reader = RewardReader(model, append_eos=True)
    talks, compared = Talks(3, tags=reads_tags(kind, template)), 0
    rows = [talks.row() for _ in range(CONVERSATIONS)]
    for row in rows:  # what was played has no thoughts beside its text
        for side in ("chosen", "rejected"):
            row[side] = [{"role": "assistant", "content": row[side][0]["content"].split()[-1]}]
        row["rejected"][0]["content"] += " no"
    rows = [row for row in rows if applied(judge, row, *row["chosen"]) is not None]
    pairs = read_pairs(rows)
    reader.describe(model.config, pairs)
    assert getattr(model.config, FORM_KEY) == "chat"
    scorer: Any = RewardModel(model, tokenizer=judge).bind(policy)
    trained = reader.encode(pairs, judge)
    for row, pair, both in zip(rows, pairs, trained, strict=True):
        for said, ids in zip((pair.chosen, pair.rejected), both, strict=True):
            played = Episode(
                prompt=pair.prompt,
                messages=pair.messages,
                response=said,
                prompt_ids=applied(policy, row),
                response_ids=[*policy(said)["input_ids"], policy.eos_token_id],
            )
            (scored,) = scorer._texts([played], ())
            own = applied(judge, row, {"role": "assistant", "content": said})
            assert ids == scored.ids == own
            compared += 1
    assert compared >= 6
    print(f"judge {template} x {kind}: {compared} equal, 0 differ")


def test_a_call_that_contradicts_the_form_is_refused():
    tokenizer = make_tokenizer("bytes", "chatml")
    model = make_classifier(vocab_size=len(tokenizer))
    pairs = read_pairs([Talks(1).row()])
    RewardReader(model, append_eos=True).describe(model.config, pairs)
    with pytest.raises(ScorerError, match=r"'chat'.*form='text'"):
        RewardModel(model, tokenizer=tokenizer, form="text")
    assert RewardModel(model, tokenizer=tokenizer, form="chat").form == "chat"


def test_a_judge_of_the_same_tokenizer_reads_its_own_template():
    policy = make_tokenizer("bytes", "chatml")
    judge = copy.deepcopy(policy)
    judge.chat_template = TEMPLATES["llama 3"]
    model, row = make_classifier(vocab_size=len(judge)), Talks(5).row()
    row["prompt"] = [{"role": "user", "content": "who"}]
    prompt_ids = applied(policy, row)
    played = Episode(
        prompt="who",
        messages=row["prompt"],
        response="me",
        prompt_ids=prompt_ids,
        response_ids=policy("me")["input_ids"],
    )
    plain = Episode(prompt="who", response="me", prompt_ids=[7], response_ids=[8])
    scorer: Any = RewardModel(model, tokenizer=judge).bind(policy)
    own = applied(judge, row, {"role": "assistant", "content": "me"})
    read = scorer._texts([played, plain], ())
    assert [one.ids for one in read] == [own, [7, 8]]
    with pytest.raises(ScorerError, match="own form"):
        scorer.score([played], attribution="prefix")
    alike: Any = RewardModel(model, tokenizer=copy.deepcopy(policy)).bind(policy)
    (text,) = alike._texts([played], ())  # in the template, whatever ids the policy wrote
    assert text.ids == applied(policy, row, {"role": "assistant", "content": "me"})
