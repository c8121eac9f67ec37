"""The public packages of the suite, and the reference page of their names."""

import ast
import importlib
import textwrap
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


def page() -> str:
    """Return the site's page, markdown."""
    blocks = [
        "# Public names",
        "A package that adds tasks, rules, scorers, learners or commands imports these names and "
        "no others: modules below the packages may change. Each is loaded when it is first used. "
        "`help()` says what each is. `tokengym-lab` and the studies are written so, and a test "
        "holds them to it. [Extending tokengym](../../extending.md) has the recipes.",
    ]
    for package, said in PUBLIC.items():
        names = (f"`{name}`" for name in homes_of(package) if not name.startswith("__"))
        blocks += [f"## `{package}`", said, textwrap.fill(", ".join(names), 120)]
    return "\n\n".join(blocks) + "\n"
