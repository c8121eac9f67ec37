"""A comparison of agents by name."""

from tests.support.comparisons import comparison
from tokengym.base.settings import changed
from tokengym.evaluation.runs.comparison import Comparison
from tokengym.evaluation.runs.defaults import training_settings
from tokengym.evaluation.runs.settings import EvaluationSettings

ENV = "tokengym/MovieReview-v0"


TRAINING = changed(
    training_settings(ENV), batch_size=4, max_new_tokens=6, n_epochs=1, fixed_length=True
)


BUDGET = 100


def learners(*agents: str, **changes: object) -> Comparison:
    settings: dict[str, object] = {
        "env": ENV,
        "rewards": ("sparse",),
        "agents": agents,
        "seeds": 1,
        "training": changed(TRAINING, tokens=BUDGET),
        "evaluation": EvaluationSettings(every=2, episodes=4, samples=1, reference_samples=0),
    }
    return comparison(**{**settings, **changes})  # type: ignore[arg-type]
