"""What a command's words, and a call's keywords, stand for: the settings of a comparison.

Both have the fields of the same dataclasses by name. Their defaults depend on some of them, such as
the task and the learner.
"""

from collections.abc import Mapping, Sequence
from numbers import Number
from pathlib import Path
from typing import Any

from tokengym.agents.learner import LEARNERS, find_learner
from tokengym.agents.learner import word_of as word_of_agent
from tokengym.base.errors import SettingsError
from tokengym.base.objects import keep, word_of
from tokengym.base.registry import did_you_mean
from tokengym.base.settings import Chosen, FieldPath, with_values
from tokengym.evaluation.measure.environments import resolve_env
from tokengym.evaluation.runs.config import ComparisonConfig
from tokengym.evaluation.runs.defaults import (
    CREDIT_SETTINGS,
    EvaluationSettings,
    TaskSettings,
    TrainingSettings,
    bundle_settings,
    training_settings,
    with_prompt_column,
)

Groups = Mapping[str, Any]


def run_settings(
    env: str | None,
    agent: str,
    bundle: str,
    pairs: str | None = None,
    own: Groups | None = None,
    **evaluation: Any,
) -> dict[str, Any]:
    """Return the default settings of what trains: the task's and the learner's.

    Args:
        env: Environment id, or a task's bare name; None leaves it to `resolve_env`.
        agent: Name of the learner.
        bundle: Name or folder of the bundle, whose own defaults go before the task's; "" for none.
        pairs: File of pairs to learn from, on which the default of the length depends.
        own: The texts of --dataset, --scorer and the reward, as `resolve_env` takes them.
        evaluation: Settings of evaluation that the command has other defaults for.
    """
    # Of a learner that takes none the option is refused as any unknown one.
    data = {"pairs": pairs} if "pairs" in find_learner(agent).default_values() else {}
    training = training_settings(resolve_env(env, bundle, own), agent, bundle=bundle, **data)
    learner = training.declaration
    without = {f"learner.{name}" for name in (*learner.fixed, *learner.idle)}
    without |= set(learner.unused) | (set() if learner.uses_credit else CREDIT_SETTINGS)
    of_bundle = bundle_settings(bundle, "evaluation")
    has_pairs_alone = data.get("pairs") is not None and (own or {}).get("dataset") is None
    return {
        "training": Chosen(training, without=frozenset(without)),
        "evaluation": EvaluationSettings(**evaluation | of_bundle),
        # --prompt-column is then that of the pairs.
        "task": Chosen(TaskSettings(), frozenset({"prompt_column"} if has_pairs_alone else ())),
    }


def comparison_settings(
    env: str | None,
    agent: str,
    agents: tuple[str, ...],
    rewards: tuple[str, ...],
    bundle: str = "",
    dataset: str | None = None,
    scorer: str | None = None,
    reward_model: str | None = None,
    encoder: str | None = None,
    pairs: str | None = None,
) -> dict[str, Any]:
    """Return the default settings of a comparison, those of its first learner."""
    judges = {"scorer": scorer, "reward_model": reward_model, "encoder": encoder}
    own = {"dataset": dataset, "reward": rewards[0] if rewards else None, **judges}
    first = LEARNERS.parse(agents[0]).without_options if agents else agent
    return run_settings(env, first, bundle, pairs, own)


def comparison(
    env: str | None = None,
    rewards: tuple[str, ...] = (),
    agent: str = "ppo",
    agents: tuple[str, ...] = (),
    seeds: int = 5,
    first_seed: int = 0,
    *,
    training: TrainingSettings,
    evaluation: EvaluationSettings,
    task: TaskSettings,
) -> ComparisonConfig:
    """Return the comparison of a command's words and settings; see ``tokengym compare``."""
    if agents and agent != "ppo":
        raise ValueError(f"--agent {agent} has no effect beside --agents; leave one of them out")
    return ComparisonConfig(
        env=env or "",
        rewards=rewards,
        agents=agents,
        seeds=seeds,
        first_seed=first_seed,
        training=with_prompt_column(training, task),
        evaluation=evaluation,
        task=task,
    )


# --- keywords of a call ---------------------------------------------------------------------------


def comparison_of_keywords(
    env: str | None,
    rewards: object,
    agent: object,
    agents: object,
    seeds: int,
    first_seed: int,
    keywords: Mapping[str, Any],
) -> ComparisonConfig:
    """Return the comparison of a call's keywords; objects among them become words.

    Raises:
        TypeError: if there is no such keyword, with the near matches.
        ValueError: if a value is out of range.
    """
    reward_words = tuple(map(_word, _listed(rewards)))
    agent_words, first = tuple(map(_agent_word, _listed(agents))), _agent_word(agent)
    given = {name: _plain(value) for name, value in keywords.items() if value is not None}
    deciding = ("bundle", "dataset", "scorer", "reward_model", "encoder", "pairs")
    known = {name: str(given[name]) for name in deciding if name in given}
    defaults = comparison_settings(env, first, agent_words, reward_words, **known)
    groups = {name: Chosen.of(one) for name, one in defaults.items()}
    leaves = keywords_of(groups)
    for name in given:
        if name not in leaves:
            _refuse_keyword(name, (agent_words or (first,))[0], leaves)
    values: dict[str, dict[tuple[str, ...], Any]] = {name: {} for name in groups}
    for keyword, value in given.items():
        group, leaf = leaves[keyword]
        if leaf.path in values[group]:
            raise TypeError(f"compare() got {keyword!r} twice, by two of its names; leave one out")
        values[group][leaf.path] = value
    made = {name: with_values(one.settings, values[name]) for name, one in groups.items()}
    return comparison(env, reward_words, first, agent_words, seeds, first_seed, **made)


def keywords_of(groups: Mapping[str, Chosen]) -> dict[str, tuple[str, FieldPath]]:
    """Return the keywords of settings: the words of their options, each with its group and field.

    A field that no text can say, which is no option, has its own name.
    """
    known: dict[str, tuple[str, FieldPath]] = {}
    for group, chosen in groups.items():
        for leaf in chosen.leaves():
            for flag in (leaf.flag or leaf.path[-1], *leaf.aliases):
                known.setdefault(flag.replace("-", "_"), (group, leaf))
    return known


def _listed(given: Any) -> Sequence[Any]:
    """Return what was given as a sequence; a single word or object is one of one."""
    return given if isinstance(given, list | tuple) else (given,)


def _word(given: Any) -> str:
    return given if isinstance(given, str) else word_of(given)


def _agent_word(given: Any) -> str:
    """Return the word of an agent: its learner's name or its place, else one of this process."""
    try:
        return word_of_agent(given)
    except SettingsError:
        return keep(given)


def _plain(value: Any) -> Any:
    """Return a value as settings keep it; an object as the word that stands for it."""
    if not _is_plain(value):
        return word_of(value)
    return tuple(value) if isinstance(value, list) else value


def _is_plain(value: Any) -> bool:
    """Return whether a value is of numbers and texts alone; a dataclass may be a scorer."""
    if isinstance(value, list | tuple | Mapping):
        return all(map(_is_plain, value.values() if isinstance(value, Mapping) else value))
    return value is None or isinstance(value, str | Path | Number)


def _refuse_keyword(name: str, agent: str, known: Mapping[str, Any]) -> None:
    """Refuse a keyword that a comparison does not have."""
    owners = [one for one in LEARNERS.names() if name in find_learner(one).default_values()]
    if owners:
        raise TypeError(f"{name} has no effect on {agent}; it is a setting of {', '.join(owners)}")
    own = ("env", "rewards", "agent", "agents", "seeds", "first_seed", "out", "jobs", "executor")
    words = [*own, "checkpoint_every", "retry_failed", "track", "console", *known]
    hint = did_you_mean(name, words, shown={word: word for word in words})
    raise TypeError(
        f"compare() has no argument {name!r}; {hint}the arguments are the options of tokengym "
        "compare --help-all, with _ for -"
    )
