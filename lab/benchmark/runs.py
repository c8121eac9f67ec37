"""The runs that a row of the board stands on; the folder is the state, so that they resume."""

import hashlib
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

from tokengym import Comparison
from tokengym.agents import NonFiniteError
from tokengym.base import (
    data_hashes,
    read_json,
    split_file_word,
    texts_of_options,
    write_json,
    write_text,
)
from tokengym.evaluation import run as run_one
from tokengym.evaluation.runs import EvaluationSettings, TaskSettings, slug
from tokengym.evaluation.statistics import Curve
from tokengym.lab.benchmark.definition import (
    BASELINE,
    OWN,
    PASSED,
    Definition,
    OtherArm,
    Setting,
    Track,
    weights_hash,
)
from tokengym.lab.benchmark.subject import HELD_BY, KINDS, bare, kind_of
from tokengym.lab.benchmark.verdict import Leads, leads_of
from tokengym.lab.protocol import (
    Row,
    best_of_rows,
    check_span,
    curve_of,
    measured,
    net,
    net_area,
    scores_of,
    untrained_responses,
)
from tokengym.lab.study import Cell, read_rows, run_of, single_run, write_rows
from tokengym.lab.tables import grouped, mean
from tokengym.rewards import RewardChoice, Rule

PACE_FILE = "pace.json"
PACE_UPDATES = 1, 3
"""Updates of the short runs that say how long the others take."""
TEXT = ("rule", "setting", "start", "gae_lambda")
OF_RUNS = ("setting", "rule", "start", "gae_lambda", "rate", "seed")
"""Columns that say which run a measurement is of."""
DONE, DIVERGED = "runs", "diverged"
"""Published files of a subject: the measurements of its runs, and which runs have diverged."""
WHY = "why"
"""Column that says how a run has diverged."""
Work: TypeAlias = tuple[Setting, str, Cell]
"""A run: setting, subject, and the cell with its rate and seed."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """The runs of an arm and of the baseline, in a folder that arms share.

    A rule's critic starts from the language model, like the baseline's. The baseline's own name is
    an arm: its reward with a critic from the reward model (`Definition.others`).
    """

    definition: Definition
    """Version of the board."""
    rule: str
    """Credit rule by name, or "path/to/file.py:Name"."""
    track: Track
    """Who may read the inside of the reward model."""
    out: Path
    """Folder of the runs."""
    corpora: Path | None = None
    """Folder with a bundle for each corpus of real text, such as ``imdb``; None leaves out the
    settings that need one."""

    def __post_init__(self) -> None:
        if (kind := kind_of(self.rule)) != "rule":
            raise ValueError(
                f"{self.rule} is {KINDS[kind]}, and the board compares credit rules; "
                f"{HELD_BY[kind].format(self.rule)}"
            )
        choice = RewardChoice.of(self.rule)
        # Runs are measured by the scorer of their reward: another one would be its own judge.
        if not isinstance(choice.made, Rule) or choice.kind == "encoder":
            raise ValueError(
                f"{self.rule} brings a scorer of its own, by which it would be measured too; name "
                "a credit rule, which spreads the score of the task's reward model"
            )
        inside = [kind for kind in choice.made.accounts if kind not in PASSED]
        if self.track == "scores" and inside:
            raise ValueError(
                f"{self.rule} reads {inside[0]} of the reward model, which the track 'scores' does "
                "not allow; take --track inside"
            )
        if self.other is not None and self.track == "scores":
            raise ValueError(
                f"{self.other.name} reads the inside of the reward model, which the track "
                "'scores' does not allow; take --track inside"
            )

    @cached_property
    def other(self) -> OtherArm | None:
        """The arm that is no rule, None of a rule."""
        return self.definition.others[0] if self.rule == BASELINE else None

    @property
    def subject(self) -> str:
        """Name of the arm."""
        return self.rule if self.other is None else self.other.name

    @property
    def subjects(self) -> tuple[str, str]:
        """The arm and the baseline."""
        return self.subject, BASELINE

    def reward(self, subject: str) -> str:
        """Return the reward that a subject is trained with."""
        return self.rule if subject == self.subject else BASELINE

    def start(self, subject: str) -> str:
        """Return where a subject's value network starts from."""
        return OWN if subject == BASELINE or self.other is None else self.other.start

    @property
    def asked(self) -> tuple[Setting, ...]:
        """Settings that the arm's row has when it is whole: those with a critic of its start."""
        start = self.start(self.subject)
        return tuple(at for at in self.definition.settings if start in at.starts())

    @property
    def settings(self) -> tuple[Setting, ...]:
        """Of those asked for, the ones whose texts are there."""
        return tuple(at for at in self.asked if not at.corpus or self._corpus(at).exists())

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

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the runs that are compared."""
        return self.definition.seeds

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
        """Return the file of a run's measurements."""
        return self.out / "runs" / f"{run!r}.csv"

    def _diverged(self, run: Cell) -> Path:
        """Return the file that says how a run has diverged."""
        return self.out / "runs" / f"{run!r}.diverged"

    def read(self, run: Cell) -> list[Row]:
        """Return the measurements of a run that is done."""
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

    def config(self, setting: Setting, rule: str, run: Cell, updates: int) -> Comparison:
        """Return the comparison that a run is of."""
        about = self.definition
        return single_run(
            setting.env,
            self.reward(rule),
            updates=updates,
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

    def _corpus(self, setting: Setting) -> Path:
        """Return the folder of a setting's bundle of real text, which may not exist."""
        return (self.corpora or Path("corpora")) / setting.corpus

    def _bundle(self, setting: Setting) -> str | None:
        """Return the folder of a bundle that does not ship, None for the bundled one."""
        return str(self._corpus(setting)) if setting.corpus else None

    # --- what is to be run ---

    def cells(self, setting: Setting, subject: str) -> list[Cell]:
        """Return a subject's cells in a setting: the lambdas by the rates."""
        start = self.start(subject)
        return [
            self.cell(setting, subject, start, at).but(rate=rate)
            for at in self.definition.lambdas
            for rate in setting.rates
        ]

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

    def _open(self, setting: Setting, subject: str) -> list[Cell]:
        """Return a subject's missing runs in a setting."""
        return self._missing(self.cells(setting, subject), self.seeds)

    def ready(self) -> Iterator[Work]:
        """Yield the missing runs, setting by setting: each that is whole is a part of the row."""
        for setting in self.settings:
            for subject in self.subjects:
                yield from ((setting, subject, run) for run in self._open(setting, subject))

    def left(self, setting: Setting, rule: str) -> int:
        """Return how many runs are left of a subject in a setting."""
        return len(self._open(setting, rule))

    # --- what is measured ---

    def measure(self, setting: Setting, rule: str, run: Cell) -> None:
        """Do a run and write its file; a cell with a run that diverges is left out of its arm."""
        began = time.process_time()
        config = self.config(setting, rule, run, self.definition.updates)
        try:
            record = run_one(config, self.reward(rule), int(run.seed))
        except NonFiniteError as error:
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
        file = self.out / PACE_FILE
        known: dict[str, dict[str, float]] = read_json(file) if file.exists() else {}
        if setting.name not in known.get(self.key(rule), {}):
            spent = 0.0  # of cells that all diverge at once
            for run in self.cells(setting, rule):
                with suppress(NonFiniteError):
                    short, longer = (self._seconds(setting, rule, run, n) for n in PACE_UPDATES)
                    update = max(longer - short, 0.0) / (PACE_UPDATES[1] - PACE_UPDATES[0])
                    spent = short + update * (self.definition.updates - PACE_UPDATES[0])
                    break
            known.setdefault(self.key(rule), {})[setting.name] = round(spent, 1)
            write_json(file, known)
        return known[self.key(rule)][setting.name]

    def way(self, setting: Setting) -> tuple[float, float]:
        """Return score - c KL of the untrained policy and of its best of 16, drawn once."""
        file = self.out / "ways" / f"{setting.name}.csv"
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

    # --- what is read of them ---

    @property
    def done(self) -> list[Setting]:
        """Settings in which all runs are done."""
        return [at for at in self.settings if not any(self._open(at, s) for s in self.subjects)]

    def curves(self, setting: Setting, subject: str) -> dict[str, dict[int, Curve]]:
        """Return a subject's runs in a setting by cell and seed, without cells that diverge.

        Args:
            setting: A setting that is done.
            subject: The arm's name, or the baseline's.
        """
        arm: dict[str, dict[int, Curve]] = {}
        for cell in self.cells(setting, subject):
            runs = {seed: cell.but(seed=seed) for seed in self.seeds}
            if all(self.file(run).exists() for run in runs.values()):
                arm[repr(cell)] = {seed: curve_of(self.read(run)) for seed, run in runs.items()}
        if not arm:
            raise ValueError(
                f"every cell of {subject} has a run that diverges in {setting.name}, so that it "
                "has no lead there; scale what the rule returns"
            )
        return arm

    def leads(self, setting: Setting) -> Leads:
        """Return the arm's leads on the baseline in a setting that is done."""
        start, goal = self.way(setting)
        arm, baseline = (self.curves(setting, subject) for subject in self.subjects)
        return leads_of(arm, baseline, goal - start, price=self.definition.price)

    def seconds(self, setting: Setting, subject: str) -> float:
        """Return the mean CPU seconds of a subject's runs of the first seed, the setting done."""
        runs = [
            run
            for cell in self.cells(setting, subject)
            if self.file(run := cell.but(seed=self.seeds[0])).exists()
        ]
        return mean([float(self.read(run)[-1]["cpu_s"]) for run in runs])

    def models(self, setting: Setting) -> dict[str, str]:
        """Return the hashes of a real corpus's models, which the version does not fix; else {}."""
        if not setting.corpus:
            return {}
        folder = self._corpus(setting)
        return {part: weights_hash(folder / part) for part in ("policy", "reward_model")}

    # --- what is published of them ---

    def publish(self, folder: Path) -> None:
        """Write the measurements of all runs that are done, and which have diverged, by subject.

        Those of settings that this row does not have, or whose texts are not here, are written too:
        rows share the baseline's runs.

        Args:
            folder: Where; `restore` reads it.
        """
        for subject in self.subjects:
            runs = [
                cell.but(seed=seed)
                for setting in self.definition.settings
                for cell in self.cells(setting, subject)
                for seed in self.seeds
            ]
            done = [run for run in runs if self.file(run).exists()]
            write_rows(
                self._published(folder, subject), [r for run in done for r in self.read(run)]
            )
            lost = [run for run in runs if self._diverged(run).exists()]
            write_rows(
                self._published(folder, subject, DIVERGED),
                [{**run, WHY: self._diverged(run).read_text("utf-8").strip()} for run in lost],
            )

    def restore(self, folder: Path) -> int:
        """Write published runs to the files that they came from, so that they are not done again.

        Nothing is written unless all that is published is whole.

        Args:
            folder: Where `publish` has written.

        Returns:
            How many were written.
        """
        done: dict[Cell, list[dict[str, Any]]] = {}
        lost: dict[Cell, str] = {}
        for subject in self.subjects:
            file, diverged = (self._published(folder, subject, of) for of in (DONE, DIVERGED))
            for run, points in grouped(_rows_of(file), lambda row: run_of(row, OF_RUNS)).items():
                remedy = "restore the file as it was published, or name another folder"
                self._check_whole(points, f"{file}, {run!r},", remedy)
                done[run] = points
            lost |= {run_of(row, OF_RUNS): str(row[WHY]) for row in _rows_of(diverged)}
        new = [
            run
            for run in {**done, **lost}
            if not (self.file(run).exists() or self._diverged(run).exists())
        ]
        for run in new:
            if run in done:
                write_rows(self.file(run), done[run])
            else:
                write_text(self._diverged(run), f"{lost[run]}\n")
        return len(new)

    def _published(self, folder: Path, subject: str, of: str = DONE) -> Path:
        """Return the published file of a subject's runs, or of those that have diverged."""
        return folder / f"{self.key(subject)}-{of}.csv"


def _rows_of(file: Path) -> list[dict[str, Any]]:
    """Return the rows of a published file; none where there is none."""
    return read_rows(file, text=(*TEXT, WHY)) if file.exists() else []
