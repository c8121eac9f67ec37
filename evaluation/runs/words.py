"""What a command's words, and a call's keywords, stand for: the settings of a comparison.

Both have the fields of the same dataclasses by name. Their defaults depend on some of them, such as
the task and the learner.
"""

from collections.abc import Mapping, Sequence
from numbers import Number
from pathlib import Path
from typing import Any, TypedDict, get_type_hints

from typing_extensions import Unpack

from tokengym.agents.learner import LEARNERS, find_learner
from tokengym.agents.learner import word_of as word_of_agent
from tokengym.base.errors import SettingsError
from tokengym.base.objects import keep, word_of
from tokengym.base.registry import did_you_mean
from tokengym.base.settings import Chosen, filled, keywords_of, names_of
from tokengym.evaluation.measure.environments import resolve_env
from tokengym.evaluation.runs.config import ComparisonConfig
from tokengym.evaluation.runs.defaults import (
    EvaluationSettings,
    TaskSettings,
    TrainingSettings,
    bundle_settings,
    names_of_run,
    training_settings,
)

OF_FOLDERS = ("model", "reward_model", "encoder")
"""Settings that name stored models."""


class Sources(TypedDict, total=False):
    """Settings that decide the defaults of others, beside environment, learner and reward."""

    bundle: str | None
    dataset: str | None
    scorer: str | None
    reward_model: str | None
    encoder: str | None
    pairs: str | None


def run_settings(
    env: str | None,
    agent: str,
    reward: str | None,
    *,
    reference_samples: int | None = None,
    **sources: Unpack[Sources],
) -> dict[str, Any]:
    """Return the default settings of what trains: the bundle's, else the task's and the learner's.

    ``env`` and ``reward`` are words, None where they follow from the rest.
    """
    bundle, pairs = sources.pop("bundle", None), sources.pop("pairs", None)
    env_id = resolve_env(env, bundle, {**sources, "reward": reward})
    # Of a learner that takes none the option is refused as any unknown one. With pairs the length
    # of responses is left open.
    data = {"pairs": pairs} if "pairs" in find_learner(agent).default_values() else {}
    training = training_settings(env_id, agent, bundle=bundle, **data)
    learner = training.declaration
    without = {f"learner.{name}" for name in (*learner.fixed, *learner.idle)}
    without |= {*names_of(TrainingSettings)} - names_of_run(learner)
    of_bundle = bundle_settings(bundle, "evaluation")
    # Beside pairs alone --prompt-column is theirs.
    idle = {"prompt_column"} if data.get("pairs") and not sources.get("dataset") else set()
    return {
        "training": Chosen(training, without=frozenset(without)),
        "evaluation": EvaluationSettings(**{"reference_samples": reference_samples} | of_bundle),
        "task": Chosen(TaskSettings(), without=frozenset(idle)),
    }


def comparison_settings(
    env: str | None,
    agent: str,
    agents: tuple[str, ...],
    rewards: tuple[str, ...],
    **sources: Unpack[Sources],
) -> dict[str, Any]:
    """Return the default settings of a comparison, those of its first run."""
    if agents and agent != "ppo":
        raise ValueError(f"--agent {agent} has no effect beside --agents; leave one of them out")
    first = LEARNERS.parse(agents[0]).without_options if agents else agent
    return run_settings(env, first, rewards[0] if rewards else None, **sources)


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
    """Return the comparison of a call's keywords; objects among them become words."""
    reward_words = tuple(map(_word, _listed(rewards)))
    agent_words, first = tuple(map(_agent_word, _listed(agents))), _agent_word(agent)
    for name in OF_FOLDERS:
        if not isinstance(value := keywords.get(name), str | Path | None):
            raise TypeError(
                f"{name} must be a folder or a name, from which each run of a comparison begins "
                f"alike, got a {type(value).__name__}; write it into one by save_pretrained, with "
                "its tokenizer"
            )
    given = {name: _plain(value) for name, value in keywords.items() if value is not None}
    sources: Any = {name: str(given[name]) for name in get_type_hints(Sources) if name in given}
    defaults = comparison_settings(env, first, agent_words, reward_words, **sources)
    groups = {name: Chosen.of(one) for name, one in defaults.items()}
    known = keywords_of(groups)
    for name in given:
        if name not in known:
            _refuse_keyword(name, (agent_words or (first,))[0], known)
    return ComparisonConfig(
        env=env or "",
        rewards=reward_words,
        agents=agent_words,
        seeds=seeds,
        first_seed=first_seed,
        **filled(groups, given),
    )


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
