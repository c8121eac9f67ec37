"""One shape for the studies behind docs/results: cells, their runs, what is published, the page."""

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro

from tokengym import Comparison, decide
from tokengym.base import explicit, write_csv
from tokengym.evaluation import run as run_one
from tokengym.evaluation.runs import (
    EvaluationSettings,
    RunRecord,
    TaskSettings,
)
from tokengym.evaluation.statistics import (
    PairedDifference,
    paired_difference,
    student_interval,
)
from tokengym.lab.protocol import (
    FIRST_RATE,
    PRICE,
    RATES,
    SPARE_SEEDS,
    Row,
    best_rate,
    measured,
    net_area,
    next_rate,
)
from tokengym.lab.tables import fill, grouped, mean, page_wide, paired

Work = TypeVar("Work")
Round = tuple[Sequence["Cell"], Sequence[int]]
NET = "score - c KL"
"""Name of the primary measure, see docs/results/protocol.md."""
Out = Annotated[Path, tyro.conf.arg(help="Folder of the study's runs.")]
Data = Annotated[Path, tyro.conf.arg(help="Folder of the texts; they are not copied.")]
Docs = Annotated[Path, tyro.conf.arg(help="Folder of the study's page.")]
DOCS = Path("docs/results")
"""Folder of the pages that the studies fill."""
OF_RUNS = ("rate", "seed")
"""Columns that say, with its cell, which run a row is from."""


class Cell(Mapping[str, Any]):
    """One setting of a study's axes: its values by name, as attributes too.

    Cells are equal if their values are, and can be the keys of a mapping.

    Args:
        values: Value of each axis, a text or a number.

    Example:
        >>> cell = Cell(rule="sparse", length=48)
        >>> cell.rule, dict(cell.but(length=24))
        ('sparse', {'rule': 'sparse', 'length': 24})
    """

    def __init__(self, **values: Any) -> None:
        self._values = values

    def __getitem__(self, axis: str) -> Any:
        return self._values[axis]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __eq__(self, other: object) -> bool:
        # Mapping's own makes two dictionaries of each.
        return self._values == other._values if isinstance(other, Cell) else super().__eq__(other)

    def __hash__(self) -> int:
        return hash(frozenset(self._values.items()))

    def __getattr__(self, axis: str) -> Any:
        try:
            return self.__dict__["_values"][axis]
        except KeyError:
            raise AttributeError(axis) from None

    def __repr__(self) -> str:
        return "_".join(shown(value) for value in self._values.values())

    def but(self, **changes: Any) -> "Cell":
        """Return the cell with some values changed or added."""
        return Cell(**{**self._values, **changes})

    def without(self, *axes: str) -> "Cell":
        """Return the cell without some axes."""
        return Cell(**{axis: value for axis, value in self._values.items() if axis not in axes})


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Rows that are made once, before the runs: what the best of n untrained responses has."""

    file: str
    """Published file, in the study's folder."""
    parts: Mapping[str, Callable[[Path], Sequence[Row]]]
    """File of each part in the folder of the runs, and what makes its rows, given that folder."""
    text: tuple[str, ...] = ()
    """Columns that hold text."""
    part_of: Callable[[Row], str] | None = None
    """Returns the part that a published row is from; None: the only one."""


def single_run(
    env: str,
    rule: str,
    *,
    evaluation: EvaluationSettings,
    task: TaskSettings | None = None,
    stream: Literal["run", "shared"] = "shared",
    **training: Any,
) -> Comparison:
    """Return the comparison of one reward that a run is of; the run names its seed.

    Args:
        env: Environment id.
        rule: The reward.
        evaluation: How the run is measured.
        task: Prompts and models; None takes the task's own.
        stream: How evaluations draw, see `EvaluationSettings.stream`: every run that was published
            until November 2026 drew by one stream for all.
        training: Settings of training, by the words of their options.
    """
    given = {**explicit(replace(evaluation, stream=stream)), **explicit(task or TaskSettings())}
    return decide(env, rewards=rule, seeds=1, **given, **training)


def run_of(row: Row, axes: Iterable[str]) -> Cell:
    """Return the run that a row is from: its cell with rate and seed."""
    return Cell(**{axis: row[axis] for axis in axes if axis in row})


class Runs:
    """Runs of a study, by cell.

    Args:
        rows: A row per measurement of every run, with the values of its cell, its seed and, where
            rates are swept, its rate.
        axes: Names of the cells' axes.
        price: Score that a nat of KL costs.
        criterion: Returns what a rate is chosen by, see `Study.criterion`.
        tuned_as: Returns the cell whose sweep chooses a cell's rate, see `Study.tuned_as`.
    """

    def __init__(
        self,
        rows: Iterable[Row],
        axes: Iterable[str],
        price: float = PRICE,
        criterion: Callable[[Sequence[Row], float], float] = net_area,
        tuned_as: Callable[["Cell"], "Cell"] = lambda cell: cell,
    ) -> None:
        self.price = price
        self._tuned_as = tuned_as
        names = (*axes, *OF_RUNS)
        self.each: dict[Cell, list[Row]] = grouped(rows, lambda row: run_of(row, names))
        """Cell with its rate and seed -> the run's measurements."""
        spare: dict[Cell, dict[float, list[float]]] = {}
        for run, points in self.each.items():
            if run.seed in SPARE_SEEDS:
                of_rates = spare.setdefault(run.without("rate", "seed"), {})
                of_rates.setdefault(run.rate, []).append(criterion(points, price))
        self.sweeps: dict[Cell, dict[float, float]] = {}
        """Cell -> rate -> mean of the criterion over the runs of the spare seeds, of the rates with
        the most of them: others are still being swept."""
        for cell, of_rates in spare.items():
            most = max(map(len, of_rates.values()))
            complete = {rate: areas for rate, areas in of_rates.items() if len(areas) == most}
            self.sweeps[cell] = {rate: mean(areas) for rate, areas in complete.items()}
        self.runs: dict[Cell, dict[int, list[Row]]] = {}
        """Cell -> seed -> the run, at the tuned rate where rates are swept."""
        for run, points in self.each.items():
            cell = run.without("rate", "seed")
            if run.seed not in SPARE_SEEDS and ("rate" not in run or run.rate == self.rate(cell)):
                self.runs.setdefault(cell, {})[int(run.seed)] = points

    def rate(self, cell: Cell) -> float:
        """Return the rate that was the best of a cell's sweep."""
        reached = self._sweep(cell)
        return max(reached, key=lambda rate: reached[rate])

    def areas(self, cell: Cell) -> dict[int, float]:
        """Return score - c KL by seed, mean over the run; {} without runs."""
        of_cell = self.runs.get(cell, {})
        return {seed: net_area(points, self.price) for seed, points in of_cell.items()}

    def difference(self, cell: Cell, other: Cell) -> PairedDifference | None:
        """Return a cell's mean of score - c KL over the run minus another's, paired by seed.

        It is None below two pairs.

        Args:
            cell: The cell.
            other: What it is compared with.
        """
        pairs = paired(self.areas(cell), self.areas(other))
        return paired_difference(*pairs) if len(pairs[0]) > 1 else None

    def chosen(self, cells: Iterable[Cell]) -> Cell | None:
        """Return the cell that did best on the spare seed, of those with runs; None of none."""
        tried = [cell for cell in cells if len(self.areas(cell)) > 1]
        return max(tried, key=lambda cell: max(self._sweep(cell).values()), default=None)

    def _sweep(self, cell: Cell) -> dict[float, float]:
        """Return what the rates of a cell's sweep have reached."""
        tuned = self._tuned_as(cell)
        if tuned not in self.sweeps:
            raise ValueError(f"no sweep chooses the rate of {cell!r}; run that of {tuned!r}")
        return self.sweeps[tuned]


@dataclass(frozen=True)
class Published:
    """Published results of a study."""

    runs: Runs
    """Its runs."""
    drawn: Mapping[str, Sequence[Row]]
    """File -> the rows that were drawn once; none where there is no file."""
    folder: Path
    """Folder of its files."""


def _no_comparison(cell: Cell, out: Path) -> Comparison:
    raise NotImplementedError(f"a study needs config or play to do the run {cell!r}")


@dataclass(frozen=True, kw_only=True)
class Study:
    """A question, the runs that answer it and the page that says so.

    `run` does what is missing and can be stopped at any time: the output folder is the state, with
    a file for each run, and published runs are not run again. `publish` writes the files of a
    folder as one beside the page, and `page` fills the page's tables from the published files.
    """

    document: str
    """Name of the page."""
    folder: str
    """Folder of the published files, beside the page."""
    axes: Mapping[str, Any]
    """Axis -> value that cells have where they do not say, or its type where they always do."""
    rounds: Callable[[], Iterable[Round]]
    """Returns cells and the seeds wanted of them, in the order in which they are needed."""
    tables: Callable[[Any], Mapping[str, str]]
    """Returns the page's tables by name."""
    config: Callable[[Cell, Path], Comparison] = _no_comparison
    """Returns the comparison of one reward that a run is of, given the folder of the runs."""
    play: Callable[[Cell], Sequence[Row]] | None = None
    """Does a run that is no comparison, and returns its rows; None takes `config`."""
    measure: Callable[[Cell, RunRecord], Sequence[Row]] = lambda cell, record: measured(record)
    """Returns the rows of a run."""
    drawn: tuple[Drawn, ...] = ()
    """Samples drawn before the runs."""
    first_rate: float | None = FIRST_RATE
    """Learning rate that each cell's sweep begins with; None: nothing is swept."""
    spare_seeds: Sequence[int] = SPARE_SEEDS[:1]
    """Seeds of the sweeps. The protocol wants all of `SPARE_SEEDS`."""
    price: float = PRICE
    """Score that a nat of KL costs."""
    criterion: Callable[[Sequence[Row], float], float] = net_area
    """Returns what a rate is chosen by, given a run's measurements and the price."""
    tuned_as: Callable[[Cell], Cell] = lambda cell: cell
    """Returns the cell whose sweep chooses a cell's rate: by default its own."""
    runs: str = "runs.csv"
    """Published file of the runs."""
    columns: tuple[str, ...] = ()
    """Columns of the runs that hold text, beside those of the axes."""
    holm: Literal["page", "table"] = "page"
    """Family of the differences that are corrected together."""
    beside: Callable[[Path], Iterable[Row]] = lambda docs: ()
    """Returns rows of runs that another page publishes, given the folder of the pages: they are
    read with the study's own, and neither run again nor published twice."""
    readings: Callable[[Published], Any] = lambda published: published
    """Returns what `tables` and `pictures` are given, made once of what is published."""
    pictures: Callable[[Any], None] = lambda readings: None
    """Draws the page's pictures into the published folder."""

    @property
    def text(self) -> tuple[str, ...]:
        """Columns of the runs that hold text."""
        axes = (axis for axis, value in self.axes.items() if value is str or isinstance(value, str))
        return (*axes, *self.columns)

    def cell(self, **values: Any) -> Cell:
        """Return a cell: its values, and the others' defaults, in the order of the axes."""
        return Cell(**{**self.axes, **values})

    def file(self, run: Cell, out: Path) -> Path:
        """Return the file of a run's rows.

        Args:
            run: A cell with its seed and, where rates are swept, its rate.
            out: Folder of the runs.
        """
        return out / "runs" / f"{run!r}.csv"

    def read(self, *files: Path) -> list[Row]:
        """Return the rows of files of runs, with the axes that did not exist when they were made.

        Args:
            files: Files of single runs, or the published one; those that do not exist have no rows.
        """
        rows = read_rows(*(file for file in files if file.exists()), text=self.text)
        return [{**self.axes, **row} for row in rows]

    def swept(self, cell: Cell, out: Path) -> dict[float, float]:
        """Return what each rate of a cell's sweep has reached, of rates with all spare seeds."""
        reached = {}
        for rate in RATES:
            runs = (cell.but(rate=rate, seed=seed) for seed in self.spare_seeds)
            files = [self.file(run, out) for run in runs]
            if all(file.exists() for file in files):
                reached[rate] = mean(
                    [self.criterion(self.read(file), self.price) for file in files]
                )
        return reached

    def pending(self, out: Path, part: str = "0/1") -> Iterator[Cell]:
        """Yield the runs that are missing, each with its rate and seed.

        Args:
            out: Folder of the runs.
            part: "i/n" takes the cells i, i + n, ... of all, for several processes side by side.
        """
        index, count = read_part(part)
        places: dict[Cell, int] = {}
        for cells, seeds in self.rounds():
            here = [c for c in cells if places.setdefault(c, len(places)) % count == index]
            if self.first_rate is not None:
                for cell in dict.fromkeys(map(self.tuned_as, here)):
                    while (rate := next_rate(self.swept(cell, out), self.first_rate)) is not None:
                        sweep = [cell.but(rate=rate, seed=seed) for seed in self.spare_seeds]
                        yield from (run for run in sweep if not self.file(run, out).exists())
                        if not all(self.file(run, out).exists() for run in sweep):
                            break  # another process has one of them
            # A cell whose sweep another process has not finished has no rate yet.
            tuned = [at for cell in here if (at := self._tuned(cell, out)) is not None]
            runs = (at.but(seed=seed) for seed in seeds for at in tuned)
            yield from (run for run in runs if not self.file(run, out).exists())

    def _tuned(self, cell: Cell, out: Path) -> Cell | None:
        """Return a cell with the best rate of its sweep, where rates are swept, or None so far."""
        if self.first_rate is None:
            return cell
        rate = best_rate(self.swept(self.tuned_as(cell), out), self.first_rate)
        return None if rate is None else cell.but(rate=rate)

    def run(
        self,
        out: Out,
        docs: Docs = DOCS,
        part: str = "0/1",
        until: str | None = None,
        only: str | None = None,
    ) -> None:
        """Draw and run what is missing, one at a time.

        Args:
            out: Folder of the study's runs.
            docs: Folder of the study's page, whose published runs are not run again.
            part: "i/n" takes the cells i, i + n, ... of all, for several processes side by side.
            until: Time of day, HH:MM, after which nothing begins.
            only: Name of a published run, which alone is done again. It is that of the run's file.
        """
        if only is not None:
            runs = {repr(run): run for run in self.published(docs).runs.each}
            if only not in runs:
                raise ValueError(
                    f"only must be the name of a run that {docs / self.folder / self.runs} has, "
                    f"such as {next(iter(runs), 'none')}, got {only!r}"
                )
            self._do(runs[only], out)
            return
        end = deadline(until)
        read_part(part)  # a wrong one is refused before anything is drawn
        self.restore(out, docs)
        for drawn in self.drawn:
            for name, make in drawn.parts.items():
                if not (out / name).exists() and datetime.now() < end:
                    write_rows(out / name, make(out))
        for run in self.pending(out, part):
            if datetime.now() >= end:
                return
            self._do(run, out)

    def _do(self, run: Cell, out: Path) -> None:
        """Do a run, and write its file."""
        rows = [{**run, **row} for row in self.played(run, out)]
        write_rows(self.file(run, out), rows)
        print(f"{datetime.now():%H:%M:%S} {run!r} {rows[-1]}", flush=True)

    def played(self, run: Cell, out: Path) -> Sequence[Row]:
        """Do a run and return its rows, without the values of its cell.

        Args:
            run: A cell with its seed and, where rates are swept, its rate.
            out: Folder of the runs.
        """
        if self.play is not None:
            return self.play(run)
        config = self.config(run, out)
        return self.measure(run, run_one(config, config.names[0], int(run.seed)))

    def restore(self, out: Path, docs: Path) -> None:
        """Write the published rows to the files that they came from, unless they are there.

        Args:
            out: Folder of the runs.
            docs: Folder of the page.
        """
        files: dict[Path, list[Row]] = {}
        for run, rows in self.published(docs).runs.each.items():
            files[self.file(run, out)] = rows
        for drawn in self.drawn:
            file = docs / self.folder / drawn.file
            for row in read_rows(file, text=drawn.text) if file.exists() else []:
                part = drawn.part_of(row) if drawn.part_of else next(iter(drawn.parts))
                files.setdefault(out / part, []).append(row)
        for path, rows in files.items():
            if not path.exists():
                write_rows(path, rows)

    def publish(self, out: Out, docs: Docs = DOCS) -> None:
        """Write all runs as one file, those of the sweeps too, and what was drawn; fill the page.

        What was published stays: a folder may hold a part of the study alone.

        Args:
            out: Folder of the study's runs.
            docs: Folder of the study's page.
        """
        self.restore(out, docs)
        for drawn in self.drawn:
            parts = [out / name for name in drawn.parts]
            rows = read_rows(*(part for part in parts if part.exists()), text=drawn.text)
            write_rows(docs / self.folder / drawn.file, rows)
        names = (*self.axes, *OF_RUNS)
        known = {run_of(row, names) for row in self.beside(docs)}
        every = self.read(*sorted((out / "runs").glob("*.csv")))
        made = [row for row in every if run_of(row, names) not in known]
        write_rows(docs / self.folder / self.runs, made)
        self.page(docs)

    def published(self, docs: Path) -> Published:
        """Return what is published beside a page."""
        folder = docs / self.folder
        drawn: dict[str, Sequence[Row]] = {}
        for each in self.drawn:
            file = folder / each.file
            drawn[each.file] = read_rows(file, text=each.text) if file.exists() else []
        names = (*self.axes, *OF_RUNS)
        made = self.read(folder / self.runs)
        own = {run_of(row, names) for row in made}
        others = [row for row in self.beside(docs) if run_of(row, names) not in own]
        rows = [*made, *others]
        runs = Runs(rows, self.axes, self.price, self.criterion, self.tuned_as)
        return Published(runs=runs, drawn=drawn, folder=folder)

    def page(self, docs: Docs = DOCS) -> None:
        """Fill the page's tables from the published files, and draw its pictures.

        Args:
            docs: Folder of the study's page.
        """
        readings = self.readings(self.published(docs))
        make = partial(self.tables, readings)
        fill(docs / self.document, page_wide(make) if self.holm == "page" else make())
        self.pictures(readings)

    def command_line(self, description: str | None) -> None:
        """Read the command line and run, publish or fill the page.

        Args:
            description: Docstring of the study.
        """
        command_line(description, self.run, self.publish, self.page)


def draw_mean(
    axes: Any, runs: Sequence[Sequence[Row]], of: Callable[[Row], float], *, color: str, label: str
) -> None:
    """Draw the mean of runs over their updates, with Student's interval.

    Args:
        axes: Axes of matplotlib.
        runs: Measurements of each run, at the same updates.
        of: Returns what is drawn of a measurement.
        color: Color of line and interval.
        label: Name in the legend.
    """
    steps = [row["step"] for row in runs[0]]
    at_steps = [[of(row) for row in rows] for rows in zip(*runs, strict=True)]
    middle, low, high, _ = student_interval(at_steps)
    axes.plot(steps, middle, color=color, label=label)
    axes.fill_between(steps, low, high, color=color, alpha=0.15, linewidth=0)
    axes.grid(alpha=0.3)


def read_part(part: str) -> tuple[int, int]:
    """Return i and n of "i/n", one of n parts of a study's work."""
    match = re.fullmatch(r"(\d+)/(\d+)", part, re.ASCII)
    if match and int(match[1]) < int(match[2]):
        return int(match[1]), int(match[2])
    raise ValueError(f"part must be i/n with i from 0 to n - 1, such as 0/2 or 1/2, got {part!r}")


def deadline(until: str | None, now: datetime | None = None) -> datetime:
    """Return the next moment at which clocks show a time of day.

    Args:
        until: Time of day, HH:MM; None never comes.
        now: Moment to count from; None is the present.
    """
    if until is None:
        return datetime.max
    now = datetime.now() if now is None else now
    end = datetime.combine(now.date(), datetime.strptime(until, "%H:%M").time())
    return end if end > now else end + timedelta(days=1)


def shown(value: Any) -> str:
    """Return a cell's value as it stands in the name of a file.

    Example:
        >>> shown(3e-4), shown(1000.0), shown("red:delivery=end"), shown("1-1/n")
        ('0.0003', '1000', 'red.delivery=end', '1-1n')
    """
    if isinstance(value, float):
        return f"{value:g}"
    return str(value).replace("/", "").replace(":", ".")


def write_rows(file: Path, rows: Sequence[Row]) -> None:
    """Write rows with the columns of the first; nothing where there are none."""
    if rows:
        write_csv(file, rows, list(rows[0]))


def read_rows(*files: Path, text: Sequence[str]) -> list[dict[str, Any]]:
    """Return the rows of csv files: numbers as floats, empty cells as None.

    Args:
        files: Files to read, in order.
        text: Columns that hold text.
    """
    rows = []
    for file in files:
        with file.open(encoding="utf-8", newline="") as lines:
            for row in csv.DictReader(lines):
                rows.append(
                    {k: v if k in text else float(v) if v else None for k, v in row.items()}
                )
    return rows


def command_line(
    description: str | None,
    *commands: Callable[..., None],
    arguments: Sequence[str] | None = None,
) -> None:
    """Read the command line and call the function that it names, on one thread.

    Args:
        description: Docstring of the study; its first line is shown in the help.
        commands: Functions whose parameters are the flags. With more than one, the first word of
            the command line is the name of the function.
        arguments: Command line; None takes the process's own.
    """
    import torch

    torch.set_num_threads(1)
    title = (description or "").splitlines()[0]
    if len(commands) == 1:
        tyro.cli(commands[0], description=title, args=arguments)
        return
    named = {command.__name__.replace("_", "-"): command for command in commands}
    tyro.extras.subcommand_cli_from_dict(named, description=title, args=arguments)
