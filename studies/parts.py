"""Parts of a lead in score - c KL, which may be score, gold or KL that was not paid."""

from tokengym.evaluation.statistics import Curve, PairedDifference, paired_difference
from tokengym.lab.protocol import curve_of
from tokengym.lab.study import Cell, Runs
from tokengym.lab.tables import paired


def of_run(curve: Curve, measure: str, *, at_end: bool) -> float:
    """Return the mean of a measurement over a run or its last tenth; "net" is score - c KL."""
    name = "net_score" if measure == "net" else measure
    return curve.end(name) if at_end else curve.area(name)


def curves(runs: Runs, cell: Cell) -> dict[int, Curve]:
    """Return the curves of a cell's runs, by seed."""
    return {seed: curve_of(points) for seed, points in runs.runs.get(cell, {}).items()}


def by_seed(runs: Runs, cell: Cell, measure: str, *, at_end: bool = False) -> dict[int, float]:
    """Return `of_run` of each of a cell's runs, by seed."""
    return {
        seed: of_run(curve, measure, at_end=at_end) for seed, curve in curves(runs, cell).items()
    }


def lead(
    runs: Runs, cell: Cell, base: Cell, measure: str, *, at_end: bool = False
) -> PairedDifference:
    """Return a cell's figure minus another's, paired by seed."""
    return paired_difference(
        *paired(*(by_seed(runs, at, measure, at_end=at_end) for at in (cell, base)))
    )
