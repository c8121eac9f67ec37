"""What is token credit worth, and how much of it is lambda or the critic?

PPO on MovieReview under every rule, lambda and critic, with the learning rate tuned for each such
cell on a spare seed, and measured as docs/results/protocol.md says. Cells are run in rounds, all
rates first and then seed by seed, so that what is there at any time is balanced and can be
published. Published runs are not run again.

    python -m studies.ledger --out runs/ledger [--until 12:25] [--part 0/2]
    python -m studies.ledger_noise --out runs/ledger
    python -m studies.ledger_page publish --out runs/ledger
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokengym import ComparisonConfig
from tokengym.base import write_csv
from tokengym.envs import Episode, bundled
from tokengym.evaluation import run as run_one
from tokengym.evaluation.runs import EvaluationSettings, TaskSettings, training_settings
from tokengym.lab.makers.bundles.other_reward_models import (
    LLAMA,
    MISALIGNED,
    build_llama,
    build_misaligned,
)
from tokengym.lab.protocol import (
    DRAWN,
    FIRST_RATE,
    PRICE,
    RATES,
    SPARE_SEED,
    Row,
    best_of_rows,
    best_rate,
    measured,
    net_area,
    next_rate,
    scores_of,
    untrained_responses,
)
from tokengym.lab.replay.truth import gold_token_credit
from tokengym.lab.study import DOCS, Docs, Out, command_line, deadline, read_rows
from tokengym.rewards import REWARDS, Credit, gold_scorer, register_credit
from tokengym.rewards.maths import complete

Work = Iterable[tuple[Sequence["Cell"], range]]
ENV = "tokengym/MovieReview-v0"
UPDATES, LONGER, ROWS = 30, 120, 64
EVALUATIONS = 6
"""Measurements of a run after the first."""
SEEDS = range(10)
WORDS = "words"
RULES = (
    "sparse",
    "uniform",
    "recency",
    "random",
    "abc",
    "abc-signed",
    "attribution",
    "red:delivery=end",
    WORDS,
)
SHORTLIST = ("sparse", "uniform", "abc-signed", "red:delivery=end", WORDS)
"""Rules that are tried at low lambdas."""
CONTROLS = ("uniform", "recency", "random")
LENGTHS = (24, 48, 96, 192)
LAMBDAS = ("0.95", "1", "0.5", "0", "1-1/n")
"""Values of lambda, the most needed first."""
MODELS: dict[str, Callable[[Path], None] | None] = {
    "aligned": None,
    MISALIGNED: build_misaligned,
    LLAMA: build_llama,
}
"""By name: what writes the reward model's folder; None is the bundled one."""
LEARNER: dict[str, Any] = {
    "learning_rate_schedule": "linear",
    "vf_coef": 1.0,
    "clip_range_vf": None,
    "n_epochs": 2,
    "n_minibatches": 4,
}
"""Settings recommended in docs/results/learner.md, without the critic."""
CRITICS: dict[str, dict[str, Any]] = {
    "own": {"value_network": "own"},
    "trunk": {"value_network": "trunk"},
    "none": {"vf_coef": 0.0},
    "vineppo": {"advantage": "vineppo"},
    "warm-up": {"value_network": "own", "n_value_warmup": 3},
    "reward model": {"value_network": "reward_model"},
}
"""By name: where PPO's values come from; without a critic they are 0, and VinePPO takes none."""
IN_FILES = str.maketrans({"/": None, ":": ".", " ": "-"})
"""Replacements for signs of a cell's name in the names of its files."""
RUNS, WAYS = "runs.csv", "best_of_n.csv"
FOLDER, TEXT = "ledger", ("rule", "gae_lambda", "critic", "model")


class TrueWords(Credit):
    """Each word earns what it adds to the grammar's polarity; the last token the rest of the score.

    The worth of a word is scaled to the reward model's score by `SCALE`.
    """

    name = WORDS
    SCALE = 3.7
    """Least-squares slope of the reward model's score on polarity, on responses of the untrained
    policy."""

    def __init__(self) -> None:
        self._gold = gold_scorer(bundled("movie_review"))
        self._tokenizer: Any = None

    def bind(self, tokenizer: Any) -> "TrueWords":
        """Return the rule for the policy's tokenizer."""
        self._tokenizer = tokenizer
        return self

    def spread(
        self, score: float, episode: Episode, attribution: NDArray[np.float32] | None
    ) -> np.ndarray:
        """Return the words' worth, and the rest of the score on the last token."""
        truth = gold_token_credit(self._gold, [episode], self._tokenizer)
        assert truth is not None
        return complete(score, self.SCALE * truth[0])


def register_words() -> None:
    """Make `TrueWords` a rule by name, unless it is: importing the study registers nothing."""
    if WORDS not in REWARDS.names():
        register_credit(TrueWords)


def lambda_of(name: str, length: int) -> float:
    """Return a lambda of `LAMBDAS` as a number."""
    return 1 - 1 / length if name == "1-1/n" else float(name)


# --- cells ----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One setting that rules are compared in, with its rule."""

    rule: str
    """Credit rule."""
    gae_lambda: str = "0.95"
    """Lambda; "1-1/n" depends on the length."""
    critic: str = "own"
    """Name in `CRITICS`."""
    length: int = 48
    """Tokens of a response."""
    model: str = "aligned"
    """Reward model, one of `MODELS`."""
    updates: int = UPDATES
    """Updates of a run."""
    rows: int = ROWS
    """Responses of an update."""

    @classmethod
    def of(cls, row: Row) -> "Cell":
        """Return the cell that a row of a run is from."""
        named = [name for name in cls.__dataclass_fields__ if name in row]
        about: dict[str, Any] = {k: row[k] if k in TEXT else int(row[k]) for k in named}
        return cls(**about)

    @property
    def first_rate(self) -> float:
        """Return the rate that its sweep begins with."""
        return FIRST_RATE

    @property
    def name(self) -> str:
        """Return the name of its files."""
        parts = [self.rule, self.gae_lambda, self.critic, f"{self.length}", self.model]
        if (self.updates, self.rows) != (UPDATES, ROWS):
            parts.append(f"{self.updates}" if self.rows == ROWS else f"{self.updates}x{self.rows}")
        return "_".join(part.translate(IN_FILES) for part in parts)

    def file(self, out: Path, rate: float, seed: int) -> Path:
        """Return the file of a run's rows."""
        return out / "runs" / f"{self.name}_{rate:g}_{seed}.csv"

    def config(self, out: Path, rate: float) -> ComparisonConfig:
        """Return the comparison that its runs are of."""
        register_words()
        at = lambda_of(self.gae_lambda, self.length)
        settings = {**LEARNER, **CRITICS[self.critic], "gae_lambda": at}
        return ComparisonConfig(
            env="MovieReview",
            rewards=(self.rule,),
            seeds=1,
            training=training_settings(
                ENV,
                steps=self.updates,
                batch_size=self.rows,
                max_new_tokens=self.length,
                kl_coef=PRICE,
                kl_estimator="exact",
                learning_rate=rate,
                **settings,
            ),
            evaluation=self.evaluation(),
            task=self.task(out),
        )

    def evaluation(self) -> EvaluationSettings:
        """Return how its runs are measured."""
        every = max(self.updates // EVALUATIONS, 1)
        return EvaluationSettings(every=every, episodes=128, samples=0)

    def task(self, out: Path) -> TaskSettings:
        """Return the task of its runs, with the reward model that pays them."""
        return TaskSettings(scorer=str(out / self.model) if MODELS[self.model] else None)


AT_LENGTHS = (
    Cell(rule="sparse"),
    Cell(rule="sparse", gae_lambda="1"),
    Cell(rule="sparse", critic="none"),
    Cell(rule="sparse", gae_lambda="1", critic="none"),
    Cell(rule="uniform"),
    Cell(rule="abc-signed", gae_lambda="0.5"),
    Cell(rule="abc-signed"),
    Cell(rule="abc-signed", gae_lambda="1"),
    Cell(rule=WORDS),
)
"""Cells run at other lengths."""
AT_LLAMA = (
    Cell(rule="sparse"),
    Cell(rule="abc-signed", gae_lambda="0.5"),
    Cell(rule="uniform"),
    Cell(rule="abc-signed"),
    Cell(rule="abc"),
    Cell(rule="attribution"),
    Cell(rule="red:delivery=end", gae_lambda="0.5"),
)
"""Cells run under the reward model of another architecture, the most needed first."""
AT_LONGER = (
    Cell(rule="sparse"),
    Cell(rule="abc-signed", gae_lambda="0.5"),
    Cell(rule="uniform"),
)
"""Cells run for longer: at 24 tokens, for as many tokens as texts of 96 take."""
AT_TRUNK = (
    Cell(rule="sparse", critic="trunk"),
    Cell(rule="sparse", gae_lambda="1", critic="trunk"),
    Cell(rule="abc-signed", gae_lambda="0.5", critic="trunk"),
    Cell(rule="abc-signed", critic="trunk"),
    Cell(rule="uniform", critic="trunk"),
)
"""Cells run with a critic that is a head on the policy."""
CONTINUED = "mc:k=4"
AT_CONTINUED = tuple(
    Cell(rule=CONTINUED, gae_lambda=name, critic="none", length=LENGTHS[0])
    for name in ("0.5", "0.95", "0")
)
"""The score under a Monte Carlo critic: `mc` pays its temporal differences, so that GAE(lambda) of
them is that of `sparse` with these values. Continuations do not count, which makes a run dear, so
on the shortest texts."""
AT_VINEPPO = tuple(
    Cell(rule=rule, critic="vineppo", updates=updates, rows=16)
    for rule, updates in (("mc:k=3,segments=4", 21), ("mc:k=1,segments=8", 26))
)
"""VinePPO's own estimator, A_t = r_t, for the tokens of the other cells, continuations included:
264 and 216 a response, in fewer of them to an update, so that some updates are left."""
AT_LONGEST = (
    Cell(rule="sparse"),
    Cell(rule="abc-signed", gae_lambda="0.5"),
    Cell(rule="sparse", gae_lambda="1"),
    Cell(rule="uniform"),
)
"""Cells run at the longest texts."""


def stages() -> Iterator[tuple[list[Cell], range]]:
    """Yield cells and the seeds wanted of them, in the order in which they are needed."""

    def cross(rules: Sequence[str], lambdas: Sequence[str], **at: Any) -> list[Cell]:
        return [Cell(rule=rule, gae_lambda=lam, **at) for lam in lambdas for rule in rules]

    first_lambdas, other_lambdas = LAMBDAS[:2], LAMBDAS[2:]
    main = [*cross(RULES, first_lambdas, critic="own"), *cross(RULES, first_lambdas, critic="none")]
    low = cross(SHORTLIST, ("0.5", "0"))
    yield [*main, *low], SEEDS[:5]
    attention = ("sparse", "abc", "abc-signed", "attribution", "red:delivery=end")
    yield cross(attention, first_lambdas[:1], model=MISALIGNED), SEEDS[:5]
    yield [*cross(RULES, first_lambdas[:1]), *low[: len(SHORTLIST)]], SEEDS
    yield cross(("sparse", "abc-signed"), first_lambdas[:1], critic="none"), SEEDS
    for length in LENGTHS[0], LENGTHS[2]:
        yield [replace(cell, length=length) for cell in AT_LENGTHS], SEEDS[:5]
    yield [*AT_VINEPPO], SEEDS[:5]
    yield [replace(cell, updates=LONGER) for cell in AT_LONGER], SEEDS[:5]
    yield [*AT_TRUNK], SEEDS[:5]
    yield cross(("sparse", "abc-signed", "uniform"), ("1-1/n",)), SEEDS[:5]
    yield [replace(cell, length=LENGTHS[3]) for cell in AT_LONGEST], SEEDS[:3]
    yield [*AT_CONTINUED], SEEDS[:5]
    yield [replace(cell, model=LLAMA) for cell in AT_LLAMA], SEEDS[:5]
    yield (
        [replace(cell, updates=LONGER, length=LENGTHS[0]) for cell in AT_LONGER[:2]],
        SEEDS[:3],
    )
    yield cross(RULES, first_lambdas, critic="trunk"), SEEDS[:5]
    yield cross(attention, first_lambdas, model=MISALIGNED), SEEDS[:5]
    yield main, SEEDS
    yield cross(RULES, other_lambdas), SEEDS[:5]


# --- runs -----------------------------------------------------------------------------------------


def ways_file(out: Path, length: int) -> Path:
    """Return the file of what the best of n untrained responses scores."""
    return out / "ways" / f"{length}.csv"


def draw_ways(out: Path) -> None:
    """Draw the untrained policy's responses of every length, unless that is done."""
    for length in LENGTHS:
        file = ways_file(out, length)
        if not file.exists():
            episodes = untrained_responses(ENV, length)
            judge = gold_scorer(bundled("movie_review"))
            assert judge is not None
            gold = judge.score(episodes).values.reshape(-1, DRAWN)
            best = best_of_rows(scores_of(episodes), gold)
            write_csv(file, [{"length": length, **row} for row in best], ["length", *best[0]])


def measure(cell: Cell, out: Path, rate: float, seed: int) -> list[dict[str, Any]]:
    """Train a policy and return a row per evaluation."""
    if build := MODELS[cell.model]:
        build(out / cell.model)
    record = run_one(cell.config(out, rate), cell.rule, seed)
    about = {**vars(cell), "rate": rate, "seed": seed}
    return [{**about, **point} for point in measured(record)]


def swept(cell: Cell, out: Path) -> dict[float, float]:
    """Return what each rate of a cell's sweep has reached so far."""
    files = {rate: cell.file(out, rate, SPARE_SEED) for rate in RATES}
    return {rate: net_area(read_rows(f, text=TEXT)) for rate, f in files.items() if f.exists()}


def tuned_rate(cell: Cell, out: Path) -> float | None:
    """Return the best rate of a cell's sweep, None while it is not finished."""
    return best_rate(swept(cell, out), cell.first_rate)


def pending(out: Path, work: Work | None = None) -> Iterator[tuple[Cell, float, int]]:
    """Yield what there is to run: cell, rate and seed.

    Args:
        out: Folder of the study's runs.
        work: Cells and the seeds wanted of them, in order; None takes those of `stages`.
    """
    for cells, seeds in stages() if work is None else work:
        for cell in cells:
            while (rate := next_rate(swept(cell, out), cell.first_rate)) is not None:
                yield cell, rate, SPARE_SEED
                if not cell.file(out, rate, SPARE_SEED).exists():
                    break  # another process has it
        for seed in seeds:
            for cell in cells:
                best = tuned_rate(cell, out)
                if best is not None and not cell.file(out, best, seed).exists():
                    yield cell, best, seed


def run(out: Out, docs: Docs = DOCS, part: str = "0/1", until: str | None = None) -> None:
    """Do the runs that are missing, one at a time.

    Args:
        out: Folder of the study's runs.
        docs: Folder of the study's page, whose published runs are not run again.
        part: "i/n" takes the cells i, i + n, ... of all, for several processes side by side.
        until: Time of day, HH:MM, after which no run begins.
    """
    restore(out, docs)
    draw_ways(out)
    index, count = map(int, part.split("/"))
    names = sorted({cell.name for cells, _ in stages() for cell in cells})
    mine = (todo for todo in pending(out) if names.index(todo[0].name) % count == index)
    do_runs(mine, measure, out, deadline(until))


def do_runs(
    runs: Iterable[tuple[Cell, float, int]],
    measure: Callable[[Any, Path, float, int], list[dict[str, Any]]],
    out: Path,
    end: datetime,
) -> None:
    """Do runs and write a file of each, until it is late.

    Args:
        runs: Cell, rate and seed of each.
        measure: Does one and returns its rows.
        out: Folder of the study's runs.
        end: When no run begins any more.
    """
    for cell, rate, seed in runs:
        if datetime.now() >= end:
            return
        rows = measure(cell, out, rate, seed)
        write_csv(cell.file(out, rate, seed), rows, list(rows[0]))
        print(
            f"{datetime.now():%H:%M:%S} {cell.name} {rate:g} {seed} {net_area(rows):.2f}",
            flush=True,
        )


def restore(out: Path, docs: Path) -> None:
    """Write the published runs and ways to the files that they came from."""
    ways: dict[Path, list[dict[str, Any]]] = {}
    published = docs / FOLDER / WAYS
    for row in read_rows(published, text=()) if published.exists() else []:
        ways.setdefault(ways_file(out, int(row["length"])), []).append(row)
    _write_missing(ways)
    restore_runs(out, docs / FOLDER / RUNS)


def restore_runs(out: Path, published: Path) -> None:
    """Write published runs to the files that they came from, unless they are there.

    Args:
        out: Folder of the study's runs.
        published: Their csv; nothing is done without it.
    """
    files: dict[Path, list[dict[str, Any]]] = {}
    for row in read_runs(published) if published.exists() else []:
        file = Cell.of(row).file(out, row["rate"], int(row["seed"]))
        files.setdefault(file, []).append(row)
    _write_missing(files)


def _write_missing(files: Mapping[Path, list[dict[str, Any]]]) -> None:
    """Write each file's rows, unless it is there."""
    for file, rows in files.items():
        if not file.exists():
            write_csv(file, rows, list(rows[0]))


def read_runs(*files: Path) -> list[dict[str, Any]]:
    """Return the rows of runs, those that were written before cells had all of their fields too.

    Args:
        files: Files of single runs, or the published one.
    """
    return [{**vars(Cell.of(row)), **row} for row in read_rows(*files, text=TEXT)]


if __name__ == "__main__":
    command_line(__doc__, run)
