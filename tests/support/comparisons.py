"""Comparisons of settings that a test has at hand as dataclasses."""

from typing import Any

from tokengym.agents.learner import LEARNERS
from tokengym.base.settings import explicit, field_paths, keywords_of
from tokengym.evaluation.measure.environments import resolve_env
from tokengym.evaluation.runs.comparison import Comparison
from tokengym.evaluation.runs.decide import OF_LENGTH, decide
from tokengym.evaluation.runs.defaults import options_of, training_settings
from tokengym.evaluation.runs.settings import EvaluationSettings, TaskSettings, TrainingSettings


def comparison(
    env: str | None = None,
    *,
    training: TrainingSettings | None = None,
    evaluation: EvaluationSettings | None = None,
    task: TaskSettings | None = None,
    **asked: Any,
) -> Comparison:
    """Return what `decide` makes of settings, each as if it had been given.

    Where learners are compared, settings of one learner count where they are not its defaults.
    """
    given = {**explicit(evaluation or EvaluationSettings()), **explicit(task or TaskSettings())}
    if training is not None:
        agents = asked.get("agents")
        found = [LEARNERS.find(LEARNERS.parse(word)) for word in agents or [training.agent]]
        known = keywords_of({one.name: options_of(one) for one in found})
        usual = training_settings(resolve_env(env), training.agent) if agents else None
        defaults = {leaf.path: leaf.value for leaf in field_paths(usual)} if usual else {}
        for leaf in options_of(training.declaration).leaves():
            (value,) = (one.value for one in field_paths(training) if one.path == leaf.path)
            is_given = len(leaf.path) == 1 or value != defaults.get(leaf.path, object())
            if leaf.path[-1] in OF_LENGTH and training.tokens is not None:
                continue  # it has no effect
            if is_given and leaf.flag and leaf.keywords[0] in known:
                given[leaf.keywords[0]] = value
        asked |= {} if agents else {"agent": training.agent}
    return decide(
        env, **asked, **{name: value for name, value in given.items() if value is not None}
    )


def trainings(made: Comparison) -> dict[str, TrainingSettings]:
    """Return the settings of training by the names of the arms."""
    return {run.name: run.training for run in made.runs}
