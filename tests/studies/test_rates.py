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


def test_no_rate_is_named_before_its_sweep_has_ended() -> None:
    first, *_ = rates.cells()
    rows = [
        row
        for rate in (1e-3, 3e-3)  # the best has no neighbour below
        for seed in SPARE_SEEDS
        for row in rows_of(first, rate, seed, 1e-3 / rate)
    ]
    quoted = dict.fromkeys(rates.cells(), 1e-3)
    read = Readings(runs=Runs(rows, AXES), quoted=quoted, ways={(FILMS, 48): 2.0})
    for line in rates.choices_table(read).splitlines()[2:]:
        assert line.endswith(f"| 0.001 | {NONE} | {NONE} | {NONE} | {NONE} |")
    assert rates.complete_sweep(Runs(rows[:2], AXES), first) == {}
