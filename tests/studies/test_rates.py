"""The study of rates that three spare seeds choose: its cells, its sweeps and its tables."""

from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from studies import rates
from studies.rates import AXES, DETOX, FILMS, STUDY, Readings
from tokengym.lab.protocol import SPARE_SEEDS
from tokengym.lab.study import DOCS, Cell, Runs, run_of, write_rows
from tokengym.lab.tables import NONE


def rows_of(cell: Cell, rate: float, seed: int, score: float) -> list[dict[str, Any]]:
    about = {**cell, "rate": rate, "seed": seed}
    return [
        {**about, "step": s, "tokens": 10 * s, "score": score, "gold_score": 0.0, "kl": 0.0}
        for s in (0, 1)
    ]


def test_runs_are_those_of_the_pages_that_quote_them(tmp_path: Path) -> None:
    film, detox = rates.cells()[2], rates.cells()[-1]
    one = STUDY.config(film.but(rate=3e-4, seed=1000), tmp_path)
    learner = one.training.learner
    assert (one.env, one.evaluation.every) == (rates.ledger_cells.ENV, 1)
    assert (learner.value_network, learner.gae_lambda) == ("reward_model", 0.8)
    assert learner.learning_rate == 3e-4
    assert STUDY.config(detox.but(rate=3e-4, seed=1000), tmp_path).env == f"tokengym/{DETOX}-v0"


def test_published_runs_of_the_first_seed_are_not_made_again(tmp_path: Path) -> None:
    STUDY.restore(tmp_path, DOCS)
    known = {cell for cell in rates.cells() if list(tmp_path.rglob(f"{cell!r}_*_1000.csv"))}
    assert {cell for cell in rates.cells() if cell.task == DETOX} <= known
    assert {cell for cell in rates.cells() if cell.critic == rates.STARTED} <= known
    for file in (tmp_path / "runs").glob("*_1000.csv"):
        (run,) = {run_of(row, (*AXES, "rate", "seed")) for row in STUDY.read(file)}
        assert STUDY.file(run, tmp_path) == file


def test_a_rate_is_swept_on_all_three_seeds_before_the_next(tmp_path: Path) -> None:
    asked = []
    for run in islice(STUDY.pending(tmp_path), 7):
        asked.append((run.rate, run.seed))
        score = {1e-3: 2.0, 3e-3: 1.0}.get(run.rate, 0.0) + (run.seed - 1000)
        write_rows(
            STUDY.file(run, tmp_path),
            rows_of(run.without("rate", "seed"), run.rate, run.seed, score),
        )
    assert asked == [*((rate, seed) for rate in (1e-3, 3e-3) for seed in SPARE_SEEDS), (3e-4, 1000)]
    assert STUDY.swept(rates.cells()[0], tmp_path) == pytest.approx({1e-3: 3.0, 3e-3: 2.0})


def test_the_table_says_what_the_choice_has_lost() -> None:
    first, second = rates.cells()[:2]
    scores = {
        1e-3: (1.0, 1.0, 1.0),
        3e-4: (0.9, 1.4, 1.3),
        3e-3: (0.0, 0.0, 0.0),
        1e-4: (0.0, 0.0, 0.0),
    }
    rows = [
        row
        for cell in (first, second)
        for rate, of_seeds in scores.items()
        for seed, score in zip(SPARE_SEEDS, of_seeds, strict=True)
        for row in rows_of(cell, rate, seed, score)
    ]
    read = Readings(
        runs=Runs(rows, AXES),
        quoted={cell: 1e-3 if cell == first else 3e-4 for cell in rates.cells()},
        ways={(FILMS, 48): 2.0},
    )
    lost, kept, *others = rates.choices_table(read).splitlines()[2:]
    assert "| 0.001 | 0.0003 | +0.200 (10.0 % of the way) | 2 of 3 | 0.200, 0.001 |" in lost
    assert f"| 0.0003 | 0.0003 | {NONE} | 2 of 3 |" in kept
    assert all(line.endswith(f"| {NONE} | {NONE} | {NONE} | {NONE} |") for line in others)
    assert "**0.900, 1.40, 1.30**" in rates.rates_table(read)
    assert rates.complete_sweep(Runs(rows[:2], AXES), first) == {}
    # Without a rate below the best the sweep has not ended, and no rate is named.
    unfinished = Runs([row for row in rows if row["rate"] != 3e-4], AXES)
    undecided = Readings(runs=unfinished, quoted=read.quoted, ways=read.ways)
    lost, *_ = rates.choices_table(undecided).splitlines()[2:]
    assert lost.endswith(f"| 0.001 | {NONE} | {NONE} | {NONE} | {NONE} |")
