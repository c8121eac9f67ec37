"""The public packages of the suite, and the reference page of their names."""

import ast
import importlib
import inspect
from itertools import pairwise
from pathlib import Path

PUBLIC = {
    "tokengym": "What most scripts need.",
    "tokengym.envs": "Environments, tasks, prompts and episodes.",
    "tokengym.rewards": "Rewards, credit rules and scorers, and what new ones are made of.",
    "tokengym.rewards.maths": "Formulas of the rules: numpy arrays in and out.",
    "tokengym.rewards.models": "Loading, batching and reading of the models behind scorers.",
    "tokengym.rewards.gold": "Scores of the bundled tasks that no reward sees.",
    "tokengym.rewards.pairs": "Data of preferences: read, encoded and stored.",
    "tokengym.agents": "Learners and players, and how a learner is declared.",
    "tokengym.agents.losses": "Losses and advantages: torch tensors in and out.",
    "tokengym.agents.offline": "Learning from data, and collecting them.",
    "tokengym.agents.ppo": "Settings of PPO; advantage estimators and weights by name.",
    "tokengym.agents.rollouts": "Rounds of one episode per row.",
    "tokengym.agents.sb3": "The bridge to stock Stable-Baselines3.",
    "tokengym.evaluation": "One training run.",
    "tokengym.evaluation.measure": "Measurements of a policy.",
    "tokengym.evaluation.statistics": "Statistics of curves and scores.",
    "tokengym.evaluation.runs": "Runs and comparisons: settings, folders and results.",
    "tokengym.evaluation.report": "Reports: tables, charts and words.",
    "tokengym.bridges": "What the doors to other trainers share.",
    "tokengym.base": "Files, settings, registries, devices and stored models.",
    "tokengym.scripts.commands": "What a command of another package is made of.",
}
"""Packages whose exported names are kept: all that another package should import."""


def homes_of(package: str) -> dict[str, str]:
    """Return the names that a package exports, and the module that defines each."""
    module = importlib.import_module(package)
    tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
    imported = {
        alias.asname or alias.name: f"{node.module}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    return {name: imported[name] for name in sorted(module.__all__) if name in imported}


def page(notice: str) -> str:
    """Return the reference page, markdown.

    Args:
        notice: Its first line.
    """
    blocks = [
        notice,
        "# Public names",
        "A package that adds tasks, rules, scorers, learners or commands imports these names and "
        "no others: modules below the packages may change. Each is loaded when it is first used. "
        "`tokengym-lab` and the studies are written so, and a test holds them to it. "
        "[Extending tokengym](../../extending.md) has the recipes.",
    ]
    for package, said in PUBLIC.items():
        rows = [
            f"| `{name}` | {summary_of(home, name).replace('|', chr(92) + '|')} |"
            for name, home in homes_of(package).items()
            if not name.startswith("__")
        ]
        table = "\n".join(["| name | what it is |", "| --- | --- |", *rows])
        blocks += [f"## `{package}`", said, table.replace("``", "`")]
    return "\n\n".join(blocks) + "\n"


def summary_of(home: str, name: str) -> str:
    """Return the first sentence of a docstring, a constant's included."""
    module = importlib.import_module(home)
    value = getattr(module, name)
    if inspect.isclass(value) or inspect.isroutine(value) or inspect.ismodule(value):
        text = inspect.getdoc(value) or ""
    else:
        text = _said_of(home, name)
    return " ".join(text.partition("\n\n")[0].split())


def _said_of(home: str, name: str) -> str:
    """Return what stands below a constant, in the module that defines it."""
    source = Path(str(importlib.import_module(home).__file__)).read_text(encoding="utf-8")
    body = ast.parse(source).body
    for node in body:
        if isinstance(node, ast.ImportFrom) and node.module != home:
            for alias in node.names:
                if name == (alias.asname or alias.name):
                    return _said_of(str(node.module), alias.name)
    for node, after in pairwise(body):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        is_named = any(isinstance(target, ast.Name) and target.id == name for target in targets)
        if is_named and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            return str(after.value.value)
    return ""
