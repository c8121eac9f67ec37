"""What is measured: a credit rule, an advantage estimator, or a weight on the advantage."""

import ast
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal

from tokengym.agents.ppo import WEIGHTS
from tokengym.base import did_you_mean, split_file_word
from tokengym.envs import SettingsError
from tokengym.lab.gradients.oracle import estimator_names
from tokengym.rewards import NAMES, REWARDS

Kind = Literal["rule", "estimator", "weight", "function"]
WEIGHT = "weight:"
"""Before a subject that is a weight on the advantage, where its name does not say so."""
KINDS: Mapping[Kind, str] = {
    "rule": "a credit rule",
    "estimator": "an advantage estimator",
    "weight": "a weight on the advantage",
    "function": "a function that estimates advantages",
}
HELD_BY: Mapping[Kind, str] = {
    "estimator": "hold it against the exact gradient: leave --v2 out, or tokengym audit {}",
    "weight": "hold it against the exact gradient: leave --v2 out",
    "function": "hold it against exact gradients: tokengym audit {}",
}
"""What measures a subject that the board does not."""
OF_OTHERS = {"token_level_rewards", "rewards", "index"}
"""Parameters of other trainers' functions that estimate advantages."""


def kind_of(subject: str) -> Kind:
    """Return what a subject is.

    Args:
        subject: Name, options after a colon, or "path/to/file.py:Name"; "weight:" before
            it says that it is a weight.
    """
    name = without_kind(subject)
    if file_word := split_file_word(name):
        return "weight" if subject.startswith(WEIGHT) else _kind_in_file(*file_word[:2])
    if subject in estimator_names():
        return "estimator"
    word = name.partition(":")[0]
    is_rule = word in REWARDS.names() and not subject.startswith(WEIGHT)
    if word in WEIGHTS.names() and not is_rule:
        return "weight"
    known = {*REWARDS.names(), *estimator_names(), *WEIGHTS.names()}
    if word not in known:
        raise SettingsError(
            f"unknown subject {subject!r}; {did_you_mean(word, sorted(known), n=1)}bench takes "
            f"rules ({', '.join(REWARDS.names())}), estimators ({', '.join(estimator_names())}), "
            f"weights ({', '.join(WEIGHTS.names())}) and path/to/file.py:Name"
        )
    return "rule"


def _kind_in_file(file: Path, name: str) -> Kind:
    """Return what a file's function is, by who supplies what it reads; nothing is run.

    One of advantages is a weight, one of what a trainer alone has an estimator, one with other
    trainers' names a function that they call, and any other a rule, as any other object is.
    """
    if not file.is_file():
        return "rule"  # which is said where it is loaded
    with suppress(SyntaxError):
        for node in ast.parse(file.read_bytes()).body:
            if isinstance(node, ast.FunctionDef) and node.name == name:
                given = node.args
                named = {arg.arg for arg in (*given.posonlyargs, *given.args, *given.kwonlyargs)}
                if "advantages" in named:
                    return "weight"
                if named & OF_OTHERS:
                    return "function"
                is_of_trainer = any(n in NAMES and NAMES[n].supplier == "trainer" for n in named)
                return "estimator" if is_of_trainer else "rule"
    return "rule"


def without_kind(subject: str) -> str:
    """Return a subject as `compare` or ``weights=`` takes it."""
    return subject.removeprefix(WEIGHT)


def bare(subject: str) -> str:
    """Return a subject without the folders of its file and of the paths among its options.

    Example:
        >>> bare("mine/rules.py:Half"), bare("rto:policy=runs/dpo,beta=1")
        ('rules.py:Half', 'rto:policy=dpo,beta=1')
    """
    return re.sub(r"[^:=,]*/", "", subject)
