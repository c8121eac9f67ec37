"""Progress of a comparison: a live board on a terminal, lines elsewhere."""

import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

Run = tuple[str, int]


class Board:
    """Shows the runs of a comparison.

    Args:
        console: The console it is shown on.
        total: Runs of the whole comparison.
        done: Runs that were finished before.
        steps: Updates per run.
        clock: Returns the time, seconds.
    """

    def __init__(
        self,
        console: Console,
        *,
        total: int,
        done: int,
        steps: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.console = console
        self.steps = steps
        self.done = done
        self.total = total
        self._overall = Progress(
            TextColumn("[bold]runs"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        )
        self._all = self._overall.add_task("", total=total, completed=done)
        self._runs = Progress(
            TextColumn("{task.fields[name]}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}", markup=False),
        )
        self._tasks: dict[Run, Any] = {}
        self._first: dict[Run, tuple[int, float]] = {}  # step and time of the first measurement
        self._clock = clock
        self._live = Live(
            Group(self._runs, self._overall), console=console, refresh_per_second=4, transient=True
        )

    def __enter__(self) -> "Board":
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def start(self, run: Run) -> None:
        """A run has begun."""
        name = f"{run[0]}, seed {run[1]}"
        self._tasks[run] = self._runs.add_task("", total=self.steps, name=name, figures="")

    def update(self, run: Run, step: int, point: Mapping[str, Any]) -> None:
        """A run was measured: ``point`` is the last of its curve."""
        shown = figures(point)
        now = self._clock()
        began, start = self._first.setdefault(run, (step, now))
        if began < step < self.steps:
            left = (now - start) / (step - began) * (self.steps - step)
            shown += f", {clock_time(left)} left"
        self._runs.update(self._tasks[run], completed=step, figures=shown)

    def finish(self, run: Run, error: str | None) -> None:
        """A run has ended, well or with an error."""
        self._runs.remove_task(self._tasks.pop(run))
        self.done += 1
        self._overall.update(self._all, completed=self.done)
        line = Text(f"[{self.done}/{self.total}] {run[0]}, seed {run[1]}: ")
        line.append(f"failed: {error}" if error else "finished", style="red" if error else "green")
        self.console.print(line, soft_wrap=True)
        self.console.file.flush()  # or a log file shows nothing until the end


def figures(point: Mapping[str, Any]) -> str:
    """Return score, KL and speed of a point of the curve in words.

    Example:
        >>> figures({"score": 1.5, "kl": 2.25, "tokens": 9600, "wall_s": 8.0})
        'score 1.500, KL 2.25 nats, 1200 tokens/s'
    """
    shown = [f"score {point['score']:.3f}"]
    if point.get("kl") is not None:
        shown.append(f"KL {point['kl']:.2f} nats")
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
