"""The grid of the main sentence: speeds by hand, and what is chosen on the other seeds."""

from collections.abc import Callable, Iterator

import pytest

from studies import one_grid
from studies.one_grid import ARMS, LENGTHS, SEEDS, STUDY, Way
from tokengym.lab.study import DOCS, Cell, Row, Runs
from tokengym.lab.tables import Speed

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


def test_twice_the_rise_is_twice_as_fast_however_the_cell_is_chosen() -> None:
    runs = runs_of(lambda cell, seed: 0.6 if cell.rule == "abc-signed" else 0.3)
    (line,) = (
        line
        for line in one_grid.chosen_table(runs, {24: AT}).splitlines()
        if line.startswith("| 24 | `abc-signed`")
    )
    assert line.count("2.00 (2.00 to 2.00)") == 4
    assert "| 2.0 | 2.00 (0.5, 0.0003) to 2.00 (0.5, 0.0003) | 5 |" in line


def test_the_speed_against_a_control_is_by_the_cells_of_both() -> None:
    rises = {"abc-signed": 0.6, "uniform": 0.3, "random": 0.2}
    runs = runs_of(lambda cell, seed: rises.get(cell.rule, 0.25))
    lines = [
        line
        for line in one_grid.controls_table(runs, {24: AT}).splitlines()
        if line.startswith("| 24 | `abc-signed`")
    ]
    assert [line.count("2.00 (2.00 to 2.00)") for line in lines] == [4, 0]
    assert [line.count("3.00 (3.00 to 3.00)") for line in lines] == [0, 4]


def test_what_stands_behind_a_speed_is_read_where_it_is_reached() -> None:
    """KL that rises with the updates is read at the crossing; the cell that is paid for is not."""
    dear = one_grid.cells(24, "sparse")[0]

    def rows(cell: Cell, seed: int) -> Iterator[Row]:
        rise, kl = (0.4, 9.0) if cell == dear else (0.3, 0.1)
        for point in points(cell, seed, rise):
            yield {**point, "kl": kl * point["step"], "gold_score": 0.5}

    every = [
        row
        for name in ARMS
        for cell in one_grid.cells(24, name)
        for seed in SEEDS
        for row in rows(cell, seed)
    ]
    table = one_grid.spent_table(Runs(every, STUDY.axes), {24: AT}).splitlines()
    of_sparse = [line.split(" | ")[2:] for line in table if line.startswith("| 24 | `sparse` |")]
    assert [line[1] for line in of_sparse[:3:2]] == ["0.5 at 0.0003, 5", "0.5 at 0.001, 5"]
    # 7.5 updates at 9 nats each, and 10 at 0.1; over the tokens of 30 updates in the mean.
    assert [line[2:5] for line in of_sparse[:3:2]] == [
        ["7.50", "67.5", "135"],
        ["10.0", "1.00", "1.50"],
    ]
    assert of_sparse[0][-1].strip("| ") == "0.500"


@pytest.mark.parametrize(
    ("lows", "highs", "text"),
    [
        ((1.1, 1.3), (1.5, 2.1), "1.3 to 1.7"),
        ((1.1, 0.9), (1.5, 2.1), None),
        ((0.4, 0.5), (0.8, 0.9), "0.6 to 0.7"),
        ((0.4, 1.1), (0.8, 1.9), None),
    ],
)
def test_a_factor_is_said_if_all_ways_leave_out_one(
    lows: tuple[float, ...], highs: tuple[float, ...], text: str | None
) -> None:
    speeds = [Speed((lo + hi) / 2, lo, hi, False) for lo, hi in zip(lows, highs, strict=True)]
    assert one_grid.said(speeds) == text


def test_a_factor_over_runs_that_never_arrive_is_at_least_that() -> None:
    def rise(cell: Cell, seed: int) -> float:
        if cell.rule == "abc-signed":
            return 0.3  # 10 updates; `sparse` takes 30 at the one rate at least, and 10 at others
        return 0.05 if cell.learning_rate == 3e-4 else 0.3

    table = one_grid.chosen_table(runs_of(rise), {24: AT})
    (line,) = (line for line in table.splitlines() if line.startswith("| 24 | `abc-signed`"))
    assert "| 1.00 (0.5, 0.001) to at least 3.00 (0.5, 0.0003) | 5 |" in line


def test_a_factor_of_arms_that_both_never_arrive_is_unknown() -> None:
    def rise(cell: Cell, seed: int) -> float:
        return 0.05 if cell.learning_rate == 3e-4 else 0.3

    table = one_grid.chosen_table(runs_of(rise), {24: AT})
    (line,) = (line for line in table.splitlines() if line.startswith("| 24 | `abc-signed`"))
    assert "| 1.00 (0.5, 0.001) to 1.00 (0.5, 0.001) | 5 |" in line


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


def test_a_rate_is_dropped_where_it_is_always_worst_or_never_best() -> None:
    rises = {3e-4: 0.2, 1e-3: 0.5, 3e-3: 0.6}

    def pilot(*far: Cell) -> Runs:
        rows = [
            row
            for name in ARMS
            for cell in one_grid.cells(24, name)
            for row in points(
                cell, one_grid.PILOT, rises[cell.learning_rate], 200.0 if cell in far else 1.0
            )
        ]
        return Runs(rows, STUDY.axes)

    # Of each rate: of 20 pairs of arm and lambda worst by all three, of 15 of arm and one best.
    counts = one_grid.to_drop(pilot(), {24: AT, 48: AT})
    assert counts == {24: {3e-4: (20, 0), 1e-3: (0, 0), 3e-3: (0, 15)}}
    # One pair in which more score is paid for with KL, then all four of that arm.
    far = [cell for cell in one_grid.cells(24, "random") if cell.learning_rate == 3e-3]
    paid = one_grid.to_drop(pilot(far[-1]), {24: AT})
    assert paid == {24: {3e-4: (19, 0), 1e-3: (0, 0), 3e-3: (0, 15)}}
    paid = one_grid.to_drop(pilot(*far), {24: AT})
    assert paid == {24: {3e-4: (16, 0), 1e-3: (0, 1), 3e-3: (0, 14)}}


def test_what_is_dropped_is_what_the_published_pilot_says() -> None:
    runs = STUDY.published(DOCS).runs
    counts = one_grid.to_drop(runs, one_grid.ways(DOCS))
    assert {
        (length, rate)
        for length, of in counts.items()
        for rate, (worst, best) in of.items()
        if worst == 20 or (length != 24 and best == 0)
    } == {at for at in one_grid.DROPPED if at[0] in counts}


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
