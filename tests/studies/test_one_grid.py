"""The grid of the main sentence: speeds by hand, and what is chosen on the other seeds."""

from collections.abc import Callable, Iterator, Mapping

import pytest

from studies import one_grid
from studies.one_grid import ARMS, LENGTHS, SEEDS, STUDY, Way
from tokengym.evaluation.statistics import RelativeSteps
from tokengym.lab.study import Cell, Row, Runs

AT = Way(0.0, 4.0)  # 75 % of the way is a score of 3


def points(cell: Cell, seed: int, rise: float, kl: float = 1.0) -> Iterator[Row]:
    """A run whose score rises by so much an update, at one KL."""
    for step in range(31):
        figures = {"score": rise * step, "gold_score": 0.0, "kl": kl}
        yield {**cell, "seed": seed, "step": step, "tokens": 64 * step, **figures}


def runs_of(rise: Callable[[Cell, int], float], length: int = 24) -> Runs:
    rows = [
        row
        for name in ARMS
        for cell in one_grid.kept(length, name)
        for seed in SEEDS
        for row in points(cell, seed, rise(cell, seed))
    ]
    return Runs(rows, STUDY.axes)


def test_updates_to_the_level_are_interpolated_and_end_with_the_run() -> None:
    cell = one_grid.cells(24, "sparse")[0]
    assert one_grid.steps_of([*points(cell, 0, 0.4)], AT) == pytest.approx(7.5)
    assert one_grid.steps_of([*points(cell, 0, 0.05)], AT) == 30


def test_a_cell_is_chosen_on_the_other_seeds_alone() -> None:
    """The cell that is best on its own seed alone is not taken there."""
    first, second = one_grid.cells(24, "sparse")[:2]

    def rise(cell: Cell, seed: int) -> float:
        lucky = cell == first and seed == SEEDS[0]
        return 0.9 if lucky else 0.5 if cell == second else 0.2

    runs = runs_of(rise)
    criterion = one_grid.CRITERIA["updates to 75 % of the way"]
    chosen = one_grid.picked(runs, one_grid.cells(24, "sparse"), criterion, AT, [*SEEDS])
    assert chosen == [second] * len(SEEDS)


def test_the_pilot_stands_behind_no_figure() -> None:
    assert one_grid.PILOT not in SEEDS
    assert not {one_grid.PILOT, *SEEDS} & {*range(10), 1000, 1001, 1002}


@pytest.mark.parametrize("length", LENGTHS)
def test_each_run_warms_up_at_the_rate_and_lambda_of_its_cell(length: int, tmp_path) -> None:
    for name in ARMS:
        cell = one_grid.cells(length, name)[1]
        made = one_grid.config(cell, tmp_path)
        spec = made.spec(made.names[0], 20, None)
        learner = spec.training.learner
        assert learner.n_warmup_updates == 5
        assert (learner.gae_lambda, learner.learning_rate) == (0.5, 1e-3)
        assert (spec.training.max_new_tokens, spec.evaluation.stream) == (length, "run")


def ratios(speeds: Mapping[str, RelativeSteps | None]) -> list[float]:
    """Return how many times as fast an arm is, by way of choosing."""
    return [1.0 / speed.ratio for speed in speeds.values() if speed is not None]


def test_an_arm_on_the_line_of_another_is_as_fast_however_the_cell_is_chosen() -> None:
    runs = runs_of(lambda cell, seed: 0.3)
    speeds = one_grid.four_ways(runs, "uniform", 24, AT, tuple(SEEDS))
    assert ratios(speeds) == pytest.approx([1.0] * 4)


def test_twice_the_rise_is_twice_as_fast_however_the_cell_is_chosen() -> None:
    """To the same level the area is half as large, but for the update in which the curve passes."""
    runs = runs_of(lambda cell, seed: 0.6 if cell.rule == "abc-signed" else 0.3)
    speeds = one_grid.four_ways(runs, "abc-signed", 24, AT, tuple(SEEDS))
    assert ratios(speeds) == pytest.approx([2.0] * 4, rel=0.01)
    # Over 30 updates the score is 15 times the rise, and the KL and gold the same.
    row = (
        "| 24 | `abc-signed` | **+4.50** (4.50 to 4.50) | 0.000 (0.000 to 0.000) | +4.50 | 0.000 |"
    )
    table = one_grid.grid_table(runs, {24: AT})
    assert f"{row} **2.00** (2.00 to 2.00) | 0.000, 0.000 | 1.00, 1.00 |" in table
    assert "| `abc-signed` | **+4.50** (4.50 to 4.50) |" in one_grid.leads_table(runs, {24: AT})


def test_the_speed_against_a_control_is_by_the_cells_of_both() -> None:
    rises = {"abc-signed": 0.6, "uniform": 0.3, "random": 0.2}
    runs = runs_of(lambda cell, seed: rises.get(cell.rule, 0.25))
    for control, times in (("uniform", 2.0), ("random", 3.0)):
        speeds = one_grid.four_ways(runs, "abc-signed", 24, AT, tuple(SEEDS), control)
        assert ratios(speeds) == pytest.approx([times] * 4, rel=0.02)
