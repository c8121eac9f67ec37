"""Where a default is decided: the settings of one learner on one task, and how much is measured.

A setting is, from the strongest: what was given, what the learner's name stands for, the bundle's,
the task's, the learner's, and the default where it is declared. What nobody said of measuring
follows from the budget: at most a third of all responses of two runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from typing_extensions import Unpack

from tokengym.agents.learner import LEARNERS, Learner, find_learner
from tokengym.base.bundle import Bundle, SettingsKind
from tokengym.base.errors import BundleError
from tokengym.base.settings import Chosen, changed, names_of
from tokengym.envs.tasks import Task
from tokengym.evaluation.measure.environments import resolve_env
from tokengym.evaluation.measure.measures import BLOCK, EPISODES
from tokengym.evaluation.runs.settings import (
    AGENT,
    CREDIT_SETTINGS,
    EvaluationSettings,
    TaskSettings,
    TrainingSettings,
)

OF_BUDGET = ("steps", "batch_size", "max_new_tokens")
"""Settings whose product is the tokens of a run in which all responses are of full length."""
COMMON = (*OF_BUDGET, "tokens")
"""Settings that learners which are compared have in common."""
Layer = tuple[str, Mapping[str, Any]]
"""Who decides settings where nothing was given, and their values by name."""


class LearnerSettings(NamedTuple):
    """Settings of one learner, and who decided those that were not given."""

    training: TrainingSettings
    by: Mapping[str, str]


def training_settings(
    env_id: str,
    agent: str | Learner = AGENT,
    *,
    bundle: Bundle | Path | str | None = None,
    **given: Any,
) -> TrainingSettings:
    """Return the settings of one learner on a task; what is None was not given.

    Args:
        env_id: Id of the environment.
        agent: The learner, or its name. A task's defaults for settings that are not the run's own
            are those of learners from token rewards.
        bundle: Itself, its name or folder, whose own defaults go before the task's; "" or None for
            none.
        given: Settings of the run or of the learner by name.

    Raises:
        ValueError: if a value is out of range.
        TypeError: if there is no setting of a name.
    """
    learner = find_learner(agent) if isinstance(agent, str) else agent
    known = {name: value for name, value in given.items() if value is not None}
    return settings_of(learner, layers_of(env_id, bundle), known).training


def layers_of(env_id: str, bundle: Bundle | Path | str | None) -> list[Layer]:
    """Return the settings of a task and a bundle, the stronger last."""
    task = Task.of(env_id)
    of_task = {} if task is None else {**task.options, **task.training}  # its length, wherever
    return [("the task", of_task), ("the bundle", bundle_settings(bundle, "training"))]


def bundle_settings(bundle: Bundle | Path | str | None, kind: SettingsKind) -> dict[str, Any]:
    """Return the settings whose defaults are a bundle's own; none of a folder that is no bundle."""
    try:
        return Bundle.of(bundle).settings(kind) if bundle else {}
    except BundleError:  # whoever makes the environment says what is wrong
        return {}


def evaluation_of(
    bundle: Bundle | Path | str | None, *, trains: bool = False
) -> EvaluationSettings:
    """Return the settings of evaluation where none was given; one training has 16 samples."""
    samples = {"reference_samples": BLOCK} if trains else {}
    return EvaluationSettings(**samples | bundle_settings(bundle, "evaluation"))


def default_rewards(env_id: str) -> tuple[str, ...]:
    """Return the default rewards of a task's comparison, whose first is that of one training."""
    task = Task.of(env_id)
    return Task.compare if task is None else task.compare


def strongest(layers: Sequence[Layer]) -> dict[str, tuple[str, Any]]:
    """Return settings by name: who decides each where nothing was given, and the value."""
    return {name: (who, value) for who, of in layers for name, value in of.items()}


def names_of_run(learner: Learner) -> set[str]:
    """Return the names of the run's own settings that a learner has."""
    idle = frozenset() if learner.uses_credit else CREDIT_SETTINGS
    return set(names_of(TrainingSettings)) - idle - set(learner.unused) - {"agent", "learner"}


def settings_of(
    learner: Learner, layers: Sequence[Layer], given: Mapping[str, Any]
) -> LearnerSettings:
    """Return a learner's settings, each from the strongest layer that has it."""
    of_run, values = names_of_run(learner), dict(learner.defaults)
    takes = of_run
    if learner.uses_credit and not learner.has_own_defaults:
        takes = of_run | (learner.default_values().keys() - learner.fixed.keys())
    by = dict.fromkeys(values, "the learner")
    for name, (who, value) in strongest(layers).items():
        if name in takes:
            values[name], by[name] = value, who
    values |= {**learner.fixed, **given}
    if values.get("pairs") and "max_new_tokens" not in given:
        values["max_new_tokens"] = None  # that of the data, where it is measured on their prompts
    of_learner = {name: value for name, value in values.items() if name not in of_run}
    made = TrainingSettings(
        agent=learner.name,
        learner=changed(learner.settings, **of_learner),
        **{name: value for name, value in values.items() if name in of_run},
    )
    return LearnerSettings(made, {name: who for name, who in by.items() if name not in given})


def options_of(
    learner: Learner,
    layers: Sequence[Layer] = (),
    given: Mapping[str, Any] | None = None,
    *,
    compares: bool = False,
) -> Chosen:
    """Return a learner's settings that have an effect, with the values that they have by default.

    Where it ``compares`` learners a batch is that of all, not of one learner's gradient.
    """
    without = {f"learner.{name}" for name in (*learner.fixed, *learner.idle)}
    without |= {f"learner.{name}" for name in (COMMON if compares else ())}
    without |= {*names_of(TrainingSettings)} - names_of_run(learner) - {"learner"}
    return Chosen(settings_of(learner, layers, given or {}).training, without=frozenset(without))


def common_settings() -> Chosen:
    """Return the settings that learners which are compared have in common, likewise."""
    others = frozenset({*names_of(TrainingSettings)} - {*COMMON})
    return Chosen(TrainingSettings(), without=others)


def groups_of(
    learner: Learner,
    sources: Mapping[str, Any],
    layers: Sequence[Layer] = (),
    *,
    evaluation: EvaluationSettings | None = None,
    compares: bool = False,
) -> dict[str, Chosen]:
    """Return all settings that have an effect on runs of a learner, likewise, by their groups.

    Among the ``sources`` are the data that it learns from: pairs alone name the column of prompts.
    """
    # Of a learner that takes none the option is refused as any unknown one.
    has_pairs = sources.get("pairs") and "pairs" in learner.default_values()
    data = {"pairs": sources["pairs"]} if has_pairs else {}
    idle = {"prompt_column"} if has_pairs and not sources.get("dataset") else set()
    return {
        "training": options_of(learner, layers, data, compares=compares),
        "evaluation": Chosen(evaluation or EvaluationSettings()),
        "task": Chosen(TaskSettings(), without=frozenset(idle)),
    }


# --- the options of a command ---------------------------------------------------------------------


class Sources(TypedDict, total=False):
    """Settings that decide the defaults of others, beside environment, learner and reward."""

    bundle: str | None
    dataset: str | None
    scorer: str | None
    reward_model: str | None
    encoder: str | None
    pairs: str | None


def options_of_run(
    env: str | None, agent: str, reward: str | None, **sources: Unpack[Sources]
) -> dict[str, Any]:
    """Return the settings that are options of one training, with the values that they would have.

    ``env`` and ``reward`` are words, None where they follow from the rest.
    """
    bundle = sources.get("bundle")
    layers = layers_of(resolve_env(env, bundle, {**sources, "reward": reward}), bundle)
    usual = evaluation_of(bundle, trains=True)
    learner = find_learner(LEARNERS.parse(agent).without_options)
    return dict(groups_of(learner, sources, layers, evaluation=usual))


def options_of_comparison(
    env: str | None,
    agent: str,
    agents: tuple[str, ...],
    rewards: tuple[str, ...],
    **sources: Unpack[Sources],
) -> dict[str, Any]:
    """Return the same of a comparison: those of all its learners, with the values of the first.

    Of several groups of one kind, the first word of their names is the kind.
    """
    bundle, reward = sources.get("bundle"), next(iter(rewards), None)
    layers = layers_of(resolve_env(env, bundle, {**sources, "reward": reward}), bundle)
    how: dict[str, Any] = {"evaluation": evaluation_of(bundle), "compares": bool(agents)}
    groups: dict[str, Any] = {}
    for index, word in enumerate(agents or (agent,)):
        learner = find_learner(LEARNERS.parse(word).without_options)
        found = groups_of(learner, sources, layers, **how)
        groups |= {f"{group} {index}" if index else group: one for group, one in found.items()}
    return groups | ({"training of all": common_settings()} if agents else {})


# --- how much is measured -------------------------------------------------------------------------


EVERY, SAMPLES = 3, 64
"""Updates between two evaluations, and reference samples to each prompt, where the budget allows
for them."""
FEWEST = 16
"""Prompts of an evaluation, however small the budget is."""
SHARE = 1 / 3
"""Largest share of all responses that measuring takes."""


def amounts(
    given: EvaluationSettings, training: TrainingSettings, *, is_alone: bool = False
) -> EvaluationSettings:
    """Return settings of evaluation with what was left open chosen by the budget of a run.

    Measuring takes at most a third of all responses of two runs, counted as if all were of full
    length. The choice follows from one run's budget, not from how many runs there are, so that
    rewards and seeds can be added, and comparisons that are made apart can be merged. Prompts are
    fewer before reference samples are, of which 16 to each prompt are always drawn.
    Evaluations are further apart only where the budget is too small for `FEWEST` prompts.
    What is not None in ``given`` stays. A run that ``is_alone``, to which none is added, shares its
    reference samples with no other: the third is of its own.

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
    is_short = not evaluation.every_until and all(
        one.tokens is None and one.steps <= every for one in trainings
    )
    if any(one.declaration.uses_credit for one in trainings):
        when = "before and after training" if is_short else f"every {every} updates"
    else:
        when = "before training and after each pass or iteration"
    return (
        f"{takes}{evaluation.episodes} prompts {when}, and {evaluation.reference_samples} "
        "reference samples to each"
    )
