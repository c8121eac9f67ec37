"""RTO's token rewards against log-probabilities computed with transformers alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests.support.agents.common import lora_config, make_model, target_share
from tests.support.agents.offline import make_dpo
from tests.support.lab.rto import by_hand
from tests.support.words import make_word_tokenizer as make_tokenizer
from tokengym.base.errors import TokenizerError
from tokengym.envs import Episode, TokenGenerationVectorEnv
from tokengym.lab.rules.rto import rto
from tokengym.rewards import CreditReward, FunctionScorer, Reward, Rule
from tokengym.rewards.errors import CreditError

TEXTS = [((4, 5), (3, 6, 1)), ((7,), (3,)), ((4, 4, 4, 6), (5, 3, 7, 3, 6, 6))]
EPISODES = [
    Episode(prompt="p", response="a b", prompt_ids=prompt, response_ids=response)
    for prompt, response in TEXTS
]


def saved_dpo(folder: Path, *, lora: bool = False) -> Path:
    agent = make_dpo(
        model=make_model(),
        lora=lora_config() if lora else None,
        learning_rate=3e-2,
        num_train_epochs=2,
    )
    agent.train()
    agent.save(folder / "agent")
    return folder


def expected(policy: Any, reference: Any, scores: Sequence[float], beta: float) -> list[Any]:
    rows = []
    for (prompt, response), score in zip(TEXTS, scores, strict=True):
        row = beta * np.subtract(
            by_hand(policy, prompt, response), by_hand(reference, prompt, response)
        )
        row[-1] += score
        rows.append(row)
    return rows


def paid(credit: Rule) -> tuple[list[Any], list[float]]:
    episodes = (
        Reward(FunctionScorer(target_share), credit).bind(make_tokenizer()).evaluate(EPISODES)
    )
    return [e.token_rewards for e in episodes], [float(e.score or 0.0) for e in episodes]


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("inner", ["", "agent"])
def test_token_rewards_are_the_log_ratio_and_the_score(tmp_path: Path, lora: bool, inner: str):
    folder = saved_dpo(tmp_path / "dpo", lora=lora) / inner
    rows, scores = paid(Rule(rto, policy=folder, beta=0.7))
    agent = tmp_path / "dpo" / "agent"
    load = AutoModelForCausalLM.from_pretrained
    reference = load(agent / "reference")
    policy: Any = load(agent / ("reference" if lora else "model"))
    if lora:
        policy = PeftModel.from_pretrained(policy, str(agent / "adapter"))
    rows_by_hand = expected(policy, reference, scores, beta=0.7)
    assert max(np.abs(row[:-1]).max(initial=0.0) for row in rows_by_hand) > 0.01
    for found, row in zip(rows, rows_by_hand, strict=True):
        np.testing.assert_allclose(found, row, atol=1e-5)


def test_a_plain_model_takes_the_reference_it_is_given_or_the_bundles(tmp_path: Path):
    for name, seed in (("policy", 1), ("reference", 0)):
        make_model(seed=seed).save_pretrained(tmp_path / name)
    with pytest.raises(CreditError, match="'rto:reference=PATH'"):
        paid(Rule(rto, policy=tmp_path / "policy"))
    given, scores = paid(Rule(rto, policy=tmp_path / "policy", reference=tmp_path / "reference"))
    fallen, _ = paid(Rule(rto, policy=tmp_path / "policy").with_reference(tmp_path / "reference"))
    by_models = expected(make_model(seed=1), make_model(seed=0), scores, beta=0.1)
    for one, other, row in zip(given, fallen, by_models, strict=True):
        np.testing.assert_allclose(one, row, atol=1e-5)
        np.testing.assert_array_equal(one, other)


def test_at_beta_0_it_is_sparse(tmp_path: Path):
    make_model(seed=1).save_pretrained(tmp_path / "policy")
    rows, scores = paid(
        Rule(rto, policy=tmp_path / "policy", beta=0.0, reference=tmp_path / "policy")
    )
    for row, score in zip(rows, scores, strict=True):
        np.testing.assert_array_equal(row, [*[0.0] * (len(row) - 1), np.float32(score)])


def test_it_pays_in_an_environment(tmp_path: Path):
    folder = saved_dpo(tmp_path / "dpo")
    envs = TokenGenerationVectorEnv(
        num_envs=2, tokenizer=make_tokenizer(), prompts=["b c"], max_new_tokens=2, min_new_tokens=2
    )
    wrapped = CreditReward(envs, FunctionScorer(target_share), Rule(rto, policy=folder))
    wrapped.reset(seed=0)
    wrapped.step(np.array([3, 4]))
    _, rewards, terminated, _, infos = wrapped.step(np.array([3, 5]))
    assert terminated.all()
    np.testing.assert_allclose(rewards, infos["score"])  # `step` pays the score
    assert np.abs(infos["token_rewards"].sum(1) - infos["score"]).max() > 1e-4


def test_bad_arguments_are_refused(tmp_path: Path, tokenizer: Any):
    with pytest.raises(CreditError, match="rto:policy=PATH"):
        paid(Rule(rto))
    with pytest.raises(CreditError, match=r"beta.*>= 0, got -1"):
        Rule(rto, policy="x", beta=-1)
    make_model().save_pretrained(tmp_path / "policy")
    with pytest.raises(TokenizerError, match="8"):  # of another vocabulary
        Rule(rto, policy=tmp_path / "policy", reference=tmp_path / "policy").bind(tokenizer)
