"""Code that the studies share: cells that are run once, their stored rows, and the command line.

The output folder is the state. A cell whose file exists is not run again, so a study can be stopped
at any time and resumed.
"""

import csv
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro

from tokengym.agents.ppo.settings import EARLIER_DEFAULTS
from tokengym.base.files import write_json
from tokengym.evaluation.runs.config import SETTINGS_FILE, ComparisonConfig

Cell = TypeVar("Cell")
Out = Annotated[Path, tyro.conf.arg(help="Folder of the study's runs.")]
Data = Annotated[Path, tyro.conf.arg(help="Folder of the texts; they are not copied.")]
Docs = Annotated[Path, tyro.conf.arg(help="Folder of the study's page.")]
DOCS = Path("docs/results")
"""Folder of the pages that the studies fill."""
PUBLISHED_KL = "k1"
"""`kl_estimator` of the published curves: the default when they were made."""
EARLIER = EARLIER_DEFAULTS
"""PPO's defaults when the curves of all pages but learner.md and ledger.md were made."""


def run_missing(
    cells: Iterable[Cell], path: Callable[[Cell], Path], run: Callable[[Cell], None]
) -> None:
    """Run the cells whose file does not exist, in order.

    Args:
        cells: Cells of the study.
        path: Returns the file or folder that a finished cell has.
        run: Runs one cell and writes that file.
    """
    for cell in cells:
        if not path(cell).exists():
            started = time.process_time()
            run(cell)
            print(f"{cell} {time.process_time() - started:.0f} s", flush=True)


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


def run_pending(
    work: Iterable[tuple[str, ComparisonConfig, str, int]], out: Path, part: str, until: str | None
) -> None:
    """Do runs of comparisons one at a time, in this process.

    Args:
        work: Cell's name, its comparison, reward and seed of each run to do.
        out: Folder of the study's runs, one folder per cell.
        part: "i/n" takes the seeds with seed % n == i.
        until: Time of day, HH:MM, after which no run begins.
    """
    from tokengym.evaluation.runs.run import run as run_one

    index, count = map(int, part.split("/"))
    end = deadline(until)
    for name, config, reward, seed in work:
        if seed % count != index:
            continue
        if datetime.now() >= end:
            return
        write_json(out / name / SETTINGS_FILE, config.as_dict())
        started = time.process_time()
        run_one(config, reward, seed, out=out / name)
        seconds = time.process_time() - started
        print(f"{datetime.now():%H:%M:%S} {name} {reward} {seed} {seconds:.0f} s", flush=True)


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
    named = {command.__name__: command for command in commands}
    tyro.extras.subcommand_cli_from_dict(named, description=title, args=arguments)
