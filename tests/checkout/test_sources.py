"""What the sources do in one place only."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SUITE = ("base", "envs", "rewards", "agents", "evaluation", "scripts/commands")
FLOORS = ("base", "envs", "rewards", "agents", "evaluation", "lab", "scripts", "tokengym")
TOKENIZERS = ("tokenizer", "_tokenizer", "policy_tokenizer", "apply_chat_template")


def files(folders: tuple[str, ...]) -> dict[str, str]:
    """Return the text of each module in some folders by its path."""
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}


@pytest.mark.parametrize(
    ("pattern", "folders", "place"),
    [
        # Every class of transformers is given to `from_pretrained`.
        (r"(?:Auto\w+|auto_class|GPT2\w*)\.from_pretrained\(", SUITE, "base/pretrained.py"),
        # Conversations are written by `write_chat`.
        (
            "apply_chat_template",
            (*FLOORS, "bridges", "examples"),
            "envs/prompts/conversation.py",
        ),
    ],
)
def test_it_is_done_in_one_place(pattern: str, folders: tuple[str, ...], place: str) -> None:
    assert [name for name, text in files(folders).items() if re.search(pattern, text)] == [place]


def test_texts_become_ids_in_one_place() -> None:
    """Tokenizers are called in `tokenize`, which knows what is content, and by makers of models."""

    def calls(text: str) -> bool:
        called = [node.func for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
        return any(
            (one.attr if isinstance(one, ast.Attribute) else getattr(one, "id", "")) in TOKENIZERS
            for one in called
        )

    found = {name for name, text in files(FLOORS).items() if calls(text) and "/makers/" not in name}
    assert found == {"envs/prompts/tokenization.py"}


def test_what_a_package_exports_is_said_to_type_checkers() -> None:
    """Of a typed package `from here import A` is its own; `A as A` is also the user's."""
    hidden = [
        f"{name}: {alias.name}"
        for name, text in files((*FLOORS, "bridges")).items()
        if name.endswith("__init__.py") and "lazily(" in text
        for block in ast.parse(text).body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname != alias.name
    ]
    assert not hidden
