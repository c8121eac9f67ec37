"""The policy that was shown how to ask a calculator: alone it fails, and the tool decides."""

import random
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import tokengym  # noqa: F401  (registers the ids)
from tokengym.agents import PPO, collect
from tokengym.base.prompt import Prompt
from tokengym.envs import bundled
from tokengym.lab.makers.bundles.reasoning_gym import PRODUCTS, SUMS, build_calculator, example

pytest.importorskip("reasoning_gym", reason="an extra of tokengym-lab")

TOOL: dict[str, Any] = {
    "partner": "calculator",
    "max_turns": 2,
    "max_turn_tokens": 32,
    "max_reply_tokens": 8,
}


def played(dataset: str, **settings: Any) -> Any:
    envs = gym.make_vec(
        "tokengym/ReasoningGym-v0",
        num_envs=32,
        bundle="calculator",
        dataset=dataset,
        max_new_tokens=64,
        **settings,
    )
    agent = PPO("CausalLMPolicy", envs, seed=0, device="cpu", advantage="reinforce++")
    return collect(agent, envs, 64, seed=0)


def test_examples_by_hand():
    prompt = Prompt("How much is 12 + 34 ?", "46")
    tokenizer = bundled("calculator").tokenizer
    texts = set()
    for seed in range(12):
        ids, start = example(prompt, random.Random(seed), most=9)
        assert tokenizer.decode(ids[:start]) == prompt.text
        texts.add(tokenizer.decode(ids[start:]))
    assert "calc 12 + 34<eos>46<answer>46</answer><eos>" in texts
    assert len(texts) > 1


@pytest.mark.parametrize("dataset", [SUMS, PRODUCTS])
def test_the_tool_decides(dataset: str):
    alone = played(dataset)
    assert np.mean([episode.score == 1.0 for episode in alone]) < 0.05
    asked = [e for e in played(dataset, **TOOL) if "calc" in e.response]
    assert 0.3 < len(asked) / 64 < 0.8
    assert np.mean([episode.score == 1.0 for episode in asked]) > 0.5


def test_it_is_built_from_a_seed():
    one, two = (build_calculator(seed=3, language_steps=2) for _ in range(2))
    for left, right in zip(
        one.models["policy"].parameters(), two.models["policy"].parameters(), strict=True
    ):
        assert left.equal(right)
