"""Entry points of installed packages, tokengym-lab among them, and what our own packages export.

The laboratory is a distribution of its own. Where it is installed, what it adds is found by entry
points like anyone's; where it is not, the suite knows these names, to say what to install.
"""

import ast
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import EntryPoint, PackageNotFoundError, distribution, entry_points
from typing import Any

INSTALL = "pip install tokengym-lab (in a checkout: pip install ./lab)"
"""Command that installs the laboratory."""
UPGRADE = "pip install --upgrade tokengym-lab (in a checkout: pip install ./lab)"
"""Command that brings it up to date."""
LABORATORY: dict[str, tuple[str, ...]] = {
    "tasks": ("Forks", "Oracle", "ReasoningGym"),
    "rewards": (
        *("abc-d", "abc-d2", "answer-gain", "attribution", "mc", "prm", "pure", "rto", "scar"),
        *("turn-broadcast", "turn-gain", "turn-progress", "turn-return", "turn-score"),
    ),
    "scorers": ("judge", "preference-model", "reasoning-gym", "vader"),
    "readings": ("deeplift", "gradient", "integrated-gradients"),
    "agents": ("best-of-n", "nlpo", "online-dpo", "raft"),
    "estimators": ("gigpo", "gigpo-prefix", "turn-auxiliary", "turn-returns"),
    "partners": ("calculator", "gem", "higher-lower", "textarena", "turn-forks", "user"),
    "weights": (
        *("constant", "entropy", "gtpo", "oar", "policy-attention", "position", "random"),
        *("reward-attention", "rsi", "self-teacher", "teacher"),
    ),
    "gold": ("forks", "oracle"),
    "models": ("minilm", "smollm2"),
    "commands": (
        *(
            "train-reward",
            "collect",
            "label",
            "constitution",
            "replay",
            "explore",
            "bench",
            "audit",
        ),
        "push",
    ),
    "names": (
        *("BestOfN", "Explorer", "NLPO", "OnlineDPO", "RAFT", "from_hub", "push_to_hub", "replay"),
        *("train_preference_model", "train_reward_model"),
        *("agents.BestOfN", "agents.NLPO", "agents.OnlineDPO", "agents.RAFT"),
        *("agents.policy_table", "agents.value_table"),
        *("envs.ExactValues", "envs.ForksEnv", "envs.ForksVectorEnv"),
        *("envs.OracleEnv", "envs.OracleVectorEnv", "envs.PolicyError", "envs.StateTable"),
        *("rewards.ABCD", "rewards.ABCD2", "rewards.Attribution", "rewards.SCAR"),
        *("rewards.Judge", "rewards.PreferenceModel", "rewards.RewardTraining", "rewards.Vader"),
        *("rewards.train_preference_model", "rewards.train_reward_model"),
    ),
}
"""Names that the laboratory adds, by the group of its entry points, ``tokengym.<group>``."""


def plugins(group: str, name: str | None = None) -> list[EntryPoint]:
    """Return the entry points of ``tokengym.<group>``, all or those of one name."""
    points = entry_points(group=f"tokengym.{group}")
    return [point for point in points if name is None or point.name == name]


def missing_laboratory(group: str, name: str) -> str:
    """Return what to install for a name of the laboratory; "" where that is not what is missing."""
    if name not in LABORATORY.get(group, ()) or plugins(group, name):
        return ""
    try:
        distribution("tokengym-lab")
    except PackageNotFoundError:
        return f"{name!r} is part of tokengym-lab, which is not installed: {INSTALL}"
    return (
        f"{name!r} is part of tokengym-lab, which is installed, but older than this; install it "
        f"again: {UPGRADE}"
    )


# --- names that a package exports -----------------------------------------------------------------


def lazily(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Return ``__getattr__``, ``__dir__`` and ``__all__`` of a package.

    It exports what the block ``if TYPE_CHECKING`` of its ``__init__.py`` imports. Editors and type
    checkers read that block; here it is read as text, and each name is imported when it is first
    used: torch alone takes seconds. Names that installed packages add are found too.

    Args:
        package: Its full name; it is being imported.
    """
    module = sys.modules[package]
    loader: Any = module.__spec__ and module.__spec__.loader
    homes = {
        alias.name: f"{node.module}"
        for block in ast.parse(loader.get_source(package)).body
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }

    def find(name: str) -> Any:
        if name not in homes:
            return _plugged(package, name)
        if homes[name] == package:  # a module of the package, which becomes its attribute
            return import_module(f"{package}.{name}")
        value = getattr(import_module(homes[name]), name)
        setattr(module, name, value)  # looked up once
        return value

    def listed() -> list[str]:
        prefix = f"{package}.".removeprefix("tokengym.")
        added = (point.name for point in plugins("names") if point.name.startswith(prefix))
        added = (name.removeprefix(prefix) for name in added)
        return sorted({*vars(module), *homes, *(name for name in added if "." not in name)})

    return find, listed, sorted(homes)


def _plugged(module: str, name: str) -> Any:
    """Return a name that an installed package adds to a package of tokengym.

    Raises:
        ImportError: if it is the laboratory's, which is not installed.
        AttributeError: if nobody has it.
    """
    full = f"{module}.{name}".removeprefix("tokengym.")
    if not name.startswith("__"):
        for point in plugins("names", full):
            value = point.load()
            setattr(sys.modules[module], name, value)  # looked up once
            return value
        if missing := missing_laboratory("names", full):
            raise ImportError(missing.replace(repr(full), f"tokengym.{full}"))
    raise AttributeError(f"module {module!r} has no attribute {name!r}")
