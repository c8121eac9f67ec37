"""The display of a comparison's runs: a live board on a terminal, lines elsewhere."""

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from tokengym.base.text import fixed
from tokengym.evaluation.report.learning import SHOWN
from tokengym.evaluation.runs.pace import Key, TimeLeft
from tokengym.evaluation.runs.run import Run
from tokengym.evaluation.runs.spec import REFERENCE, RunSpec

EVERY = 30.0
"""Seconds between two lines where there is no terminal."""
GLANCE = 0.5
"""Seconds between two looks at the folders of runs."""


class ProgressDisplay:
    """Shows the runs of a comparison, which may be at work on any machine.

    ``done`` of its ``total`` runs, the reference samples not counted, were finished before. The
    folders of ``specs`` are looked at, for whether they have begun and how far they are; of others
    `start` and `update` tell. Each run has ``steps`` of the kind ``step_name``.
    """

    def __init__(
        self,
        console: Console,
        *,
        total: int,
        done: int,
        steps: int,
        step_name: str = "update",
        specs: Sequence[RunSpec] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.console = console
        self.steps, self._step_name = steps, step_name
        self.done = done
        self.total = total
        self._overall = Progress(
            TextColumn("[bold]runs"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
        )
        self._all = self._overall.add_task("", total=total, completed=done, left="")
        self._runs = Progress(
            TextColumn("{task.fields[name]}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}", markup=False),
        )
        self._tasks: dict[Key, Any] = {}
        self._clock = clock
        self._time_left = TimeLeft(steps, total - done)
        self._titles = {spec.key: f"{spec.arm}, seed {spec.seed}" for spec in specs}
        self._said = ""  # the last line, where there is no terminal
        self._watched = {spec.key: Run(spec) for spec in specs if spec.folder}
        self._seen: dict[Key, Any] = {}  # what each wrote last of how far it is
        self._lock = threading.RLock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look_often, daemon=True)
        self._live = Live(
            Group(self._runs, self._overall), console=console, refresh_per_second=4, transient=True
        )

    def __enter__(self) -> "ProgressDisplay":
        if self.console.is_terminal:
            self._live.start()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._live.stop()

    def start(self, run: Key) -> None:
        """A run has begun."""
        name = self._name(run)
        with self._lock:
            self._time_left.begin(run, self._clock())
        self._tasks[run] = self._runs.add_task("", total=self.steps, name=name, figures="")

    def update(self, run: Key, step: int, point: Mapping[str, Any]) -> None:
        """A run was measured: ``point`` is the last of its curve."""
        shown, now = figures(point), self._clock()
        with self._lock:
            self._time_left.measure(run, step, now)
            left = self._time_left.of(run, now)
        if step < self.steps and left is not None:
            shown += f", {clock_time(left)} left"
        self._runs.update(self._tasks[run], completed=step, figures=shown)
        self._overall.update(self._all, left=self._left())
        if self.total == 1 and not self.console.is_terminal:
            self._say(f"{self._step_name} {step:,} of {self.steps:,}: {shown}")

    def _name(self, run: Key) -> str:
        return self._titles.get(run, f"{run[0]}, seed {run[1]}")

    def _say(self, line: str) -> None:
        """Print a line where there is no terminal, unless it was the last."""
        if line != self._said:
            self._said = line
            self._print(Text(line))

    def _print(self, line: Text) -> None:
        self.console.print(line, soft_wrap=True)
        self.console.file.flush()  # or a log file shows nothing until the end

    def line(self) -> str:
        """Return how far the work is, such as "3 of 15 runs done, about 4:00 left"."""
        left = self._left()
        return f"{self.done} of {self.total} runs done{', ' if left else ''}{left}"

    def _left(self) -> str:
        """Return the time that the rest takes in words, or "" where it is not known."""
        with self._lock:
            left = self._time_left.of_all(self._clock())
        if left is None:
            return ""
        return f"about {clock_time(left)} left" if round(left) else "nearly done"

    def _look_often(self) -> None:
        said = self._clock()
        while not self._ended.wait(min(GLANCE, EVERY)):
            self.look()
            # Of one run each point is a line.
            if not self.console.is_terminal and self.total > 1 and self._clock() - said >= EVERY:
                said = self._clock()
                self._say(self.line())

    def look(self) -> None:
        """See in the runs' folders which have begun, and how far they are."""
        with self._lock:
            for run, watched in self._watched.items():
                is_at_work, progress = watched.progress
                if is_at_work and run not in self._tasks:
                    self.start(run)
                if progress is not None and progress != self._seen.get(run):
                    self._seen[run] = progress
                    self.update(run, *progress)
            self._overall.update(self._all, left=self._left())

    def finish(self, run: Key, error: str | None, *, resumes: bool = False) -> None:
        """A run has ended, well or with an error; or was stopped, and resumes another time."""
        with self._lock:
            self._watched.pop(run, None)
            if run in self._tasks:
                self._runs.remove_task(self._tasks.pop(run))
            self._time_left.end(run, self._clock())
            is_counted = run[0] != REFERENCE
            self.done += is_counted
            self._overall.update(self._all, completed=self.done, left=self._left())
        counted = f"[{self.done}/{self.total}] {self._name(run)}" if is_counted else REFERENCE
        line = Text(f"{counted}: ")
        ended = f"failed: {error}" if error else "finished"
        ended = f"stopped: {error}; the same command resumes it" if resumes else ended
        self._print(line.append(ended, style="red" if error else "green"))


def figures(point: Mapping[str, Any]) -> str:
    """Return score, KL, what a learner from given data logs, and speed of a point in words.

    Example:
        >>> figures({"score": 1.5, "kl": 2.25, "tokens": 9600, "wall_s": 8.0})
        'score 1.500, KL 2.25 nats, 1200 tokens/s'
    >>> figures({"score": 0.5, "kl": -0.001, "tokens": 0})
    'score 0.500, KL 0.00 nats'
    """
    shown = [f"score {fixed(point.get('score', math.nan), 3)}"]
    if point.get("kl") is not None:
        shown.append(f"KL {fixed(point['kl'], 2)} nats")
    shown += [f"{name} {fixed(point[name], 3)}" for name in SHOWN if point.get(name) is not None]
    if point["tokens"] and point["wall_s"] > 0:
        shown.append(f"{point['tokens'] / point['wall_s']:.0f} tokens/s")
    return ", ".join(shown)


def clock_time(seconds: float) -> str:
    """Return a duration as a clock shows it.

    Example:
        >>> clock_time(75), clock_time(3725)
        ('1:15', '1:02:05')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
