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

import gymnasium as gym
import numpy as np
import tyro
from numpy.typing import ArrayLike

from tokengym.agents.losses.ranking import best_of_n_kl_bound, mean_of_best
from tokengym.agents.offline.collecting import ResponseCollector, Sampling
from tokengym.agents.offline.policies import make_policy
from tokengym.base.files import write_json
from tokengym.envs import Episode
from tokengym.evaluation.runs.config import SETTINGS_FILE, ComparisonConfig
from tokengym.evaluation.runs.defaults import training_settings
from tokengym.lab.tables import mean

Cell = TypeVar("Cell")
Out = Annotated[Path, tyro.conf.arg(help="Folder of the study's runs.")]
Data = Annotated[Path, tyro.conf.arg(help="Folder of the texts; they are not copied.")]
Docs = Annotated[Path, tyro.conf.arg(help="Folder of the study's page.")]
DOCS = Path("docs/results")
"""Folder of the pages that the studies fill."""
DRAWN, PROMPTS, DRAW_SEED = 64, 128, 0
"""Responses of the untrained policy to each held-out prompt, behind best-of-n and the bound."""
NS = (1, 2, 4, 8, 16, 32, 64)
"""What n is in a study's tables of best-of-n."""


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


def untrained_responses(env: str, length: int, **options: Any) -> list[Episode]:
    """Return the untrained policy's responses to the held-out prompts, `DRAWN` to each in turn.

    Args:
        env: Environment id.
        length: Tokens of a response.
        options: Further arguments of ``gym.make_vec``, such as ``bundle``.
    """
    lengths: dict[str, Any] = training_settings(env, max_new_tokens=length).lengths()
    envs: Any = gym.make_vec(env, num_envs=1, reward="sparse", split="test", **lengths, **options)
    collector = ResponseCollector(envs, sampling=Sampling(n=DRAWN), max_rows=256)
    groups = collector.collect(make_policy(envs), range(PROMPTS), seed=DRAW_SEED)
    return [episode for group in groups for episode in group]


def scores_of(episodes: Sequence[Episode]) -> np.ndarray:
    """Return the scores that `untrained_responses` were paid, (prompts, drawn)."""
    return np.array([episode.score for episode in episodes], dtype=np.float64).reshape(-1, DRAWN)


def best_of_rows(proxy: ArrayLike, gold: ArrayLike) -> list[dict[str, Any]]:
    """Return a row per n: what the best of n responses scores, and the bound on its KL.

    Args:
        proxy: (prompts, drawn) scores that the best is picked by.
        gold: (prompts, drawn) of the same responses.
    """
    return [
        {
            "n": n,
            "score": mean(mean_of_best(proxy, proxy, n)),
            "gold_score": mean(mean_of_best(proxy, gold, n)),
            "kl": best_of_n_kl_bound(n),
        }
        for n in NS
    ]


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
