"""Score at equal KL: the published part of the page, and the declared study in small."""

import math
from pathlib import Path

import pytest

from studies import frontier, leap
from studies.frontier import ARMS, PRICES, films, runs_of, study_table
from tokengym.evaluation.statistics import compare_at_kl
from tokengym.lab.benchmark.verdict import path_of
from tokengym.lab.study import DOCS, Cell, Row, Runs, run_of

PAGE = (DOCS / "details/frontier.md").read_text(encoding="utf-8")


def test_the_sentences_are_those_figures():
    arms, page = runs_of(films(48, 120), DOCS), PAGE.replace("\u2212", "-")
    assert {len(runs) for runs in arms.values()} == {10}
    for arm, sentence in (
        ("`abc-signed`", "{} ({:.3f} to {:.3f}) at 48"),
        (frontier.STARTED, "-0.046, {} and -0.037, each clear of 0"),
    ):
        (at,) = compare_at_kl({"": arms[arm]}, {"": arms["`sparse`"]}, (8.0,), resamples=1)
        found = at.difference
        assert found.high < 0.0
        assert sentence.format(f"{found.difference:.3f}", found.low, found.high) in page


def climb(cell: Cell, seed: int, slope: float) -> list[Row]:
    """Return a run to 8 nats whose score is a multiple of the root of its KL."""
    return [
        {**cell, "seed": seed, "step": step, "tokens": 100 * step, "kl": step / 2.0}
        | {"score": slope * (step / 2.0) ** 0.5 + 0.01 * seed, "gold_score": 0.0}
        for step in range(17)
    ]


def test_a_speed_is_not_given_where_the_baseline_does_not_always_arrive():
    """Its ratio would be a lower bound, and look like a figure."""
    drawn = [{"n": n, "score": score, "kl": 0.0} for n, score in ((1, 0.0), (16, 2.0))]
    cell = Cell(rule="sparse")
    fast, slow, never = (
        {seed: path_of(climb(cell, seed, slope)) for seed in range(2)} for slope in (2.0, 1.0, 0.1)
    )
    speed = leap.speed_at(fast, slow, drawn, 0.0)
    assert speed is not None
    assert not speed.at_most
    mixed = {0: slow[0], 1: never[1]}
    assert leap.speed_at(fast, mixed, drawn, 0.0) is None
    late = leap.speed_at(mixed, slow, drawn, 0.0)
    assert late is not None
    assert late.at_most


def test_an_arm_is_compared_over_all_its_cells():
    """`uniform` has a good cell at the price of 0 alone, `sparse` a middling one everywhere."""
    rows = []
    for arm in ("`sparse`", "`uniform`"):
        for price in PRICES:
            for number, cell in enumerate(frontier.cells("Detox", 48, arm, price)):
                best = 2.0 if price == 0.0 and number == 0 else 0.5
                slope = 1.0 if arm == "`sparse`" else best
                rows += [row for seed in range(3) for row in climb(cell, seed, slope)]
    runs = Runs(rows, frontier.STUDY.axes).runs
    table = {
        tuple(line.split(" | ")[1:4]): line.split(" | ")[4:]
        for line in study_table(runs).splitlines()[2:]
    }
    assert table["all", "`uniform`", "score"][2].startswith("2.00 (")  # at 4 nats: 4 - 2
    assert table["0", "`uniform`", "score"][2].startswith("2.00 (")
    assert table["0.05", "`uniform`", "score"][2].startswith("\u22121.00 (")
    assert table["all", "`uniform`", "score"][4].startswith("\u2013")  # nobody was at 16


def test_a_frontier_is_of_the_arms_own_cells(tmp_path: Path):
    """A cell that another beats at each KL is not seen, and what no run reached is a gap."""
    cells = frontier.cells("Detox", 48, "`sparse`", 0.05)
    rows = [
        row
        for number, cell in enumerate(cells)
        for seed in range(3)
        for row in climb(cell, seed, 2.0 if number == 1 else 0.5)
    ]
    arm = frontier.arms_of(Runs(rows, frontier.STUDY.axes).runs, frontier.WHERE[1], PRICES)
    line = frontier.line_of(arm["`sparse`"], range(3), (1.0, 4.0, 16.0), "score")
    assert line[:2] == pytest.approx([2.01, 4.01])  # 2 sqrt(k), and a hundredth of the mean seed
    assert math.isnan(line[2])
    frontier.draw_study(tmp_path / "study.png", frontier.STUDY.published(DOCS).runs.runs)
    assert (tmp_path / "study.png").stat().st_size > 10_000


def test_the_declared_runs_are_those_of_the_page(tmp_path: Path):
    rounds = [*frontier.STUDY.rounds()]
    runs = {(cell, seed) for round_cells, seeds in rounds for cell in round_cells for seed in seeds}
    assert len(runs) == 960
    cells = [cell for round_cells, _ in rounds for cell in round_cells]
    assert len(set(cells)) * frontier.PAIRS == 960
    assert all(len(set(round_cells)) == len(round_cells) for round_cells, _ in rounds)
    settings = frontier.STUDY.config(cells[-1].but(seed=0), tmp_path).as_dict()["training"][
        "learner"
    ]
    assert settings["n_warmup_updates"] == 5
    assert settings["kl_coef"] == 0.2
    assert {cell.critic for cell in cells} == {critic for _, critic, _ in ARMS.values()}


def test_runs_of_the_leap_are_cells_of_the_frontier(tmp_path: Path):
    declared = {cell for round_cells, _ in frontier.STUDY.rounds() for cell in round_cells}
    known = {run_of(row, (*frontier.STUDY.axes, "seed")) for row in frontier.beside(DOCS)}
    assert {run.without("seed") for run in known} <= declared
    arms = {(run.rule, run.critic) for run in known if run.length == 48}
    assert arms == {("sparse", "own"), ("abc-signed", "own"), ("sparse", "reward_model")}
    for cell in leap.cells(48, frontier.WITH_WARMUP):
        run = cell.but(rate=1e-3, seed=0)
        there = leap.STUDY.config(run, tmp_path)
        assert frontier.STUDY.config(frontier.here(run).but(seed=0), tmp_path) == there


def test_an_arm_at_a_price_is_tuned_on_other_seeds():
    rows = []
    for arm, slope in (("`sparse`", 1.0), ("`abc-signed`", 2.0)):
        for number, cell in enumerate(frontier.cells("Detox", 48, arm, 0.2)[:2]):
            rows += [row for seed in range(3) for row in climb(cell, seed, slope - 0.5 * number)]
    runs = Runs(rows, frontier.STUDY.axes).runs
    (line,) = frontier.price_table(runs).splitlines()[2:]
    shown = line.strip("| ").split(" | ")
    assert shown[1:3] == ["0.2", "`abc-signed`"]
    assert shown[3] == shown[4]  # the same KL, so that the lead is score
    assert shown[5].startswith("0.000 (")
    assert shown[-3:] == ["2 of 4", "2 of 4", "3"]
    assert frontier.counts_text(runs).startswith("So far 12 of 960 runs: 4 of 192 cells, 0 of them")


def test_a_leap_study_changes_one_thing_at_a_time(tmp_path: Path):
    learners = {}
    for variant in leap.VARIANTS:
        run = leap.cells(48, variant)[1].but(rate=1e-3, seed=0)
        training = leap.STUDY.config(run, tmp_path).as_dict()["training"]
        learners[variant] = {**training["learner"], "rows": training["batch_size"]}
    plain = learners.pop("as published")
    changed = {
        variant: {name: value for name, value in settings.items() if value != plain[name]}
        for variant, settings in learners.items()
    }
    assert changed == {
        "warm-up": {"n_warmup_updates": 5},
        "target KL": {"target_kl": 1 / 48},
        "batch of 240": {"rows": 240},
    }
    assert leap.LARGE_ROWS * leap.LARGE_UPDATES == leap.ROWS * leap.UPDATES
