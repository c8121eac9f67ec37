"""The Oracle's optimum, as a report draws it."""

from typing import Any

import gymnasium as gym

from tests.support.comparisons import comparison
from tokengym.evaluation.runs.training import known_optimum


def optimum(env: str, **settings: Any) -> dict[str, float]:
    (spec,) = comparison(env, rewards="sparse", **settings).runs
    return known_optimum(spec.evaluator().envs)


def test_the_oracle_knows_its_optimum():
    assert optimum("MovieReview") == {}
    oracle: Any = gym.make("tokengym/Oracle-v0", max_new_tokens=3).unwrapped
    best = oracle.optimal_values()[0][()]
    assert optimum("Oracle", max_new_tokens=3) == {"gold_score": best}
    assert optimum("Oracle", max_new_tokens=12) == {}
