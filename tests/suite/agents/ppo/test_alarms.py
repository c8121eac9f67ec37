"""Warnings while a policy learns."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from tokengym.agents import PPO
from tokengym.agents.ppo.objective import Alarms

CALM: dict[str, Any] = {
    "update": 3,
    "clip_fraction": 0.1,
    "kl_per_token": 0.1,
    "scores": [0.0, 1.0, 1.0, 0.0],
    "group_size": 2,
    "learning_rate": 3e-3,
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, None),
        ({"clip_fraction": 0.6}, "60% of the ratios were clipped.*lower learning_rate from 0.003"),
        ({"clip_fraction": 0.6, "update": 9}, None),
        ({"kl_per_token": 3.25}, "update 3: the policy is 3.2 nats per token from its reference"),
        ({"scores": [1.0, 1.0, 0.0, 0.0]}, "the scores within every group are equal"),
        ({"scores": [1.0, 1.0, 0.0, 0.0], "group_size": None}, None),
        ({"scores": [0.5, 0.5], "group_size": None}, "the scores of all responses are equal"),
        ({"scores": []}, None),
    ],
)
def test_each_is_said_once(
    change: dict[str, Any], message: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    alarms = Alarms()
    for _ in range(2):
        alarms.check(**{**CALM, **change})
    assert len(caplog.messages) == (message is not None)
    if message is not None:
        assert re.search(message, caplog.messages[0])
        assert "\n" not in caplog.messages[0]


def test_a_learner_says_it(make_ppo: Callable[..., PPO], caplog: pytest.LogCaptureFixture) -> None:
    agent = make_ppo(learning_rate=1.0, n_epochs=2)
    for _ in range(2):
        played: Any = agent.collect()
        agent.learn_from(played)
    assert "lower learning_rate from 1" in caplog.text
