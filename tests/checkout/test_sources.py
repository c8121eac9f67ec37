"""What the sources do in one place only."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_models_are_read_in_one_place() -> None:
    """Every class of transformers is given to `from_pretrained` of base/pretrained.py."""
    call = re.compile(r"(?:Auto\w+|auto_class|GPT2\w*)\.from_pretrained\(")
    found = [
        path.relative_to(ROOT).as_posix()
        for folder in ("base", "envs", "rewards", "agents", "evaluation", "scripts/commands")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if call.search(path.read_text(encoding="utf-8"))
    ]
    assert found == ["base/pretrained.py"]


def test_texts_become_ids_in_one_place() -> None:
    """Tokenizers are called in `tokenize`, which knows what is content, and by makers of models."""

    def calls(path: Path) -> bool:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = node.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            if name in ("tokenizer", "_tokenizer", "policy_tokenizer", "apply_chat_template"):
                return True
        return False

    folders = ("base", "envs", "rewards", "agents", "evaluation", "lab", "scripts", "tokengym")
    found = {
        path.relative_to(ROOT).as_posix()
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
        if calls(path)
    }
    makers = {name for name in found if "/makers/" in name}
    assert found - makers == {"envs/prompts/tokenization.py"}


def test_chat_templates_are_applied_in_one_place() -> None:
    """The suite, the laboratory, bridges and examples write conversations by `write_chat`."""
    folders = ("base", "envs", "rewards", "agents", "evaluation", "lab", "scripts", "tokengym")
    found = [
        path.relative_to(ROOT).as_posix()
        for folder in (*folders, "bridges", "examples")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if "apply_chat_template" in path.read_text(encoding="utf-8")
    ]
    assert found == ["envs/prompts/conversation.py"]
