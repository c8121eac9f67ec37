"""Progress of a comparison: a live board on a terminal, lines elsewhere."""

from types import TracebackType

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
    """

    def __init__(self, console: Console, *, total: int, done: int, steps: int) -> None:
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
            TextColumn("{task.fields[score]}", markup=False),
        )
        self._tasks: dict[Run, object] = {}
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
        self._tasks[run] = self._runs.add_task("", total=self.steps, name=name, score="")

    def update(self, run: Run, step: int, score: float) -> None:
        """A run was measured."""
        self._runs.update(self._tasks[run], completed=step, score=f"score {score:.3f}")  # type: ignore[arg-type]

    def finish(self, run: Run, error: str | None) -> None:
        """A run has ended, well or with an error."""
        self._runs.remove_task(self._tasks.pop(run))  # type: ignore[arg-type]
        self.done += 1
        self._overall.update(self._all, completed=self.done)
        line = Text(f"[{self.done}/{self.total}] {run[0]}, seed {run[1]}: ")
        line.append(f"failed: {error}" if error else "finished", style="red" if error else "green")
        self.console.print(line, soft_wrap=True)
        self.console.file.flush()  # or a log file shows nothing until the end
