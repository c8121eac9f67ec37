"""SkyRL: its registry, and its arithmetic on our token rewards."""

import importlib
from types import SimpleNamespace

import numpy as np
import torch

from tests.support.paid_words import ADVANTAGES, LONG, PROMPT, SHORT, credit
from tokengym.bridges.skyrl import credited, register

utils = importlib.import_module("skyrl.backends.skyrl_train.utils.ppo_utils")


def test_the_registry_knows_the_estimators_and_they_are_ours_by_hand() -> None:
    algorithm = SimpleNamespace(zero_variance_filter=False)
    register(
        utils.AdvantageEstimatorRegistry,
        config=SimpleNamespace(trainer=SimpleNamespace(algorithm=algorithm)),
    )
    register(utils.AdvantageEstimatorRegistry)  # a second time changes nothing
    assert "tokengym_loo" in utils.AdvantageEstimatorRegistry.list_available()
    output = {
        "prompt_token_ids": [PROMPT] * 2,
        "response_ids": [LONG, SHORT],
        "rewards": [0.0, 0.0],
        "loss_masks": [[1] * 3, [1] * 2],
        "stop_reasons": ["stop"] * 2,
    }
    rewards = credited(output, credit())["rewards"]
    padded = torch.tensor([rewards[0], [0.0, *rewards[1]]])  # SkyRL pads responses on the left
    advantages, _ = utils.compute_advantages_and_returns(
        token_level_rewards=padded,
        response_mask=(padded > 0).float(),
        index=np.array(["p", "p"], dtype=object),
        adv_estimator="tokengym_loo",
        config=SimpleNamespace(gamma=1.0),
    )
    assert torch.allclose(
        advantages, torch.tensor([ADVANTAGES[0], [0.0, *ADVANTAGES[1]]]), atol=1e-5
    )
