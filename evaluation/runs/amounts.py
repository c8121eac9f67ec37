"""How much is measured where nobody says it: at most a third of all responses."""

from collections.abc import Sequence
from dataclasses import replace

from tokengym.evaluation.measure.measures import BLOCK
from tokengym.evaluation.runs.defaults import EvaluationSettings, TrainingSettings

EVERY, EPISODES, SAMPLES = 3, 128, 64
"""Updates between two evaluations, prompts of each, and reference samples to each prompt, where the
budget allows for them."""
FEWEST = 16
"""Prompts of an evaluation, however small the budget is."""
SHARE = 1 / 3
"""Largest share of all responses that measuring takes."""


def amounts(
    given: EvaluationSettings, training: TrainingSettings, *, is_alone: bool = False
) -> EvaluationSettings:
    """Return settings of evaluation with what was left open chosen by the budget of a run.

    Measuring takes at most a third of all responses, counted as if all were of full length. The
    choice follows from one run's budget, not from how many runs there are, so that rewards and
    seeds can be added, and comparisons that are made apart can be merged. Prompts are fewer before
    reference samples are, of which 16 to each prompt are always drawn.
    Evaluations are further apart only where the budget is too small for `FEWEST` prompts.
    What is not None in ``given`` stays. A run that ``is_alone`` shares its reference samples with
    no other.

    Example: two runs of 30 updates of 64 episodes; 2 * 11 * 48 + 16 * 48 = 1824 of 5664 responses.
        >>> found = amounts(EvaluationSettings(), TrainingSettings())
        >>> found.every, found.episodes, found.reference_samples
        (3, 48, 16)
    """
    runs = 1 if is_alone else 2
    budget = runs * (_responses(training) or 0) * SHARE / (1.0 - SHARE)
    samples = BLOCK if given.reference_samples is None else given.reference_samples
    every = given.every or EVERY

    def affordable(every: int) -> int:
        points = _evaluations(replace(given, every=every), training)
        return int(budget / (runs * points + samples)) // BLOCK * BLOCK

    if budget == 0.0:  # nobody knows it before
        episodes, most = given.episodes or EPISODES, SAMPLES
    else:
        while given.every is None and affordable(every) < FEWEST and every < training.steps:
            every *= 2
        episodes = given.episodes or min(max(affordable(every), FEWEST), EPISODES)
        points = _evaluations(replace(given, every=every), training)
        left = int(budget / episodes - runs * points) // BLOCK * BLOCK
        most = min(max(left, BLOCK), SAMPLES)
    samples = most if given.reference_samples is None else samples
    return replace(given, every=every, episodes=episodes, reference_samples=samples)


def _responses(training: TrainingSettings) -> int | None:
    """Return how many responses a run learns from; None if that is not known before."""
    if training.declaration.is_frozen:
        return 0
    if training.tokens is not None:
        return training.tokens // training.lengths()["max_new_tokens"]
    return training.steps * training.batch_size if training.declaration.uses_credit else None


def _evaluations(evaluation: EvaluationSettings, training: TrainingSettings) -> int:
    """Return how often a run is measured."""
    learner = training.declaration
    if learner.is_frozen:
        return 2
    if not learner.uses_credit:  # it is measured after each epoch or iteration
        return max(round(training.values[learner.steps_setting]), 1) + 1
    steps = training.steps
    if training.tokens is not None:
        steps = -(-(_responses(training) or 1) // training.batch_size)
    return sum(evaluation.is_due(step) or step == steps for step in range(steps + 1))


def in_words(
    evaluation: EvaluationSettings, trainings: Sequence[TrainingSettings], seeds: int
) -> str:
    """Return what is measured, and the share of all responses that it takes."""
    trained, takes = [_responses(training) for training in trainings], ""
    known = [responses for responses in trained if responses is not None]
    if len(known) == len(trained):
        points = sum(_evaluations(evaluation, training) for training in trainings)
        count = (evaluation.episodes or 0) * (seeds * points + (evaluation.reference_samples or 0))
        share = count / (count + seeds * sum(known))
        takes = f"measuring takes {share:.0%} of all responses: "
    every = evaluation.every or EVERY
    is_short = all(one.tokens is None and one.steps <= every for one in trainings)
    when = "before and after training" if is_short else f"every {every} updates"
    return (
        f"{takes}{evaluation.episodes} prompts {when}, and {evaluation.reference_samples} "
        "reference samples to each"
    )
