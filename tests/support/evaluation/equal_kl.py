"""Score at equal KL on runs of which the truth is known: what the tests simulate, and a table.

``python -m tests.support.evaluation.equal_kl 2000`` prints the table of that many repetitions.
"""

import argparse
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from tokengym.evaluation.statistics import Curve, compare_at_kl

Path = np.ndarray
"""KL by update, (updates,) nats."""
Arms = tuple[dict[int, Curve], dict[int, Curve]]
"""Runs of x and of y by seed."""
STEPS = np.arange(31.0)
SCORE_NOISE, SPEEDS = 0.05, 0.03
"""Deviations: of a score as measured, and of a run's KL as a share, by seed."""
KL_NOISE = 0.15
"""Deviation of a KL as measured, where it is alike at every KL, nats."""
ERRORS = {"kl": 0.15, "round_kl": 0.08}
"""Deviations of the held-out KL and of the round's own, nats at 2 nats, growing as its root."""
FRONTIERS: dict[str, Callable[[Path], Path]] = {
    "root": np.sqrt,
    "saturating": lambda kl: 1.5 * (1.0 - np.exp(-kl / 1.5)),
    "slow": lambda kl: 2.0 * (1.0 - np.exp(-kl / 4.0)),
}
"""Score by KL, the same for both arms."""


def up(rate: float, top: float = np.inf) -> Path:
    """Return KL that rises by a rate in nats an update, up to a top."""
    return np.minimum(rate * STEPS, top)


def back(peak: float, end: float) -> Path:
    """Return KL that rises to a peak at update 10 and comes back to an end."""
    return np.interp(STEPS, [0.0, 10.0, 30.0], [0.0, peak, end])


def held(level: float) -> Path:
    """Return KL that rises to a level within eight updates and stays there."""
    return np.minimum(STEPS * level / 8.0, level)


LEAPING = np.append(0.0, 5.0 + 6.0 * (1.0 - np.exp(-STEPS[:-1] / 6.0)))
"""KL of a run whose first update goes to 5 nats, and the others to 11."""
TRUTHS: dict[str, tuple[Path, Path]] = {
    "two speeds on the way up": (up(0.9), up(0.33)),
    "two speeds to one end": (up(0.9, top=9.0), up(0.45, top=9.0)),
    "from one peak to 6 and 9": (back(12.0, 6.0), back(12.0, 9.0)),
    "from one peak to 9 and 6": (back(12.0, 9.0), back(12.0, 6.0)),
    "from one peak to 6, and the peak": (back(12.0, 6.0), back(12.0, 12.0)),
    "from unlike peaks to unlike ends": (back(14.0, 6.0), back(9.0, 7.0)),
    "a leap": (LEAPING, up(0.33)),
    "an arm that never gets there": (up(0.2, top=4.0), up(0.4, top=9.0)),
}
"""Case -> KL by update of x and of y, which are on one frontier."""
HELD: dict[str, tuple[Path, Path, float, tuple[float, float]]] = {
    "2.0 and 2.0 at 2": (held(2.0), held(2.0), 2.0, (0.6, 1.0)),
    "1.8 and 2.0 at 2": (held(1.8), held(2.0), 2.0, (0.0, 0.1)),
    "1.75 and 2.05 at 2": (held(1.75), held(2.05), 2.0, (0.0, 0.1)),
    "4.6 and 5.2 at 5": (held(4.6), held(5.2), 5.0, (0.0, 0.1)),
    "peak 12, ends 6 and 9, at 10": (back(12.0, 6.0), back(12.0, 9.0), 10.0, (0.95, 1.0)),
    "peak 14, ends 4 and 6, at 8": (back(14.0, 4.0), back(14.0, 6.0), 8.0, (0.95, 1.0)),
    "two speeds to 10, at 8": (up(0.9, top=10.0), up(0.45, top=10.0), 8.0, (0.5, 1.0)),
}
"""Case -> KL of x and of y by update, the level, and the share of comparisons to be known."""


@dataclass(frozen=True, kw_only=True)
class Design:
    """Two arms on one frontier, and how they are measured."""

    paths: tuple[Path, Path]
    """True KL of x and of y."""
    frontier: str = "slow"
    pairs: int = 5
    every: int = 1
    """Updates between two evaluations."""
    lead: float = 0.0
    """True lead of x in score."""
    measured: str = "twice"
    """How the KL is measured: "once" with `KL_NOISE`; "held out", or "twice" by the rounds too,
    with `ERRORS`."""

    def draws(self, repeats: int, seed: int = 0) -> Iterator[Arms]:
        """Yield drawn arms."""
        generator = np.random.default_rng(seed)
        for _ in range(repeats):
            x, y = (
                {pair: self._run(generator, shape, gain) for pair in range(self.pairs)}
                for shape, gain in zip(self.paths, (self.lead, 0.0), strict=True)
            )
            yield x, y

    def _run(self, generator: np.random.Generator, shape: Path, gain: float) -> Curve:
        true = (shape * (1.0 + generator.normal(0.0, SPEEDS)))[:: self.every]
        noise = generator.normal(size=(3, len(true)))
        values = {"score": FRONTIERS[self.frontier](true) + gain + SCORE_NOISE * noise[0]}
        if self.measured == "once":
            values["kl"] = true + KL_NOISE * noise[1] * (true > 0.0)
        else:
            for row, (name, error) in zip(noise[1:], ERRORS.items(), strict=True):
                values[name] = true + error * np.sqrt(true / 2.0) * row
            values["round_kl"][-1] = np.nan  # the last policy samples no round
            if self.measured == "held out":
                del values["round_kl"]
        return Curve(steps=STEPS[:: self.every], values=values)


class Found(NamedTuple):
    """What many comparisons of one design found."""

    known: float
    """Share of them that are known."""
    bias: float
    """Mean of the difference minus the true one; NaN where hardly one is known, as those below."""
    coverage: float
    """Share of the known whose 95 % interval holds the truth."""
    half_width: float
    """Mean half width of the intervals."""


def found(design: Design, kl: float | None, repeats: int, seed: int = 0) -> Found:
    """Return what comparisons at a KL find; None is the end of the baseline."""
    return found_of(design.draws(repeats, seed), kl, design.lead)


def found_of(draws: Iterable[Arms], kl: float | None, lead: float) -> Found:
    """Return the same of arms that are drawn already, by their true lead."""
    compared = [compare_at_kl(x, y, kl) for x, y in draws]
    differences = [at.difference for at in compared if at is not None]
    known = len(differences) / len(compared)
    if known < 0.01:
        return Found(known, math.nan, math.nan, math.nan)
    return Found(
        known,
        float(np.mean([d.difference for d in differences])) - lead,
        float(np.mean([d.low <= lead <= d.high for d in differences])),
        float(np.mean([(d.high - d.low) / 2.0 for d in differences])),
    )


def crossing(case: str, lead: float = 0.0) -> Design:
    """Return a design whose runs pass a level, measured every third update and once."""
    return Design(paths=TRUTHS[case], frontier="root", every=3, lead=lead, measured="once")


PASSING = (
    ("from one peak to 6 and 9", 0.0, (8.0, 10.0, 11.0)),
    ("from one peak to 6, and the peak", 0.0, (11.0,)),
    ("two speeds to one end", 0.0, (8.0,)),
    ("from one peak to 6 and 9", 0.2, (10.0, 11.0)),
)
"""Case, true lead and levels of the runs that pass a level."""


def print_tables(repeats: int) -> None:
    """Print known, bias, coverage and half width of every case."""
    error = math.sqrt(0.05 * 0.95 / repeats)
    print(f"{repeats} repetitions; a coverage of 0.95 has an error of {error:.4f} where all known")
    print("| case | pairs | known | bias | coverage | half width |\n|---|---|---|---|---|---|")

    def show(case: str, design: Design, kl: float) -> None:
        known, *others = found(design, kl, repeats)
        cells = [
            f"{value:+.4f}" if at == 0 and value == value else f"{value:.4f}"
            for at, value in enumerate(others)
        ]
        row = [case, str(design.pairs), f"{known:.3f}", *cells]
        print(f"| {' | '.join(row)} |", flush=True)

    for case, (x, y, kl, _) in HELD.items():
        for pairs in (5, 10):
            show(case, Design(paths=(x, y), pairs=pairs), kl)
    for case, lead, levels in PASSING:
        for kl in levels:
            show(f"{case}, at {kl:g}" + f", lead {lead:g}" * (lead > 0), crossing(case, lead), kl)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("repeats", type=int)
    print_tables(parser.parse_args().repeats)
