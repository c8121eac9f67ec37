"""What a comparison compared, in sentences: its task, rewards and learners, as they declare it.

A file of the user's own is read and not run, so that a report of stored runs executes nothing.
"""

import ast
from collections.abc import Iterable, Mapping
from typing import Any

from tokengym.base.own_code import definitions
from tokengym.base.registry import Spec
from tokengym.base.saved_code import display_name
from tokengym.envs import Task
from tokengym.evaluation.runs.config import ComparisonConfig
from tokengym.evaluation.runs.defaults import task_name
from tokengym.rewards.credits.base import REWARDS

PAGES = {"rewards": "rewards/credits.md", "agents": "agents/learners.md"}
"""Pages of the documentation, in its folder, that describe the bundled rewards and learners."""
OF_AGENT = {"ppo": "how_ppo_works", "dpo": "dpo", "online-dpo": "dpo", "sft": "dpo"}
"""Pages of learners that have one of their own."""


def compared(configs: Iterable[ComparisonConfig]) -> dict[str, Any]:
    """Return the sentences on what comparisons compared, by the names in their results.

    ``task``, ``rewards`` and ``agents`` have by name a ``summary`` of one sentence, and the
    ``page`` that says more; both are empty where there is none.
    """
    found: dict[str, dict[str, Mapping[str, str]]] = {"task": {}, "rewards": {}, "agents": {}}
    for config in configs:
        task, name = Task.of(config.env), task_name(config.env)
        is_bundled = task is not None and isinstance(task.bundle, str)
        page = f"environments/{name.lower()}.md" if is_bundled else ""
        found["task"][name] = _entry(task.summary if task else "", page)
        for run in config.runs:
            found["rewards"][display_name(run.reward)] = _reward(run.reward)
            learner = run.training.declaration
            of_agent = OF_AGENT.get(learner.name)
            page = f"agents/{of_agent}.md" if of_agent else PAGES["agents"]
            page = "" if run.agent.file else page
            found["agents"][display_name(run.agent)] = _entry(learner.summary, page)
    return found


def _reward(word: Spec) -> dict[str, str]:
    """Return the first sentence of a reward's documentation, and its page."""
    if word.file is None:
        maker = REWARDS.find(word).factory
        is_ours = maker.__module__.startswith("tokengym.")
        return _entry(maker.__doc__, PAGES["rewards"] if is_ours else "")
    for definition in definitions(word.file):
        if definition.name == word.name:
            return _entry(ast.get_docstring(definition))
    return _entry("")


def _entry(text: str | None, page: str = "") -> dict[str, str]:
    first = " ".join((text or "").strip().partition("\n\n")[0].split())
    return {"summary": first.replace("``", "").replace("`", ""), "page": page}
