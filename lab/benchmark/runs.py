"""The runs that a row of the benchmark stands on; the folder is the state, so that they resume."""

import hashlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from tokengym import ComparisonConfig
from tokengym.agents import NonFiniteError
from tokengym.base import (
    data_hashes,
    read_json,
    split_file_word,
    texts_of_options,
    write_json,
    write_text,
)
from tokengym.envs import bundled
from tokengym.evaluation import run as run_one
from tokengym.evaluation.runs import EvaluationSettings, TaskSettings, slug
from tokengym.lab.benchmark.definition import (
    BASELINE,
    PASSED,
    Definition,
    Setting,
    Track,
    Version,
)
from tokengym.lab.cards.parts import bare
from tokengym.lab.makers.other_prompts import read_prompts, with_prompts
from tokengym.lab.protocol import (
    PROMPTS,
    RATES,
    Row,
    best_of_rows,
    check_span,
    measured,
    net,
    net_area,
    next_rate,
    scores_of,
    untrained_responses,
)
from tokengym.lab.study import Cell, read_rows, single_run, write_rows
from tokengym.lab.tables import mean
from tokengym.rewards import Credit, RewardChoice

PACE_FILE = "pace.json"
PACE_UPDATES = 1, 3
"""Updates of the short runs that say how long the others take."""
TEXT = ("rule", "setting", "start", "gae_lambda")
Work: TypeAlias = tuple[Setting, str, Cell]
"""A run: setting, rule, and the cell with its rate and seed."""
HIDDEN_FROM, HIDDEN_TO = 2_000, 2**31
"""Range of the seeds that a secret word draws."""


@dataclass(frozen=True, kw_only=True)
class BenchRuns:
    """The runs of one subject and of the baseline in one version, in a folder that subjects share.

    Raises:
        ValueError: if the rule brings a scorer of its own, or reads what its track does not allow.
    """

    definition: Version
    """Version of the benchmark."""
    rule: str
    """Credit rule by name, or "path/to/file.py:Name"."""
    track: Track
    """Who may read the inside of the reward model."""
    out: Path
    """Folder of the runs."""
    secret: str | None = None
    """Word that draws the seeds and the held-out prompts; None takes the public ones."""

    def __post_init__(self) -> None:
        choice = RewardChoice.of(self.rule)
        # Runs are measured by the scorer of their reward: another one would be its own judge.
        if not isinstance(choice.made, Credit) or choice.kind == "encoder":
            raise ValueError(
                f"{self.rule} brings a scorer of its own, by which it would be measured too; name "
                "a credit rule, which spreads the score of the task's reward model"
            )
        reads = choice.made.attribution
        if self.track == "scores" and reads is not None and reads not in PASSED:
            raise ValueError(
                f"{self.rule} reads {reads} of the reward model, which the track 'scores' does "
                "not allow; take --track inside"
            )

    @property
    def subjects(self) -> tuple[str, str]:
        """The rule and the baseline; a rule that cannot be used is refused before the baseline."""
        return self.rule, BASELINE

    @property
    def settings(self) -> tuple[Setting, ...]:
        """Settings in which they are run."""
        return self.definition.settings

    def reward(self, subject: str) -> str:
        """Return the reward that a subject is trained with."""
        return subject

    @cached_property
    def code(self) -> str | None:
        """Source of the file that has the rule, as it was first; None of a bundled one."""
        return self._read_code()

    def _read_code(self) -> str | None:
        """Return the source as it is now."""
        file_word = split_file_word(self.rule)
        return None if file_word is None else file_word[0].read_text(encoding="utf-8")

    @cached_property
    def data(self) -> dict[str, str]:
        """SHA-256 of each file or folder among the rule's options, by its path, as it was first."""
        return self._read_data()

    def _read_data(self) -> dict[str, str]:
        """Return the hashes as they are now."""
        return data_hashes(texts_of_options(self.rule), known={})

    def _check_source(self) -> None:
        """Refuse a rule whose files are others now: its runs would have the old one's name."""
        if self._read_code() != self.code or self._read_data() != self.data:
            raise ValueError(
                f"a file of {self.rule} was changed since the benchmark began; run the command "
                "again, which measures it as another rule, or restore the file"
            )

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the runs that are compared."""
        if self.secret is None:
            return self.definition.seeds
        drawn = self._generator().choice(
            HIDDEN_TO - HIDDEN_FROM, size=len(self.definition.seeds), replace=False
        )
        return tuple(int(seed) + HIDDEN_FROM for seed in drawn)

    def _generator(self) -> np.random.Generator:
        """Return the generator that the secret word and the rule seed."""
        return np.random.default_rng(int(self._secret_hash, 16))

    @property
    def _secret_hash(self) -> str:
        """One hash of the secret word and the rule."""
        return hashlib.sha256(f"{self.secret}\n{self.code or self.rule}".encode()).hexdigest()

    # --- where a run is, and what it is ---

    def key(self, rule: str) -> str:
        """Return a rule's name in files, which its code and its models are part of."""
        if rule == BASELINE or (self.code is None and not self.data):
            return slug(rule)
        source = "".join([self.code or "", *self.data.values()])
        digest = hashlib.sha256(source.encode()).hexdigest()
        return f"{slug(bare(rule))}-{digest[:8]}"

    def cell(self, setting: Setting, rule: str, start: str, gae_lambda: str) -> Cell:
        """Return a cell of the benchmark."""
        about = {"setting": setting.name, "rule": self.key(rule)}
        return Cell(**about, start=start, gae_lambda=gae_lambda)

    def file(self, run: Cell) -> Path:
        """Return the file of a run's measurements; those of a secret word are apart."""
        return self._folder / "runs" / f"{run!r}.csv"

    def _diverged(self, run: Cell) -> Path:
        """Return the file that says how a run has diverged."""
        return self._folder / "runs" / f"{run!r}.diverged"

    @property
    def _folder(self) -> Path:
        """Folder of the runs; those by a secret word have one of their own."""
        if self.secret is None:
            return self.out
        return self.out / f"hidden-{self._secret_hash[:8]}"

    def read(self, run: Cell) -> list[Row]:
        """Return the measurements of a run that is done.

        Raises:
            ValueError: if its file lacks some, or is of another run.
        """
        file = self.file(run)
        rows: list[Row] = [*read_rows(file, text=TEXT)]
        self._check_whole(rows, file, "delete it, and the run is done again")
        if any(row[name] != value for row in rows for name, value in run.items()):
            raise ValueError(
                f"{file} holds another run than its name says; delete it, and the run is done again"
            )
        return rows

    def _check_whole(self, rows: Sequence[Row], source: Path | str, remedy: str) -> None:
        """Refuse rows that are not all measurements of a run.

        Args:
            rows: Measurements.
            source: Where they are from, for the message.
            remedy: What to do.
        """
        about = self.definition
        steps = [*range(0, about.updates + 1, about.every)]
        if [row.get("step") for row in rows] != steps or any(None in row.values() for row in rows):
            raise ValueError(
                f"{source} does not hold the {len(steps)} measurements of a run; {remedy}"
            )

    def config(self, setting: Setting, rule: str, run: Cell, updates: int) -> ComparisonConfig:
        """Return the comparison that a run is of."""
        about = self.definition
        return single_run(
            setting.env,
            self.reward(rule),
            steps=updates,
            batch_size=about.rows,
            max_new_tokens=setting.tokens,
            fixed_length=setting.fixed,
            kl_coef=about.price,
            learning_rate=run.rate,
            gae_lambda=float(run.gae_lambda),
            value_network=run.start,
            **about.learner,
            evaluation=EvaluationSettings(every=about.every, episodes=about.prompts, samples=0),
            task=TaskSettings(task_options=setting.options, bundle=self._bundle(setting)),
        )

    def _bundle(self, setting: Setting) -> str | None:
        """Return the folder of a bundle with hidden prompts, None for the bundled one.

        A verified task draws its prompts itself; its seeds alone are hidden.
        """
        if self.secret is None or setting.verified:
            return None
        source = Path(bundled(setting.bundle).path)
        rows = read_prompts(source)
        held_out = [row for row in rows if row["split"] == "test"][PROMPTS:]
        order = self._generator().permutation(len(held_out))
        chosen = [held_out[at] for at in order]
        train = [row for row in rows if row["split"] != "test"]
        return str(with_prompts(source, [*train, *chosen], self._folder / setting.bundle))

    # --- what is to be run ---

    def ready(self) -> Iterator[Work]:
        """Yield the missing runs that wait for no other."""
        raise NotImplementedError

    def left(self, setting: Setting, rule: str) -> int:
        """Return about how many runs are left of a subject in a setting."""
        raise NotImplementedError

    def first(self, setting: Setting, rule: str) -> Cell:
        """Return a cell of a subject with its rate, by which runs are timed."""
        raise NotImplementedError

    def may_diverge(self, run: Cell) -> bool:
        """Return whether it is a result of a run that it diverges."""
        raise NotImplementedError

    def _missing(self, cells: Sequence[Cell], seeds: Sequence[int]) -> list[Cell]:
        """Return the runs of cells that have no file."""
        runs = [cell.but(seed=seed) for cell in cells for seed in seeds]
        return [
            run for run in runs if not (self.file(run).exists() or self._diverged(run).exists())
        ]

    def reached(self, run: Cell) -> float:
        """Return score - c KL over a run that is done; minus infinity if it has diverged."""
        if self._diverged(run).exists():
            return -math.inf
        return net_area(self.read(run), self.definition.price)

    # --- what is measured ---

    def measure(self, setting: Setting, rule: str, run: Cell) -> None:
        """Do a run and write its file.

        Raises:
            NonFiniteError: if a run diverges of which that is no result.
            ValueError: if a file of the rule was changed since the benchmark began.
        """
        began = time.process_time()
        config = self.config(setting, rule, run, self.definition.updates)
        try:
            record = run_one(config, self.reward(rule), int(run.seed))
        except NonFiniteError as error:
            if not self.may_diverge(run):
                raise
            self._check_source()
            write_text(self._diverged(run), f"{error}\n")
            return
        spent = round(time.process_time() - began, 2)
        self._check_source()
        write_rows(self.file(run), [{**run, **row, "cpu_s": spent} for row in measured(record)])

    def _seconds(self, setting: Setting, rule: str, run: Cell, updates: int) -> float:
        """Return the CPU seconds of a run of a few updates, which is not kept."""
        began = time.process_time()
        run_one(self.config(setting, rule, run, updates), self.reward(rule), 0)
        return time.process_time() - began

    def pace(self, setting: Setting, rule: str) -> float:
        """Return the CPU seconds of a run, from two short ones that are made once."""
        file = self._folder / PACE_FILE
        known: dict[str, dict[str, float]] = read_json(file) if file.exists() else {}
        if setting.name not in known.get(self.key(rule), {}):
            run = self.first(setting, rule)
            short, longer = (self._seconds(setting, rule, run, n) for n in PACE_UPDATES)
            update = max(longer - short, 0.0) / (PACE_UPDATES[1] - PACE_UPDATES[0])
            spent = short + update * (self.definition.updates - PACE_UPDATES[0])
            known.setdefault(self.key(rule), {})[setting.name] = round(spent, 1)
            write_json(file, known)
        return known[self.key(rule)][setting.name]

    def way(self, setting: Setting) -> tuple[float, float]:
        """Return score - c KL of the untrained policy and of its best of 16, drawn once.

        Raises:
            ValueError: if the span between them may be noise.
        """
        file = self._folder / "ways" / f"{setting.name}.csv"
        if not file.exists():
            options: dict[str, Any] = {}
            if bundle := self._bundle(setting):
                options["bundle"] = bundle
            task = TaskSettings(task_options=setting.options)
            options |= task.env_kwargs(setting.env)
            scores = scores_of(untrained_responses(setting.env, setting.tokens, **options))
            check_span(scores, setting.name)
            write_rows(file, best_of_rows(scores, scores))
        price = self.definition.price
        nets = {row["n"]: net(row, price) for row in read_rows(file, text=())}
        return nets[1], nets[self.definition.best_of]


@dataclass(frozen=True, kw_only=True)
class Bench(BenchRuns):
    """The runs of one rule and of the baseline in version 1.

    Raises:
        ValueError: if the rule is the baseline, brings a scorer of its own, or reads what its track
            does not allow.
    """

    definition: Definition

    def __post_init__(self) -> None:
        if self.rule == BASELINE:
            raise ValueError(
                f"{BASELINE} is the baseline that rules are compared with; name another rule"
            )
        super().__post_init__()

    def first(self, setting: Setting, rule: str) -> Cell:
        """Return a cell of a subject with its rate, by which runs are timed."""
        start, at = setting.starts(self.track)[-1], self.definition.lambdas[0]
        return self.cell(setting, rule, start, at).but(rate=self.definition.first_rate)

    def may_diverge(self, run: Cell) -> bool:
        """Return whether it is of the tuning: a sweep goes on until a rate is worse."""
        return run.seed in self.definition.spare_seeds

    def tuning(self, setting: Setting, rule: str) -> tuple[list[Cell], Cell | None]:
        """Return the next runs of a rule's tuning, and once there are none the cell it found.

        Every lambda is tried with every start at the first rate; then the best one's rate climbs
        until both neighbours are worse. What counts is the mean over the spare seeds.

        Args:
            setting: Where.
            rule: Of whom.
        """
        about = self.definition
        starts = setting.starts(self.track)
        first = [
            self.cell(setting, rule, start, at).but(rate=about.first_rate)
            for start in starts
            for at in about.lambdas
        ]
        if missing := self._missing(first, about.spare_seeds):
            return missing, None
        best = max(first, key=self._reached)
        areas = {
            rate: self._reached(cell)
            for rate in RATES
            if not self._missing([cell := best.but(rate=rate)], about.spare_seeds)
        }
        rate = next_rate(areas, about.first_rate)
        if rate is not None:
            return self._missing([best.but(rate=rate)], about.spare_seeds), None
        return [], best.but(rate=max(areas, key=lambda rate: areas[rate]))

    def _reached(self, cell: Cell) -> float:
        """Return what a cell reaches on the spare seeds, whose runs are done."""
        if cell not in self._reached_by:  # read once: what is ready is asked after every run
            runs = [cell.but(seed=seed) for seed in self.definition.spare_seeds]
            self._reached_by[cell] = mean([self.reached(run) for run in runs])
        return self._reached_by[cell]

    @cached_property
    def _reached_by(self) -> dict[Cell, float]:
        """What `_reached` has returned so far."""
        return {}

    def ready(self) -> Iterator[Work]:
        """Yield the missing runs that wait for no other: what tuning asks for, then the seeds'."""
        for setting in self.definition.settings:
            for rule in self.subjects:
                runs, chosen = self.tuning(setting, rule)
                if chosen is not None:
                    runs = self._missing([chosen], self.seeds)
                yield from ((setting, rule, run) for run in runs)

    def left(self, setting: Setting, rule: str) -> int:
        """Return about how many runs are left of a rule in a setting."""
        about = self.definition
        runs, chosen = self.tuning(setting, rule)
        if chosen is not None:
            return len(self._missing([chosen], self.seeds))
        begins = [f"{setting.name}_{self.key(rule)}_{at}_" for at in setting.starts(self.track)]
        files = [file.name for file in self._folder.glob("runs/*")]
        done = sum(name.startswith(tuple(begins)) for name in files)
        return max(about.runs(setting, self.track) - done, len(runs))
