"""The figures of the README's results are those of the published curves."""

import re
from pathlib import Path

import pytest

from studies import critic, ledger, ledger_fine, other_tasks
from studies.critic import STARTED
from studies.ledger_cells import make_cell
from tokengym.evaluation.report import number, signed
from tokengym.lab.protocol import equivalence
from tokengym.lab.study import DOCS, Published

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
CLAIMS = (DOCS / "claims.md").read_text(encoding="utf-8")
LENGTHS, PAIRS = (24, 48, 96), 10


@pytest.fixture(scope="module")
def published() -> Published:
    return ledger.STUDY.published(DOCS)


def test_speeds() -> None:
    read = critic.Readings(critic.STUDY.published(DOCS))
    quoted = []
    for length in LENGTHS:
        sparse, signed, *_ = ledger_fine.cells(length)
        speed = read.fine.speed(signed, sparse, *read.ways[length])
        assert speed is not None
        assert len(read.fine.areas(signed)) == len(read.fine.areas(sparse)) == PAIRS
        ratio, low, high = speed
        quoted.append(f"{ratio:.1f}")
        assert f"{ratio:.1f} ({low:.2f} to {high:.2f})" in CLAIMS
    first, second, third = quoted
    assert f"{first}, {second} and {third} times fewer updates" in README


def test_the_end(published: Published):
    signed = make_cell(rule="abc-signed", gae_lambda="0.5", updates=120)
    sparse = make_cell(rule="sparse", updates=120)
    end = published.runs.difference(signed, sparse, at_end=True)
    assert end is not None
    assert end.pairs == 5
    figure = f"{end.difference:.3f} ({end.low:.3f} to {end.high:.3f})".replace("-", "\u2212")
    assert figure in CLAIMS
    signed_ends, sparse_ends = (
        published.runs.areas(cell, at_end=True) for cell in (signed, sparse)
    )
    seeds = sorted(signed_ends.keys() & sparse_ends.keys())
    level = equivalence(
        [signed_ends[seed] for seed in seeds], [sparse_ends[seed] for seed in seeds], margin=0.086
    )
    assert level.p_value < 0.05


def test_a_critic_that_knows_the_score() -> None:
    fine = critic.Readings(critic.STUDY.published(DOCS)).fine
    gains, leads = [], []
    for length in LENGTHS:
        sparse, signed, *_ = ledger_fine.cells(length)
        started = STARTED[2].but(length=length)
        gain, lead, left = (
            fine.difference(one, other)
            for one, other in ((started, sparse), (signed, sparse), (started, signed))
        )
        assert gain is not None
        assert lead is not None
        assert left is not None
        assert gain.pairs == lead.pairs == left.pairs == PAIRS
        gains.append(f"+{number(gain.difference)}")
        leads.append(f"+{number(lead.difference)}")
        for figure in (gain, left):
            shown = f"{figure.difference:+.3f} ({figure.low:.3f} to {figure.high:.3f})"
            assert shown.replace("-", "\u2212") in CLAIMS
    said = " ".join(README.split())
    for figures in (gains, leads):
        assert "{}, {} and {}".format(*figures) in said


def test_other_tasks():
    runs = other_tasks.STUDY.published(DOCS).runs
    for task in other_tasks.TASKS:
        own, high = other_tasks.signed_cells(task)
        shown = []
        for cell in (own, high):
            figure = runs.difference(cell, other_tasks.cell_of(task, "sparse"))
            assert figure is not None
            assert figure.pairs == (10 if task == "Detox" else 5)
            ends = f"({number(figure.low)} to {number(figure.high)})"
            shown.append(f"{signed(figure.difference)} {ends}")
        assert f"{task} {shown[0]} at 0.5, {shown[1]} at 0.95" in CLAIMS
    assert "ahead of `sparse` and the controls on one (Detox, 10 pairs)" in README


def test_the_way_that_is_left():
    """The page that says so is frozen, so its table stands for the curves."""
    page = (DOCS / "learner.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"<!-- goals -->\n(.*?)<!-- end goals -->", page, re.DOTALL)
    cells = [line.split(" | ") for line in table.splitlines()[2:]]
    before, now = ([row[column].rstrip("%") for row in cells] for column in (2, 4))
    assert f"{', '.join(now)} % at prices" in CLAIMS
    assert f"before {', '.join(before)} %" in CLAIMS
    for figures in (before, now):
        assert f"{', '.join(figures[:3])} and {figures[3]} %" in README
