"""The confidence level is declared once, and texts that name it name that one."""

import ast
import inspect
import re
from collections.abc import Iterator

from tests.checkout import house
from tokengym.evaluation.statistics import DEFAULT_LEVEL
from tokengym.scripts.commands.report import report

FOLDERS = ("evaluation", "scripts", "lab")
AUDIT = house.ROOT / "lab" / "audit" / "tokengym_audit.py"
"""One file on torch alone, which imports nothing of ours."""
IN_WORDS = re.compile(r"(\d+) ?% (?:(?:bootstrap|t) )?(?:interval|end)")


def levels(tree: ast.Module) -> Iterator[str]:
    """Yield each number that a parameter, field or constant named after the level defaults to."""
    for node in ast.walk(tree):
        named: list[tuple[str, ast.expr | None]] = []
        if isinstance(node, ast.arguments):
            positional = [*node.posonlyargs, *node.args]
            plain = positional[len(positional) - len(node.defaults) :]
            named = [(a.arg, v) for a, v in zip(plain, node.defaults, strict=True)]
            named += [(a.arg, v) for a, v in zip(node.kwonlyargs, node.kw_defaults, strict=True)]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            named = [(node.target.id, node.value)]
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            named = [(node.targets[0].id, node.value)]
        for name, value in named:
            if re.search(r"(^|_)level$", name.lower()) and isinstance(value, ast.Constant):
                if isinstance(value.value, float):
                    yield f"{name} = {value.value}"


def test_the_level_is_declared_once():
    found = [
        f"{path.relative_to(house.ROOT)}: {text}"
        for folder in FOLDERS
        for path in sorted((house.ROOT / folder).rglob("*.py"))
        if path != AUDIT
        for text in levels(house.parse(path))
    ]
    assert found == [f"evaluation/statistics/scores.py: DEFAULT_LEVEL = {DEFAULT_LEVEL}"]


def test_texts_name_that_level():
    said = [
        (path.name, int(share))
        for folder in FOLDERS
        for path in sorted((house.ROOT / folder).rglob("*.py"))
        for share in IN_WORDS.findall(path.read_text(encoding="utf-8"))
    ]
    assert said, "what was measured of the intervals' coverage names their level"
    assert {share for _, share in said} == {round(100 * DEFAULT_LEVEL)}
    assert f"of the runs; of curves {DEFAULT_LEVEL})." in " ".join(
        (inspect.getdoc(report) or "").split()
    )
