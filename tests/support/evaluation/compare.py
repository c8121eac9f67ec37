"""The smallest comparison that trains."""

from rich.console import Console

from tests.support.comparisons import comparison
from tokengym.base.settings import changed
from tokengym.evaluation.runs.comparison import Comparison
from tokengym.evaluation.runs.settings import EvaluationSettings, TrainingSettings

QUIET = Console(quiet=True)


TRAINING = changed(
    TrainingSettings(), steps=2, batch_size=4, max_new_tokens=6, n_epochs=1, fixed_length=True
)


EVALUATION = EvaluationSettings(every=1, episodes=4, samples=2, reference_samples=16)


def tiny(**changes) -> Comparison:
    settings = {
        "env": "MovieReview",
        "rewards": ("sparse", "abc"),
        "seeds": 2,
        "training": TRAINING,
        "evaluation": EVALUATION,
    }
    return comparison(**{**settings, **changes})
