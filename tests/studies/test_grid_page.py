"""The grid's page, made from few published curves: every place is filled, every picture drawn."""

import re
from pathlib import Path

import numpy as np
import pytest

from studies import grid_page
from studies.credit_grid import PUBLISHED, WHEN
from tokengym.base.files import write_csv, write_json

ROOT = Path(__file__).parents[2]
LENGTHS = {"MovieReview-16": 1.0, "MovieReview-32": 2.0, "MovieReview-48": 3.0}
"""Cells, and how far ABC is above sparse all along the run."""


def write_cell(
    file: Path, gain: float, rules=("sparse", "abc", "abc-signed"), *, first_seed: int = 0
) -> None:
    rows = []
    for place, rule in enumerate(rules):
        for seed in range(first_seed, first_seed + 4):
            for step in range(0, 31, 3):
                rise = float(np.minimum(step / 15, 1.0)) + 0.01 * seed
                rows.append(
                    {"credit": rule, "seed": seed, "step": step, "tokens": step, "episodes": step}
                    | {"score": rise + gain * place, "gold_score": rise, "kl": rise}
                )
    write_csv(file, rows, PUBLISHED)
    write_json(file.with_suffix(".json"), {"training": {"kl_coef": 0.05}})


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    docs = tmp_path / "docs" / "results"
    (docs / "grid").mkdir(parents=True)
    for name, gain in LENGTHS.items():
        write_cell(docs / "grid" / f"{name}.csv", gain)
    for name in ("when-lambda-1", "MovieReview-32-long", "Oracle", grid_page.AGAIN):
        write_cell(docs / "grid" / f"{name}.csv", 0.5)
    write_cell(docs / grid_page.EARLIER, 1.0, ("sparse", "abc"), first_seed=10)
    page = "docs/results/credit_grid.md"
    marks = re.findall(r"<!-- (?:end )?[\w-]+ -->", (ROOT / page).read_text(encoding="utf-8"))
    (tmp_path / page).write_text("\n".join(marks) + "\n", encoding="utf-8")
    (tmp_path / "docs" / "images").mkdir()
    return docs


def table(page: Path, name: str) -> str:
    found = re.search(f"<!-- {name} -->\n(.*?)<!-- end {name} -->", page.read_text(), re.DOTALL)
    assert found is not None
    return found[1]


def test_the_page_is_filled(docs: Path):
    grid_page.main(docs)
    page = docs / "credit_grid.md"
    assert "| rule | 16 tokens | 32 tokens | 48 tokens |" in table(page, "speed")
    # gains of 1, 2 and 3 points at 4, 5 and 5.585 doublings: least squares, by hand
    x = np.log2([16, 32, 48])
    slope = np.polyfit(x, [1.0, 2.0, 3.0], 1)[0]
    assert f"score over the run {slope:.2f} ({slope:.2f} to {slope:.2f})" in table(page, "slope")
    assert table(page, "when").count("\n") == 4  # head, rule, as it is, lambda 1
    assert "| lambda 1 | **+0.500**" in table(page, "when")
    assert "| abc | **+0.500**" in table(page, "Oracle")
    assert "8/8" in table(page, "rules-48")  # both sets of seeds
    assert "| abc | **+0.500**" in table(page, "again")
    assert "| 48 tokens | abc-signed | 4 |" in table(page, "again-figures")
    for picture in ("grid/lengths.png", "grid/when.png", "../images/curves.png"):
        assert (docs / picture).read_bytes().startswith(b"\x89PNG")


def test_every_setting_has_a_name_on_the_page():
    assert set(grid_page.SETTINGS) == set(WHEN)
