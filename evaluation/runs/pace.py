"""The time that the rest of several runs takes."""

import heapq
from dataclasses import dataclass

from tokengym.evaluation.runs.spec import REFERENCE

Key = tuple[str, int]
"""Name and seed of a run."""


@dataclass
class Times:
    """When a run began, was measured, and ended, in seconds of one clock."""

    name: str
    began: float
    first: tuple[int, float] | None = None
    """Step and time of the first measurement."""
    last: tuple[int, float] | None = None
    gap: int | None = None
    """Steps between the last two measurements."""
    closing: float | None = None
    """Time from the measurement at the last step to the end."""

    @property
    def opening(self) -> float | None:
        """Time from the beginning to the first measurement."""
        return None if self.first is None else self.first[1] - self.began

    @property
    def pace(self) -> float | None:
        """Time of a step, the measurements included."""
        if self.first is None or self.last is None or self.last[0] <= self.first[0]:
            return None
        return (self.last[1] - self.first[1]) / (self.last[0] - self.first[0])


class TimeLeft:
    """Estimate of the time until the last of several runs has ended.

    A run takes the time to its first measurement, that of its steps, each measurement included, and
    that from the last one to its end. What is not known of a run is the mean of its arm's, or of
    all. Runs that have not begun take the places of those that end, of which there are as many as
    were at work at once. Between two measurements the estimate counts down, to no less than what
    is left after the next one.

    Args:
        steps: Steps of a run.
        runs: Runs to do, the reference samples not counted.
    """

    def __init__(self, steps: int, runs: int) -> None:
        self.steps = steps
        self._waiting, self._places = runs, 0
        self._at_work: dict[Key, Times] = {}
        self._known: list[Times] = []

    def begin(self, run: Key, now: float) -> None:
        """A run begins."""
        self._at_work[run] = times = Times(run[0], now)
        self._known.append(times)
        self._waiting -= run[0] != REFERENCE
        self._places = max(self._places, len(self._at_work))

    def measure(self, run: Key, step: int, now: float) -> None:
        """A run has been measured after this many of its steps."""
        times = self._at_work[run]
        times.first = times.first or (step, now)
        times.gap = step - times.last[0] if times.last else None
        times.last = step, now

    def end(self, run: Key, now: float) -> None:
        """A run has ended, which need not have been seen before."""
        times = self._at_work.pop(run, None)
        if times is None:
            self._waiting -= run[0] != REFERENCE
        elif times.last is not None and times.last[0] >= self.steps:
            times.closing = now - times.last[1]

    def of(self, run: Key, now: float) -> float | None:
        """Return the seconds that a run at work still takes; None before a pace is known."""
        times = self._at_work[run]
        pace = times.pace or self._mean("pace", times.name)
        closing = self._apart("closing", times.name)
        if times.last is None:
            whole = self._whole(times.name)
            opening = self._apart("opening", times.name)
            return None if whole is None else whole - min(now - times.began, opening)
        rest = self.steps - times.last[0]
        waited = now - times.last[1]
        if rest <= 0:
            return max(closing - waited, 0.0)
        if pace is None:
            return None
        gap = times.gap or self._mean("gap", times.name) or rest
        return pace * rest - min(waited, pace * min(gap, rest)) + closing

    def of_all(self, now: float) -> float | None:
        """Return the seconds until all have ended; None before a pace is known, and after that."""
        left = {run: self.of(run, now) for run in self._at_work}
        whole = self._whole()
        if (self._waiting > 0 and whole is None) or None in left.values():
            return None
        if not left and self._waiting <= 0:
            return None
        ends = [seconds for seconds in left.values() if seconds is not None]
        ends += [0.0] * (max(self._places, 1) - len(ends))
        heapq.heapify(ends)
        for _ in range(self._waiting):
            assert whole is not None
            heapq.heapreplace(ends, ends[0] + whole)
        return max(ends)

    def _whole(self, name: str | None = None) -> float | None:
        """Return the time of a whole run, of an arm or of any."""
        pace = self._mean("pace", name)
        if pace is None:
            return None
        return pace * self.steps + self._apart("opening", name) + self._apart("closing", name)

    def _apart(self, part: str, name: str | None) -> float:
        """Return the mean time of a part besides the steps; none is counted before one is known."""
        known = self._mean(part, name)
        return 0.0 if known is None else known

    def _mean(self, part: str, name: str | None) -> float | None:
        """Return the mean of a part of the runs' times, of an arm's where one of it is known."""
        parts = [(times.name, getattr(times, part)) for times in self._known]
        # The reference samples are no training: their pace is their own.
        known = [pair for pair in parts if pair[1] is not None]
        known = [pair for pair in known if (pair[0] == REFERENCE) == (name == REFERENCE)]
        known = [pair for pair in known if pair[0] == name] or known
        return sum(value for _, value in known) / len(known) if known else None
