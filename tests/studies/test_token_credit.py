"""The study of film reviews: its cells and runs, and the parts of a lead by hand."""

from pathlib import Path

import pytest

from studies.token_credit import LONG, STUDY, WARMUP, arms, beside, settings
from tokengym.lab.protocol import PRICE, SPARE_SEED
from tokengym.lab.study import DOCS


def test_every_cell_is_planned_and_published() -> None:
    planned = {cell: seeds for cells, seeds in STUDY.rounds() for cell in cells}
    assert set(planned) == {cell for group in settings() for cell in group}
    assert {len(seeds) for cell, seeds in planned.items() if cell.warmup} == {5}
    assert {len(seeds) for cell, seeds in planned.items() if not cell.warmup} == {10}
    runs = STUDY.published(DOCS).runs
    for cell in planned:
        assert len(runs.runs[cell]) >= 5, cell
        assert len(runs.sweeps[cell]) >= 3, cell
    assert SPARE_SEED not in runs.runs[arms(48)[0]]


def test_a_run_is_that_of_its_cell(tmp_path: Path) -> None:
    cells = [*arms(96), *arms(96, warmup=WARMUP)[:1], *arms(96, 120)[:1], *beside(48)[-1:]]
    made = [
        spec for cell in cells for spec in STUDY.config(cell.but(rate=3e-4, seed=0), tmp_path).runs
    ]
    learners = [each.training.learner for each in made]
    assert [c.gae_lambda for c in learners] == [1.0, 0.5, 0.8, 1.0, 0.95, 0.5]
    starts = ["own", "own", "reward_model", "own", "own", "reward_model"]
    assert [c.value_network for c in learners] == starts
    assert [c.n_warmup_updates for c in learners] == [0, 0, 0, WARMUP, 0, 0]
    assert {(c.learning_rate, c.kl_coef) for c in learners} == {(3e-4, PRICE)}
    assert [each.training.steps for each in made] == [30, 30, 30, 30, 120, 30]
    assert [each.training.max_new_tokens for each in made] == [96, 96, 96, 96, 96, 48]
    assert [word.text for word in made[1].rewards] == ["abc-signed"]
    assert made[0].evaluation.every == 1


@pytest.mark.parametrize("updates", LONG)
def test_the_grid_is_that_of_the_protocol(updates: int, tmp_path: Path) -> None:
    (spec,) = STUDY.config(arms(48, updates)[0].but(rate=1e-3), tmp_path).runs
    grid = spec.evaluation
    measured = [step for step in range(updates + 1) if grid.is_due(step)]
    assert measured[:11] == [*range(11)]
    assert len(measured) >= 30
    assert measured[-1] == updates
