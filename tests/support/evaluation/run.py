"""The smallest run of a learner from preferences."""

from typing import Any

from tests.support.comparisons import comparison
from tokengym.evaluation.runs.comparison import Comparison
from tokengym.evaluation.runs.defaults import training_settings
from tokengym.evaluation.runs.settings import EvaluationSettings

SMALL: dict[str, Any] = {"n": 4, "batch_size": 8, "learning_rate": 1e-3}


def config(agent: str, evaluation: EvaluationSettings | None = None, **changes) -> Comparison:
    return comparison(
        env="MovieReview",
        rewards=("sparse",),
        training=training_settings("tokengym/MovieReview-v0", agent, max_new_tokens=8, **changes),
        evaluation=evaluation or EvaluationSettings(episodes=16),
    )
