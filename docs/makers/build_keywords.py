"""Writes agents/keywords.py: the types of the learners' settings, for a user's type checker.

A learner takes the fields of its settings dataclasses as keywords. Their types are copied from
there, so that they are declared once; `python -m docs.makers.build_docs` writes the file.
"""

import ast
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from tokengym.agents.offline.settings import PreferenceLoss
from tokengym.agents.offline.trainer import OfflineOptions
from tokengym.agents.ppo.settings import PPOSettings

KEYWORDS: dict[str, tuple[str, type]] = {
    "PPOKeywords": ("TypedDict", PPOSettings),
    "SFTKeywords": ("TypedDict", OfflineOptions),
    "DPOKeywords": ("SFTKeywords", PreferenceLoss),
}
"""Names of the written types, what they extend, and the dataclass whose fields they have."""
PARAMETERS = frozenset({"learning_rate"})
"""Fields that are parameters of their own where the learner is PPO or one of its relatives."""
HEADING = '''"""Types of the keywords of the learners' constructors, read by type checkers alone.

Written by `python -m docs.makers.build_docs` from the settings dataclasses: edit those.
"""
'''


def annotations(declared: type) -> Iterator[tuple[str, str, str]]:
    """Yield name, annotation and module of a dataclass's fields, those of its bases first."""
    at = {}
    for owner in reversed(declared.__mro__):
        if owner is object:
            continue
        module = sys.modules[owner.__module__]
        tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
        (found,) = (
            node
            for node in tree.body
            if isinstance(node, ast.ClassDef) and node.name == owner.__name__
        )
        for node in found.body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                at[node.target.id] = (ast.unparse(node.annotation), owner.__module__)
    for field in fields(declared):
        yield field.name, *at[field.name]


def source_of(name: str, module: str) -> str:
    """Return the module that a name of a module comes from, "" for a builtin."""
    tree = ast.parse(Path(str(sys.modules[module].__file__)).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and any(a.name == name for a in node.names):
            return node.module or ""
    return module if name in vars(sys.modules[module]) else ""


def text() -> str:
    """Return the file."""
    imports: dict[str, set[str]] = {"typing": {"TypedDict"}}
    blocks = []
    for name, (base, declared) in KEYWORDS.items():
        inherited = (
            {field.name for field in fields(KEYWORDS[base][1])} if base in KEYWORDS else set()
        )
        lines = [f"class {name}({base}, total=False):"]
        lines.append(f'    """Fields of `{declared.__name__}`."""\n')
        for field, annotation, module in annotations(declared):
            is_parameter = field in PARAMETERS and issubclass(declared, PPOSettings)
            if is_parameter or field in inherited:
                continue
            for node in ast.walk(ast.parse(annotation)):
                if isinstance(node, ast.Name) and (source := source_of(node.id, module)):
                    imports.setdefault(source, set()).add(node.id)
            lines.append(f"    {field}: {annotation}")
        blocks.append("\n".join(lines))
    ours = [f"from {m} import {', '.join(sorted(n))}" for m, n in sorted(imports.items())]
    groups = [
        [
            line
            for line in ours
            if line.startswith(("from typing ", "from collections", "from pathlib"))
        ],
        [line for line in ours if line.startswith("from transformers")],
        [line for line in ours if line.startswith("from tokengym")],
    ]
    header = "\n\n".join("\n".join(group) for group in groups if group)
    return HEADING + "\n" + header + "\n\n\n" + "\n\n\n".join(blocks) + "\n"
