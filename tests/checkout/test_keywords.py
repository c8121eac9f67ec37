"""The types of the settings of learners and environments, as a user's type checker sees them."""

import ast
from dataclasses import fields
from pathlib import Path

import pytest

from docs.makers import build_keywords
from tokengym.rewards.credits.options import UNIVERSAL
from tokengym.rewards.credits.token_credit import Declared

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("path", build_keywords.FILES)
def test_the_written_types_are_current(path: str):
    assert (ROOT / path).read_text(encoding="utf-8") == build_keywords.text(path)


def test_the_facts_of_a_rule_are_those_that_it_may_declare():
    source = (ROOT / "rewards/credits/token_credit.py").read_text(encoding="utf-8")
    shapes = [
        [one.arg for one in node.args.kwonlyargs]
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef) and node.name == "token_credit"
    ]
    declared = [one.name for one in fields(Declared) if one.name != "defaults"]
    assert shapes[1] == [*declared, *UNIVERSAL]


def _as_a_user_writes_them() -> None:
    """Settings for `make types`, which also fails where an error that is expected is none."""
    import gymnasium as gym

    from tokengym import (
        DPO,
        GRPO,
        PPO,
        REINFORCE,
        RLOO,
        SFT,
        TokenGenerationEnv,
        TokenGenerationVectorEnv,
        compare,
        token_credit,
    )
    from tokengym.keywords import EnvKeywords
    from tokengym.lab.learners.nlpo import NLPO

    envs = gym.make_vec("tokengym/MovieReview-v0", num_envs=2)
    PPO("CausalLMPolicy", envs, n_epochs=2, kl_coef=0.1, clip_range=lambda left: 0.2 * left, seed=0)
    NLPO("CausalLMPolicy", envs, n_epochs=2, mask_top_p=0.8, mask_refresh=5, seed=0)
    GRPO("CausalLMPolicy", envs, group_size=2, n_epochs=2).learn(10)
    RLOO.load("folder").predict([[1]])
    DPO("folder", beta=0.2, max_steps=3)
    SFT("folder", max_steps=3)
    TokenGenerationEnv(tokenizer="folder", prompts=["Once"], max_new_tokens=3, horizon="truncated")
    TokenGenerationVectorEnv(num_envs=2, tokenizer="folder", prompts=["Once"], stop_strings=["."])
    settings: EnvKeywords = {"reward": "abc:beta=0.8", "dataset": "a.csv", "max_new_tokens": 3}
    gym.make("tokengym/MovieReview-v0", **settings)
    env, rewards = "MovieReview", ["sparse"]
    token_credit(causal=True, gae_lambda=lambda beta: 0.5, segments=6, cut="line")
    compare(env, rewards=rewards, agents=["ppo", "dpo"], updates=3, eval_every=1, beta=0.1)
    compare(
        dataset="a.csv", scorer=lambda response: 1.0, kl_coef=0.1, dtype="bfloat16", tokens=None
    )

    PPO("CausalLMPolicy", envs, n_epochs="two")  # type: ignore[arg-type]
    PPO("CausalLMPolicy", envs, n_epoch=2)  # type: ignore[call-arg]
    PPO("CausalLMPolicy", envs, kl_estimator="k7")  # type: ignore[arg-type]
    GRPO("CausalLMPolicy", envs, group_sise=1)  # type: ignore[call-arg]
    RLOO("CausalLMPolicy", envs, group_size="two")  # type: ignore[arg-type]
    REINFORCE("CausalLMPolicy", envs, n_epoch=2)  # type: ignore[call-arg]
    NLPO("CausalLMPolicy", envs, mask_top_p="most")  # type: ignore[arg-type]
    DPO("folder", beta="x")  # type: ignore[arg-type]
    SFT("folder", steps=3)  # type: ignore[call-arg]
    TokenGenerationEnv(tokenizer="a", prompts=["b"], max_new_tokns=3)  # type: ignore[call-arg]
    TokenGenerationVectorEnv(tokenizer="a", prompts=["b"], max_new_tokens="3")  # type: ignore[arg-type]
    misspelt: EnvKeywords = {"rewards": "abc"}  # type: ignore[typeddict-unknown-key]
    mistyped: EnvKeywords = {"split": "validation"}  # type: ignore[typeddict-item]
    token_credit(gae_lamda=0.5)  # type: ignore[call-overload]
    token_credit(causal="yes")  # type: ignore[call-overload]
    compare("MovieReview", updats=3)  # type: ignore[call-arg]
    compare("MovieReview", updates="three")  # type: ignore[arg-type]
    compare("MovieReview", seed=3)  # type: ignore[call-arg]
    compare("MovieReview", dtype="float16")  # type: ignore[arg-type]
    del misspelt, mistyped
