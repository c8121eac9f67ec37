"""What is measured: a credit rule, an advantage estimator, a weight on it, or a policy loss."""

import ast
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal

from tokengym.agents.ppo import LOSSES, WEIGHTS
from tokengym.base import did_you_mean, split_file_word
from tokengym.envs import SettingsError
from tokengym.lab.gradients.oracle import estimator_names
from tokengym.rewards import NAMES, REWARDS

Kind = Literal["rule", "estimator", "weight", "loss", "function"]
BEFORE: Mapping[str, Kind] = {"weight:": "weight", "loss:": "loss"}
"""Before a subject of a kind that its name does not say."""
KINDS: Mapping[Kind, str] = {
    "rule": "a credit rule",
    "estimator": "an advantage estimator",
    "weight": "a weight on the advantage",
    "loss": "a policy loss",
    "function": "a function that estimates advantages",
}
HELD_BY: Mapping[Kind, str] = {
    "estimator": "hold it against the exact gradient: leave --v2 out, or tokengym audit {}",
    "weight": "hold it against the exact gradient: leave --v2 out",
    "loss": "hold it against exact gradients: leave --v2 out",
    "function": "hold it against exact gradients: tokengym audit {}",
}
"""What measures a subject that the board does not."""
OF_OTHERS = {"token_level_rewards", "rewards", "index"}
"""Parameters of other trainers' functions that estimate advantages."""


def kind_of(subject: str) -> Kind:
    """Return what a subject is.

    Args:
        subject: Name, options after a colon, or "path/to/file.py:Name"; "weight:" or
            "loss:" before it says what it is.
    """
    name = without_kind(subject)
    said = BEFORE.get(subject.removesuffix(name))
    if file_word := split_file_word(name):
        return said or _kind_in_file(*file_word[:2])
    if subject in estimator_names():
        return "estimator"
    word = name.partition(":")[0]
    named: dict[Kind, list[str]] = {"weight": WEIGHTS.names(), "loss": LOSSES.names()}
    for kind, names in named.items():
        if word in names and (word not in REWARDS.names() if said is None else said == kind):
            return kind
    known = {*REWARDS.names(), *estimator_names(), *WEIGHTS.names(), *LOSSES.names()}
    if said or word not in known:
        raise SettingsError(
            f"unknown subject {subject!r}; {did_you_mean(word, sorted(known), n=1)}bench takes "
            f"rules ({', '.join(REWARDS.names())}), estimators ({', '.join(estimator_names())}), "
            f"weights ({', '.join(WEIGHTS.names())}), losses ({', '.join(LOSSES.names())}) and "
            "path/to/file.py:Name"
        )
    return "rule"


def _kind_in_file(file: Path, name: str) -> Kind:
    """Return what a file's function is, by who supplies what it reads; nothing is run.

    One of advantages is a weight, with the log-probs before the step a loss, one of what a trainer
    alone has an estimator, one with other trainers' names a function that they call, and any other
    a rule, as any other object is.
    """
    if not file.is_file():
        return "rule"  # which is said where it is loaded
    with suppress(SyntaxError):
        for node in ast.parse(file.read_bytes()).body:
            if isinstance(node, ast.FunctionDef) and node.name == name:
                given = node.args
                named = {arg.arg for arg in (*given.posonlyargs, *given.args, *given.kwonlyargs)}
                if "advantages" in named:
                    return "loss" if "old_log_probs" in named else "weight"
                if named & OF_OTHERS:
                    return "function"
                is_of_trainer = any(n in NAMES and NAMES[n].supplier == "trainer" for n in named)
                return "estimator" if is_of_trainer else "rule"
    return "rule"


def without_kind(subject: str) -> str:
    """Return a subject as `compare`, ``weights=`` or ``loss=`` takes it."""
    before = next((one for one in BEFORE if subject.startswith(one)), "")
    return subject.removeprefix(before)


def bare(subject: str) -> str:
    """Return a subject without the folders of its file and of the paths among its options.

    Example:
        >>> bare("mine/rules.py:Half"), bare("rto:policy=runs/dpo,beta=1")
        ('rules.py:Half', 'rto:policy=dpo,beta=1')
    """
    return re.sub(r"[^:=,]*/", "", subject)
