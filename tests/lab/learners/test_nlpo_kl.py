"""NLPO's mask is part of the policy: evaluations measure the KL under it, as training does."""

from typing import Any

import gymnasium as gym
import pytest

from tests.support.agents.common import PROMPTS, make_model, target_share
from tests.support.words import make_word_tokenizer as make_tokenizer
from tokengym.evaluation.measure import Evaluator
from tokengym.lab.learners.nlpo import NLPO


def test_the_kl_before_training_is_0_under_its_mask():
    options: dict[str, Any] = {
        "tokenizer": make_tokenizer(),
        "prompts": PROMPTS,
        "reward": target_share,
        "max_new_tokens": 5,
    }
    envs = gym.make_vec("tokengym/TokenGeneration-v0", num_envs=4, **options)
    how: Any = {"policy_kwargs": {"model": make_model()}, "device": "cpu", "seed": 0}
    agent = NLPO("CausalLMPolicy", envs, mask_top_p=0.5, n_minibatches=1, **how)
    evaluator = Evaluator("tokengym/TokenGeneration-v0", options, num_episodes=8)
    for greedy in (False, True):
        assert evaluator(agent, deterministic=greedy).metrics["kl"] == pytest.approx(0.0, abs=1e-5)
    evaluator.close()
