"""CONTRIBUTING's table of who decides what of a run, held to the code."""

import ast
import re
from dataclasses import fields
from functools import cache

from tests.checkout.house import ROOT
from tokengym.evaluation.runs.spec import UNSTORED, RunSpec

PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("## Who decides what of a run")[2].partition("\n## ")[0]
PLACE = re.compile(r"`([\w/]+\.py):([\w.]+)`")
NUMBERS = dict(enumerate("no one two three four five six seven eight nine ten".split()))


def rows() -> list[list[str]]:
    """Return the cells of the table: fact, who decides it, who does besides, and where it is."""
    lines = [line for line in SECTION.splitlines() if line.startswith("| ")][1:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@cache
def names_in(file: str) -> frozenset[str]:
    """Return what a file defines: functions, classes, constants and methods."""
    found = set()
    for node in ast.parse((ROOT / file).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
            inner = node.body if isinstance(node, ast.ClassDef) else []
            methods = [one for one in inner if isinstance(one, ast.FunctionDef)]
            found |= {f"{node.name}.{method.name}" for method in methods}
        elif isinstance(node, ast.Assign):
            found |= {name.id for name in node.targets if isinstance(name, ast.Name)}
    return frozenset(found)


def test_each_place_that_decides_is_there():
    places = PLACE.findall(SECTION)
    assert len(places) > 20
    lost = [f"{file}:{name}" for file, name in places if name not in names_in(file)]
    assert not lost


def test_each_fact_of_a_spec_has_its_row():
    """What decides a run's numbers stands in its spec, and who decided it in the table."""
    stored = {name for *_, cell in rows() for name in re.findall(r"`(\w+)`", cell)}
    assert stored == {f.name for f in fields(RunSpec)} - {*UNSTORED, "warns"}


def test_facts_that_are_decided_twice_are_counted():
    table = rows()
    twice = [row[0] for row in table if row[2]]
    assert all(row[1] for row in table)
    words = f"Of these {len(table)} facts {NUMBERS[len(twice)]} are decided in two places"
    assert words in SECTION
    of_gym = [row for row in table if row[1] == "`gym.make`" and not row[2]]
    assert f"{NUMBERS[len(of_gym)]} by `gym.make` alone" in " ".join(SECTION.split())


def test_the_learner_and_the_seeds_have_one_default():
    """Signatures take those of settings.py by name."""
    literal = []
    for folder in ("evaluation/runs", "scripts/commands"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.FunctionDef):
                    named = [*node.args.posonlyargs, *node.args.args]
                    defaults: list[tuple[ast.arg, ast.expr | None]] = [
                        *zip(named[::-1], node.args.defaults[::-1], strict=False)
                    ]
                    defaults += zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
                    literal += [
                        f"{file.name}:{node.name}"
                        for argument, value in defaults
                        if argument.arg in ("agent", "seeds")
                        and isinstance(value, ast.Constant)
                        and value.value is not None
                    ]
    assert not literal
