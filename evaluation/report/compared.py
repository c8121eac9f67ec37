"""What was compared, in sentences as task, rewards and learners declare them.

A file of the user's own is read and not run.
"""

import ast
import sys
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from tokengym.agents.learner import LEARNERS, find_learner
from tokengym.base.own_code import definitions
from tokengym.base.registry import Spec
from tokengym.base.saved_code import display_name
from tokengym.envs import Task
from tokengym.evaluation.measure.environments import task_name
from tokengym.rewards.credits.words import REWARDS

PAGES = {"rewards": "rewards/credits.md", "agents": "agents/learners.md"}
"""Pages of the documentation, in its folder, that describe the bundled rewards and learners."""
OF_AGENT = {"ppo": "how_ppo_works", "dpo": "dpo", "online-dpo": "dpo", "sft": "dpo"}
"""Pages of learners that have one of their own."""


class RunWords(NamedTuple):
    """Words that a run was asked for by, each taken apart."""

    env: Spec
    reward: Spec
    agent: Spec
    estimator: Spec | None = None
    """That of the agent, where it is of a file of the user's."""


def compared(runs: Iterable[RunWords]) -> dict[str, Any]:
    """Return the sentences on what runs compared, by the names in their results.

    ``task``, ``rewards`` and ``agents`` have by name a ``summary`` of one sentence, and the
    ``page`` that says more; both are empty where there is none.

    Args:
        runs: Their words.
    """
    found: dict[str, dict[str, Mapping[str, str]]] = {"task": {}, "rewards": {}, "agents": {}}
    for env, reward, agent, estimator in runs:
        task, name = Task.of(env.text), task_name(env)
        is_bundled = task is not None and isinstance(task.bundle, str)
        page = f"environments/{name.lower()}.md" if is_bundled else ""
        found["task"][name] = _entry(task.summary if task else "", page)
        found["rewards"][display_name(reward)] = about_reward(reward)
        # What an own estimator learns from is its own to say.
        found["agents"][display_name(agent)] = _of_file(estimator) if estimator else _agent(agent)
    return found


def about_reward(word: Spec) -> dict[str, str]:
    """Return the first sentence of a reward's documentation, and its page.

    It is what reports, `tokengym train --list` and `tokengym demo` say of the reward.

    Args:
        word: The user's word for it, taken apart.
    """
    if word.file is not None:
        return _of_file(word)
    try:
        maker = REWARDS.find(word).factory
    except ValueError:  # of a package that is not here, or an object of another process
        return _entry("")
    is_ours = maker.__module__.startswith("tokengym.")
    return _entry(maker.__doc__, PAGES["rewards"] if is_ours else "")


def _agent(word: Spec) -> dict[str, str]:
    """Return the first sentence of a learner's documentation, and its page."""
    if word.file is not None:
        return _of_file(word)
    name = word.without_options
    package, colon, _ = name.partition(":")
    if colon and package not in LEARNERS.packages and package not in sys.modules:
        return _entry("")
    try:
        summary = find_learner(name).summary
    except ValueError:
        return _entry("")
    of_agent = OF_AGENT.get(name)
    said = f"{summary[:1].upper()}{summary[1:].removesuffix('.')}."
    return _entry(said, f"agents/{of_agent}.md" if of_agent else PAGES["agents"])


def _of_file(word: Spec) -> dict[str, str]:
    """Return the first sentence on an object of a file of the user's."""
    assert word.file is not None
    for definition in definitions(word.file):
        if definition.name == word.name:
            return _entry(ast.get_docstring(definition))
    return _entry("")


def _entry(text: str | None, page: str = "") -> dict[str, str]:
    first = " ".join((text or "").strip().partition("\n\n")[0].split())
    return {"summary": first.replace("``", "").replace("`", ""), "page": page}
