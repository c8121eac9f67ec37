"""Over-optimisation: falls, counts, differences and alarms by hand, and what the page says."""

import re
from collections.abc import Iterator, Sequence
from statistics import mean

import pytest

from studies import overoptimisation as study
from studies.overoptimisation import ALARMS, READ_BY_ALARMS, SEEDS, STUDY, cells
from tokengym.lab.protocol import MEASURES
from tokengym.lab.study import DOCS, Cell, Row, Runs

PAGE = (DOCS / STUDY.document).read_text(encoding="utf-8")
PUBLISHED = STUDY.published(DOCS)
RISES = [float(step) for step in range(11)]
FALLS = [0.0, 2.0, 4.0, 3.0, 2.0, 1.0, 0.0, -1.0, -2.0, -3.0, -4.0]


def points(cell: Cell, seed: int, gold: Sequence[float], **others: float) -> Iterator[Row]:
    """A run with this gold whose score is its update, at 2 nats an update."""
    for step, value in enumerate(gold):
        figures = dict.fromkeys((*MEASURES, *READ_BY_ALARMS), 0.0)
        figures |= {"step": step, "tokens": 10 * step, "score": step, "kl": 2.0 * step}
        yield {**cell, "seed": seed, **figures, "gold_score": value + seed % 2, **others}


def runs_of(falls: Sequence[Cell]) -> Runs:
    """Two runs of each cell, which fall in those cells."""
    rows = [
        row
        for cell in cells()
        for seed in (70, 71)
        for row in points(cell, seed, FALLS if cell in falls else RISES)
    ]
    return Runs(rows, STUDY.axes)


def test_where_gold_is_best_and_what_is_lost_by_hand() -> None:
    first = cells()[0]
    best, other, *_ = study.falls_table(runs_of([first])).splitlines()[2:]
    line = [cell.strip() for cell in best.strip("|").split(" | ")]
    # Best at update 2, at 4 and 5; the end is the last two of eleven, at -3.5 and -2.5.
    assert line[3:7] == ["2", "2.00 to 9.50", "4.50 to \u22123.00", "4.00 to 19.0"]
    assert line[7] == "**\u22127.50** (\u22127.50 to \u22127.50), 0/2"
    assert line[8] == "2/2"
    assert other.endswith("| best at the end | 0/2 |")


def test_runs_that_fell_are_counted_by_price_and_task() -> None:
    free = [cell for cell in cells() if not cell.price]
    *lines, last = study.count_table(runs_of([*free[:1], *free[2:]])).splitlines()
    assert lines[2] == "| 0 | 2 of 4 | 4 of 4 | 6 of 8 |"
    assert last == "| 0.05 | 0 of 4 | 0 of 4 | 0 of 8 |"


def test_differences_are_those_of_the_pair_at_the_end() -> None:
    sparse, abc = cells()[:2]
    line = study.pairs_table(runs_of([sparse])).splitlines()[2]
    assert line.startswith("| Summarize, c = 0: `abc` minus `sparse` | 0.000 ")
    assert "**+13.0** (13.0 to 13.0)" in line  # gold ends at 9.5 and at -3.5
    assert (sparse.rule, abc.rule) == ("sparse", "abc")


def test_an_alarm_is_read_as_it_comes() -> None:
    (run,) = Runs(points(cells()[0], 70, FALLS), STUDY.axes).each.values()
    # A loss of 2 is beyond the noise of the whole curve, 3.5 x 0.41, and one of 3 beyond that of
    # the six points by then, 3.5 x 0.61.
    assert study.fall_of(run) == (2, 4)
    assert study.first_alarm(run, ALARMS["gold falls while the proxy rises"]) == 5
    assert study.first_alarm(run, ALARMS["the length changes"]) is None


def test_how_often_a_leap_was_seen_before_gold_fell() -> None:
    leads = [
        at.below_at - first
        for run, points in PUBLISHED.runs.each.items()
        if run.task == "Dialogue" and (at := study.fall_of(points)) is not None
        if (first := study.first_alarm(points, ALARMS["an update leaps in KL"])) is not None
    ]
    before, at_once = sum(lead > 0 for lead in leads), sum(lead == 0 for lead in leads)
    assert f"before the fall in {before} of the 20 runs that fell on Dialogue" in PAGE
    assert f"and with it in {at_once};" in PAGE


def test_every_run_is_published_at_every_update() -> None:
    made = {cell: {*of} for cell, of in PUBLISHED.runs.runs.items()}
    assert made == {cell: {*SEEDS} for cell in cells()}
    for run in PUBLISHED.runs.each.values():
        assert [row["step"] for row in run] == [*range(study.UPDATES + 1)]


@pytest.mark.parametrize("task", study.TASKS)
@pytest.mark.parametrize("name", ["score", "gold_score"])
def test_the_best_of_one_is_the_policy_that_the_runs_begin_with(task: str, name: str) -> None:
    """The responses behind best-of-n are older than the runs: the level is the same."""
    starts = [row[name] for run, (row, *_) in PUBLISHED.runs.each.items() if run.task == task]
    drawn = [row[name] for row in study.best_of(PUBLISHED) if (row["task"], row["n"]) == (task, 1)]
    assert mean(starts) == pytest.approx(mean(drawn), abs=0.05)


TABLES = re.compile(r"<!-- (.+) -->\n(.*?)<!-- end \1 -->", re.DOTALL)
TEXT, _, _ = TABLES.sub("", PAGE).partition("## What else could explain it")
FIGURE = re.compile(r"\d+ of \d+|\d+\.\d+")
OF_SETTINGS = {"0.3", "0.01", "0.05"}
"""Weights of the policies in millions, and prices: figures that no table has to show."""


def test_every_figure_of_the_text_is_one_of_the_tables() -> None:
    """But those of the older learner, which its own sentence names."""
    told = re.sub(r"An older learner.*|\(http\S*\)", "", TEXT)
    shown = {figure for table in TABLES.findall(PAGE) for figure in FIGURE.findall(table[1])}
    quoted = {*FIGURE.findall(told)} - OF_SETTINGS
    assert len(quoted) > 20
    assert quoted <= shown


def test_the_answer_is_the_count_of_the_runs_that_fell() -> None:
    (answer,) = (line for line in PAGE.splitlines() if line.startswith("**Where the KL"))
    lines = study.count_table(PUBLISHED.runs).splitlines()[2:]
    free, low, high = ([cell.strip() for cell in line.strip("|").split(" | ")] for line in lines)
    assert f"There {free[2]} runs lose gold" in answer
    assert f"nats, {free[1]} does" in answer
    assert f"At a price of 0.01 a nat {low[3]} falls and at 0.05 {high[3]}" in answer


def test_a_price_keeps_gold_and_costs_no_proxy_that_is_shown() -> None:
    """Clear after correction is bold; the last four lines are those of the prices."""
    *_, one, two, three, four = study.pairs_table(PUBLISHED.runs).splitlines()
    for line in (one, two, three, four):
        proxy, gold = line.split(" | ")[1:3]
        assert gold.startswith("**+")
        assert not proxy.startswith("**\u2212")
    for line in study.pairs_table(PUBLISHED.runs).splitlines():
        if "c = 0: `abc`" in line:
            assert "**" not in line.split(" | ")[2]
