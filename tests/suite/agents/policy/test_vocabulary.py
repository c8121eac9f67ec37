"""Rows of a head that are no tokens have no probability, and a model's ends are compared."""

import logging
from typing import Any

import pytest
import torch

from tests.support.agents.common import EOS, VOCABULARY, make_model
from tests.support.words import make_word_tokenizer as make_tokenizer
from tokengym.agents import DPO, PPO, SFT
from tokengym.agents.policy import language_model
from tokengym.agents.policy.language_model import CausalLM, check_vocabulary, warn_of_ends
from tokengym.agents.policy.sequences import Sequences
from tokengym.base.errors import TokenizerError
from tokengym.envs import Episode, TokenGenerationVectorEnv, Vocabulary
from tokengym.envs.prompts.tokenization import load_tokenizer
from tokengym.rewards.attribution.policy_reader import PolicyReader

PROMPT, SAID = (4, 5), (3, 6, EOS)


def padded(rows: int) -> Any:
    """Return a model whose head likes rows that are no tokens best."""
    model = make_model(scale=2.0)
    model.resize_token_embeddings(rows, mean_resizing=False)
    with torch.no_grad():
        table = model.get_output_embeddings().weight
        table[VOCABULARY:] = 3.0 * table[3]
    return model


def expected(model: Any) -> torch.Tensor:
    """Return log-probs of the response's next tokens over the tokens alone, (3, tokens)."""
    ids = torch.tensor([[*PROMPT, *SAID]])
    with torch.no_grad():
        logits = model.eval()(ids).logits[0, len(PROMPT) - 1 : -1, :VOCABULARY]
    return logits.log_softmax(-1)


@pytest.mark.parametrize("rows", [VOCABULARY + 1, VOCABULARY + 5, 64])
@pytest.mark.parametrize("decoding", ["dynamic", "static"])
def test_rows_past_the_tokenizer_are_masked_everywhere(rows, decoding, make_envs):
    kwargs: Any = {"model": padded(rows), "reference": padded(rows + 3), "decoding": decoding}
    agent = PPO("CausalLMPolicy", make_envs(), policy_kwargs=kwargs, seed=0, device="cpu")
    played = agent.collect()
    assert all(0 <= i < VOCABULARY for e in played.episodes for i in e.response_ids)
    policy, table = agent.policy, expected(padded(rows))
    chosen = table[torch.arange(3), torch.tensor(SAID)]
    for reference in (False, True):
        (found,) = policy.log_probs([PROMPT], [SAID], reference=reference)
        torch.testing.assert_close(torch.from_numpy(found), chosen, atol=1e-5, rtol=1e-5)
    sequences = played.sequences(agent.device)
    figures = policy.evaluate(sequences, with_entropy=True, with_kl=True)
    again = policy.token_stats(sequences, name="log_probs")[sequences.response_mask]
    torch.testing.assert_close(figures.log_probs[sequences.response_mask], again)
    sampled = torch.as_tensor(played.log_probs)[sequences.response_mask]
    torch.testing.assert_close(sampled, again, atol=1e-4, rtol=1e-4)
    one = Sequences.from_ids([PROMPT], [SAID], agent.device)
    entropies = policy.token_stats(one, name="entropy")[one.response_mask]
    torch.testing.assert_close(entropies, -(table.exp() * table).sum(-1), atol=1e-5, rtol=1e-5)
    assert figures.kl.abs().max() < 1e-5


def test_readers_and_pairs_count_tokens_alone():
    model, table = padded(64), expected(padded(64))
    chosen = table[torch.arange(3), torch.tensor(SAID)]
    episode = Episode(prompt="", response="", prompt_ids=PROMPT, response_ids=SAID)
    for reader in (
        PolicyReader(model, tokenizer=make_tokenizer()),
        PolicyReader(model).bind(make_tokenizer()),
    ):
        (found,) = reader.log_probs([episode])
        torch.testing.assert_close(torch.from_numpy(found).float(), chosen, atol=1e-5, rtol=1e-5)
    pairs = [{"prompt_ids": PROMPT, "chosen_ids": SAID, "rejected_ids": [3, EOS]}]
    agent = DPO(padded(64), pairs, tokenizer=make_tokenizer(), device="cpu")
    (of_policy,) = agent.policy.log_probs([PROMPT], [SAID])
    torch.testing.assert_close(torch.from_numpy(of_policy), chosen, atol=1e-5, rtol=1e-5)


def test_a_large_excess_is_one_warning_and_a_lack_is_refused(caplog):
    language_model.warn_once.cache_clear()
    model = CausalLM(padded(105))
    with caplog.at_level(logging.WARNING, "tokengym"):
        check_vocabulary(model, 100)
        assert not caplog.records
        for _ in range(2):
            check_vocabulary(model, 99)
    (warning,) = [one.getMessage() for one in caplog.records]
    assert "head has 105 rows and the environment's tokenizer 99 tokens" in warning
    with pytest.raises(TokenizerError, match=r"105 tokens.*106"):
        check_vocabulary(model, 106)


def test_an_added_token_gets_a_row_wherever_a_model_is_named(tmp_path):
    path, tokenizer = str(tmp_path / "model"), make_tokenizer()
    make_model().save_pretrained(path)
    tokenizer.save_pretrained(path)
    tokenizer.add_tokens(["<added>"])
    envs = TokenGenerationVectorEnv(
        num_envs=2, tokenizer=tokenizer, prompts=["b c"], max_new_tokens=4
    )
    texts = [{"prompt": "b c", "completion": "a <added>"}]
    ppo = PPO(
        "CausalLMPolicy", envs, policy_kwargs={"model": path, "reference": path}, device="cpu"
    )
    sft = SFT(path, texts, tokenizer=tokenizer, ref_model=path, device="cpu")
    sft.train()
    for policy in (ppo.policy, sft.policy):
        for model in (policy.language_model, policy.reference):
            assert model.vocab_size == VOCABULARY + 1


@pytest.mark.parametrize(
    ("ends", "known", "named"),
    [
        ([EOS, 7], None, "'e' too"),
        ([EOS, 7, 6], ["<eos>", "e"], "'d' too"),
        ([7, EOS], ["<eos>", "e"], None),
        (EOS, None, None),
        (99, None, None),
    ],
)
def test_ends_that_the_environment_does_not_know_are_named_once(ends, known, named, caplog):
    language_model.warn_once.cache_clear()
    model = make_model()
    model.generation_config.eos_token_id = ends
    tokenizer = load_tokenizer(make_tokenizer(), eos_token=known)
    with caplog.at_level(logging.WARNING, "tokengym"):
        for _ in range(2):
            warn_of_ends(CausalLM(model), Vocabulary.of(tokenizer), tokenizer)
    messages = [one.getMessage() for one in caplog.records]
    assert len(messages) == (named is not None)
    assert all(str(named) in one and "pass eos_token=['<eos>', 'e'" in one for one in messages)
