"""Warnings while a policy learns."""

import logging
import math
import re
from typing import Any

import pytest

from tokengym.agents.ppo.alarms import RoundStats, TrainingAlarms
from tokengym.envs import Episode

CALM: dict[str, Any] = {
    "update": 3,
    "clip_fraction": 0.1,
    "clip_range": 0.2,
    "group_size": 2,
    "learning_rate": 3e-3,
    "kl_coef": 0.05,
    "has_critic": False,
}
CALM_ROUND: dict[str, Any] = {
    "kl": 1.0,
    "kl_error": 0.1,
    "scores": [0.0, 1.0, 1.0, 0.0],
    "num_finished": 4,
    "tokens_per_row": 100.0,
}


def check(alarms: TrainingAlarms, **change: Any) -> None:
    played = CALM_ROUND | {name: change.pop(name) for name in CALM_ROUND if name in change}
    alarms.check(played=RoundStats(**played), **CALM | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, None),
        ({"clip_fraction": 0.6}, "60% of the ratios were clipped.*lower learning_rate from 0.003"),
        ({"clip_fraction": 0.6, "update": 9}, None),
        (
            {"clip_fraction": 0.99, "clip_range": 0.0},
            "99% of .* clipped, clip_range is 0 here; raise it",
        ),
        ({"kl": 325.0}, "update 3: the policy is 3.2 nats per token from its reference"),
        ({"kl": 325.0}, "lower learning_rate from 0.003 or raise kl_coef"),
        ({"kl": 325.0, "kl_coef": 0.0}, "from 0.003 or set kl_coef above 0"),
        ({"scores": [1.0, 1.0, 0.0, 0.0]}, "the scores within every group are equal"),
        ({"scores": [1.0, 1.0, 0.0, 0.0], "group_size": None}, None),
        ({"scores": [0.5, 0.5], "group_size": None}, "the scores of all responses are equal"),
        ({"scores": []}, None),
        (
            {"scores": [0.5, 0.5], "group_size": None, "has_critic": True},
            "updates follow the errors of the values",
        ),
    ],
)
def test_each_is_said_once(change, message, caplog):
    alarms = TrainingAlarms()
    for _ in range(2):
        check(alarms, **change)
    assert len(caplog.messages) == (message is not None)
    if message is not None:
        assert re.search(message, caplog.messages[0])
        assert "\n" not in caplog.messages[0]


@pytest.mark.parametrize(
    ("before", "message"),
    [
        ([0.0, 1.0], "all responses have the score 1, the highest so far; .* prompts are solved"),
        ([1.0, 1.5], "the scores within every group are equal"),  # higher ones exist
        ([1.0, 1.0], "the scores within every group are equal"),  # no lower one was seen
    ],
)
def test_solved_prompts_are_told_from_equal_scores(before, message, caplog):
    caplog.set_level(logging.INFO)
    alarms = TrainingAlarms()
    check(alarms, scores=before)
    check(alarms, scores=[1.0] * 4)
    assert re.search(message, caplog.messages[-1])
    assert len(caplog.messages) == 1
    alarming = "solved" not in message  # the highest score is news, and no alarm
    assert caplog.records[0].levelno == (logging.WARNING if alarming else logging.INFO)


LEAPS = {
    "first": (
        [0.0, 5.0, 5.2],
        [0.0, 0.2, 0.2],
        "update 1 moved .* from 0.00 to 5.00 nats per resp",
    ),
    "later": ([0.0, 0.9, 5.4], [0.0, 0.1, 0.1], "update 2 moved the policy from 0.90 to 5.40 nats"),
    "a share": ([18.0, 23.0], [0.0, 0.0], None),  # more than 4 nats, less than a quarter of 23
    "noise": ([0.0, 4.7], [0.0, 0.4], None),
    "4 nats": ([0.0, 4.0, 8.0], [0.0, 0.0, 0.0], None),
    "back": ([9.0, 5.0], [0.0, 0.0], None),
    "one row": ([0.0, 5.0], [math.nan, math.nan], None),
    "loaded": ([9.0], [0.1], None),  # what it was before is not known
}


@pytest.mark.parametrize("case", LEAPS)
def test_an_update_that_leaps_is_told(case, caplog):
    kls, errors, message = LEAPS[case]
    alarms = TrainingAlarms()
    for update, (kl, error) in enumerate(zip(kls, errors, strict=True), 1):
        check(alarms, update=update, kl=kl, kl_error=error)
    assert len(caplog.messages) == (message is not None)
    if message is not None:
        assert re.search(message, caplog.messages[0])
        assert "set n_warmup_updates or target_kl" in caplog.messages[0]


@pytest.mark.parametrize(
    ("reasons", "share"),
    [
        (["eos", "stop", "stop", "length"], "75%"),
        (["eos", "stop", "length", "length"], None),  # no more than half
        (["length"] * 4, None),
    ],
)
def test_a_low_lambda_is_told_where_most_responses_end_by_themselves(reasons, share, caplog):
    of_one: Any = {"prompt_ids": [3], "response_ids": [4], "prompt": "a", "response": "b"}
    ended = [Episode(**of_one, finish_reason=reason) for reason in reasons]
    TrainingAlarms().check_lambda(0.5, "abc", ended)
    TrainingAlarms().check_lambda(0.95, "abc", ended)  # the usual one
    assert len(caplog.messages) == (share is not None)
    if share is not None:
        assert re.search(f"'abc' declares gae_lambda=0.5, .*; {share} of", caplog.text)


def test_a_learner_says_it(make_ppo, caplog):
    agent = make_ppo(learning_rate=1.0, n_epochs=2)
    for _ in range(2):
        played: Any = agent.collect()
        agent.learn_from(played)
    assert "lower learning_rate from 1" in caplog.text
