"""The study of a critic that knows the score: its cells, its readings of a curve and its page."""

from pathlib import Path

import pytest

from studies import critic
from studies.critic import PUBLISHED, SIGNED, SPARSE, STARTED, WARM
from tokengym.base.files import write_csv
from tokengym.lab.protocol import SPARE_SEED, net_area, over_run
from tokengym.lab.study import DOCS, Cell


def run_rows(cell: Cell, seed: int, rate: float, height: float) -> list[dict[str, object]]:
    """Return a run whose score is ``height`` from the first update on."""
    points = [
        {"step": step, "tokens": step * 3072, "score": height if step else 0.0, "kl": 2.0}
        for step in range(31)
    ]
    about = {**cell, "rate": rate, "seed": seed}
    return [{**about, **point, "gold_score": 0.5} for point in points]


def test_cells_differ_by_the_critics_start_alone(tmp_path: Path):
    configs = [
        critic.STUDY.config(cell.but(rate=1e-3), tmp_path).training.learner
        for cell in (SPARSE, WARM[0], STARTED[1])
    ]
    starts = [(c.value_network, c.n_value_warmup, c.gae_lambda) for c in configs]
    assert starts == [("own", 0, 0.95), ("own", 3, 0.95), ("reward_model", 0, 0.95)]
    assert critic.STUDY.config(SPARSE.but(rate=1e-3), tmp_path).evaluation.every == 1


def test_every_cell_is_planned_once_and_the_ledgers_rates_are_kept(tmp_path: Path):
    planned = {cell for cells, _ in critic.rounds() for cell in cells}
    assert planned == {*critic.CELLS, *critic.AT_LENGTHS, critic.LONG_HIGH}
    critic.STUDY.restore(tmp_path, DOCS)
    for cell in PUBLISHED:
        swept = [f for f in (tmp_path / "runs").glob(f"{cell!r}_*_{SPARE_SEED}.csv")]
        assert len(swept) >= 3, cell


def test_differences_are_read_on_both_grids(tmp_path: Path):
    """Straight from 0 to the height at the first point: half of that stretch is lost."""
    docs = tmp_path / "docs"
    for folder in ("ledger", "critic"):
        (docs / folder).mkdir(parents=True)
    for file in ("runs.csv", "best_of_n.csv"):
        (docs / "ledger" / file).write_bytes((DOCS / "ledger" / file).read_bytes())
    rows = [row for seed in (0, 1, SPARE_SEED) for row in run_rows(STARTED[0], seed, 1e-3, 3.0)]
    rows += [row for seed in (0, 1) for row in run_rows(SIGNED, seed, 1e-3, 2.0 + seed)]
    write_csv(docs / "critic" / "runs.csv", rows, list(rows[0]))
    read = critic.Readings(critic.STUDY.published(docs))
    started, signed = STARTED[0], SIGNED
    assert read.fine.areas(started)[0] == pytest.approx(3.0 * (30 - 0.5) / 30 - 0.05 * 2)
    assert read.coarse.areas(started)[0] == pytest.approx(3.0 * (30 - 2.5) / 30 - 0.05 * 2)
    apart = read.fine.difference(started, signed)
    assert apart is not None
    assert apart.difference == pytest.approx(0.5 * (30 - 0.5) / 30)
    assert apart.pairs == 2
    assert read.margin == pytest.approx(0.03 * (2.96 - 0.088), abs=1e-3)


def test_the_area_of_the_net_is_that_of_its_parts():
    rows = run_rows(SPARSE, 0, 1e-3, 1.5)
    parts = [over_run(rows, measure) for measure in ("score", "kl")]
    assert net_area(rows) == pytest.approx(parts[0] - 0.05 * parts[1])
