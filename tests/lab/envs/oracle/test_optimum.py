"""The Oracle's optimum, as a report draws it."""

from typing import Any

import gymnasium as gym

from tokengym.base.settings import changed
from tokengym.evaluation.runs.config import ComparisonConfig
from tokengym.evaluation.runs.defaults import TrainingSettings
from tokengym.evaluation.runs.results import known_optimum


def test_the_oracle_knows_its_optimum():
    assert known_optimum(ComparisonConfig(env="MovieReview", rewards=("sparse",))) == {}
    training = changed(TrainingSettings(), max_new_tokens=3)
    config = ComparisonConfig(env="Oracle", rewards=("sparse",), training=training)
    oracle: Any = gym.make("tokengym/Oracle-v0", max_new_tokens=3).unwrapped
    best = oracle.optimal_values()[0][()]
    assert known_optimum(config) == {"gold_score": best}
    long = ComparisonConfig(
        env="Oracle", rewards=("sparse",), training=changed(TrainingSettings(), max_new_tokens=12)
    )
    assert known_optimum(long) == {}
