"""Writes the types of settings that are passed as keywords, for a user's type checker.

Learners and environments take the fields of their settings dataclasses as keywords. Their types are
copied from there, so that they are declared once; `python -m docs.makers.build_docs` writes the
files.
"""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

from tokengym.agents.learner import LEARNERS, find_learner
from tokengym.agents.offline.settings import PreferenceLoss
from tokengym.agents.offline.trainer import OfflineOptions
from tokengym.agents.ppo.settings import PPOSettings
from tokengym.base.settings import field_paths
from tokengym.envs.settings import GenerationSettings
from tokengym.envs.tasks.task import TaskOptions
from tokengym.evaluation.runs.settings import EvaluationSettings, TaskSettings, TrainingSettings
from tokengym.registration import EnvReward

OF_CALL = frozenset({"agent", "learner"})
"""Fields of a training that a comparison decides by its own arguments."""
PARAMETERS = frozenset({"learning_rate"})
"""Fields that are parameters of their own where the learner is PPO or one of its relatives."""


@dataclass(frozen=True)
class Keywords:
    """One written type."""

    declared: tuple[type, ...]
    """Dataclasses whose fields it has."""
    extends: str = "TypedDict"
    """Written type that it extends."""
    further: tuple[tuple[str, str], ...] = ()
    """Annotations by name of what no dataclass declares, from the first one's module."""
    are_options: bool = False
    """Whether the names are those of options, with the fields of nested dataclasses in their place;
    None leaves each to its default."""


FILES: dict[str, tuple[str, dict[str, Keywords]]] = {
    "agents/keywords.py": (
        "Types of the keywords of the learners' constructors, read by type checkers alone.",
        {
            "PPOKeywords": Keywords((PPOSettings,)),
            "SFTKeywords": Keywords((OfflineOptions,)),
            "DPOKeywords": Keywords((PreferenceLoss,), "SFTKeywords"),
        },
    ),
    "evaluation/runs/keywords.py": (
        "Types of the settings of `tokengym.compare`, read by type checkers alone.",
        {
            "CompareKeywords": Keywords(
                (
                    *(TrainingSettings, EvaluationSettings, TaskSettings),
                    *dict.fromkeys(find_learner(name).settings for name in LEARNERS.names()),
                ),
                are_options=True,
            )
        },
    ),
    "envs/keywords.py": (
        "Types of the keywords of the environments' constructors, read by type checkers alone.",
        {"GenerationKeywords": Keywords((GenerationSettings,))},
    ),
    "tokengym/keywords.py": (
        "Types of the keywords of `gym.make` and `gym.make_vec` for the tasks.",
        {
            "EnvKeywords": Keywords(
                (EnvReward, TaskOptions),
                "GenerationKeywords",
                (("split", "Split"), ("render_mode", "str | None")),
            )
        },
    ),
}
"""The written files: their first line, and their types by name."""
HEADING = '''"""{}

Written by `python -m docs.makers.build_docs` from the settings dataclasses: edit those.
"""

'''


@cache
def _tree(module: str) -> ast.Module:
    """Parse the file of a module that is imported."""
    return ast.parse(Path(str(sys.modules[module].__file__)).read_text(encoding="utf-8"))


@cache
def annotations(declared: type) -> tuple[tuple[str, str, str], ...]:
    """Return name, annotation and module of a dataclass's fields, those of its bases first."""
    at = {}
    for owner in reversed(declared.__mro__):
        if owner is object:
            continue
        (found,) = (
            node
            for node in _tree(owner.__module__).body
            if isinstance(node, ast.ClassDef) and node.name == owner.__name__
        )
        for node in found.body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                at[node.target.id] = (ast.unparse(node.annotation), owner.__module__)
    return tuple((field.name, *at[field.name]) for field in fields(declared))


@cache
def source_of(name: str, module: str) -> str:
    """Return the module that a name of a module comes from, "" for a builtin."""
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.ImportFrom) and any(a.name == name for a in node.names):
            return node.module or ""
    return module if name in vars(sys.modules[module]) else ""


def text(path: str) -> str:
    """Return a file of `FILES`."""
    summary, types = FILES[path]
    known = {name: (file, one) for file, (_, made) in FILES.items() for name, one in made.items()}
    imports: dict[str, set[str]] = {"typing": {"TypedDict"}}
    blocks = []
    for name, keywords in types.items():
        inherited: set[str] = set()
        if keywords.extends in known:
            file, parent = known[keywords.extends]
            inherited = {field.name for one in parent.declared for field in fields(one)}
            if file != path:
                imports = {_module_of(file): {keywords.extends}}
        declared = " and ".join(f"`{one.__name__}`" for one in keywords.declared)
        said = "Settings by the words of their options." if keywords.are_options else ""
        lines = [f"class {name}({keywords.extends}, total=False):"]
        lines.append(f'    """{said or f"Fields of {declared}."}"""\n')
        annotated = _of_options if keywords.are_options else _annotated
        for field, members in annotated(keywords):
            if field in inherited:
                continue
            for annotation, module in members.items():
                for node in ast.walk(ast.parse(annotation)):
                    if isinstance(node, ast.Name) and (source := source_of(node.id, module)):
                        imports.setdefault(source, set()).add(node.id)
            written = " | ".join(members).replace("'", '"')  # as ruff quotes
            lines.append(f"    {field}: {written}")
        blocks.append("\n".join(lines))
    return HEADING.format(summary) + "\n\n\n".join((_import_lines(imports), *blocks)) + "\n"


Members = dict[str, str]
"""Annotations of the members of a union, with the module of each."""


def _annotated(keywords: Keywords) -> Iterator[tuple[str, Members]]:
    """Yield name and annotation of what a written type has of its own."""
    for one in keywords.declared:
        for field, annotation, module in annotations(one):
            if not (field in PARAMETERS and issubclass(one, PPOSettings)):
                yield field, {annotation: module}
    for field, annotation in keywords.further:
        yield field, {annotation: keywords.declared[0].__module__}


def _of_options(keywords: Keywords) -> Iterator[tuple[str, Members]]:
    """Yield the words of options and their annotations; see `keywords_of`.

    A word that several dataclasses have may have the type of each.
    """
    found: dict[str, Members] = {}
    for one in keywords.declared:
        for leaf in field_paths(one):
            if leaf.path[-1] in OF_CALL:
                continue
            of_owner = {name: rest for name, *rest in annotations(leaf.owner)}
            annotation, module = of_owner[leaf.path[-1]]
            for word in leaf.keywords:
                found.setdefault(word, {}).update(_parts(annotation, module))
    for word, members in found.items():
        members.pop("None", None)
        yield word, {**members, "None": "builtins"}


def _parts(annotation: str, module: str) -> Members:
    """Return the members of a union; what the suite alone lacks is ``Any``."""
    node = ast.parse(annotation, mode="eval").body
    if isinstance(node, ast.BinOp):
        sides = (ast.unparse(node.left), ast.unparse(node.right))
        return {k: v for side in sides for k, v in _parts(side, module).items()}
    names = [one.id for one in ast.walk(node) if isinstance(one, ast.Name)]
    is_ours = any(source_of(name, module).startswith("tokengym.lab") for name in names)
    return {"Any": "typing"} if is_ours else {annotation: module}


def _module_of(file: str) -> str:
    name = file.removesuffix(".py").replace("/", ".")
    return name if name.startswith("tokengym.") else f"tokengym.{name}"


def _import_lines(imports: dict[str, set[str]]) -> str:
    """Return the lines of imports, in groups as ruff sorts them."""
    lines = [f"from {m} import {', '.join(sorted(n))}" for m, n in sorted(imports.items())]
    ours = [line for line in lines if line.startswith("from tokengym")]
    theirs = [line for line in lines if line.startswith("from transformers")]
    standard = [line for line in lines if line not in (*ours, *theirs)]
    return "\n\n".join("\n".join(group) for group in (standard, theirs, ours) if group)
