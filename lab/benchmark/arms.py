"""The runs of version 2: all cells of an arm and of the baseline on all seeds."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tokengym.base import write_text
from tokengym.evaluation.statistics import RunPath
from tokengym.lab.benchmark.definition import BASELINE, OWN, Setting, weights_hash
from tokengym.lab.benchmark.runs import TEXT, BenchRuns, Work
from tokengym.lab.benchmark.verdict import Leads, leads_of, path_of
from tokengym.lab.benchmark.version2 import Definition2, OtherArm, Setting2
from tokengym.lab.study import Cell, read_rows, run_of, write_rows
from tokengym.lab.tables import grouped, mean

OF_RUNS = ("setting", "rule", "start", "gae_lambda", "rate", "seed")
"""Columns that say which run a measurement is of."""
DONE, DIVERGED = "runs", "diverged"
"""Published files of a subject: the measurements of its runs, and which runs have diverged."""
WHY = "why"
"""Column that says how a run has diverged."""


@dataclass(frozen=True, kw_only=True)
class ArmBench(BenchRuns):
    """The runs of an arm and of the baseline in version 2.

    A rule's critic starts from the language model, like the baseline's. The baseline's own name is
    an arm: its reward with a critic from the reward model (`Definition2.others`).

    Raises:
        ValueError: if the rule brings a scorer of its own, or the arm reads what its track does not
            allow.
    """

    definition: Definition2
    corpora: Path | None = None
    """Folder with a bundle for each corpus of real text, such as ``imdb``; None leaves out the
    settings that need one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.secret is not None:
            raise ValueError("version 2 has no hidden seeds; leave --secret out")
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
    def asked(self) -> tuple[Setting2, ...]:
        """Settings that the arm's row has when it is whole: those with a critic of its start."""
        start = self.start(self.subject)
        return tuple(at for at in self.definition.settings if start in at.starts("inside"))

    @property
    def settings(self) -> tuple[Setting2, ...]:
        """Of those asked for, the ones whose texts are there."""
        return tuple(at for at in self.asked if not at.corpus or self._corpus(at).exists())

    def _corpus(self, setting: Setting2) -> Path:
        """Return the folder of a setting's bundle of real text, which may not exist."""
        return (self.corpora or Path("corpora")) / setting.corpus

    def _bundle(self, setting: Setting) -> str | None:
        assert isinstance(setting, Setting2)
        return str(self._corpus(setting)) if setting.corpus else None

    # --- what is to be run ---

    def cells(self, setting: Setting2, subject: str) -> list[Cell]:
        """Return a subject's cells in a setting: the lambdas by the rates."""
        start = self.start(subject)
        return [
            self.cell(setting, subject, start, at).but(rate=rate)
            for at in self.definition.lambdas
            for rate in setting.rates
        ]

    def _open(self, setting: Setting, subject: str) -> list[Cell]:
        """Return a subject's missing runs in a setting."""
        assert isinstance(setting, Setting2)
        return self._missing(self.cells(setting, subject), self.seeds)

    def ready(self) -> Iterator[Work]:
        """Yield the missing runs, setting by setting: each that is whole is a part of the row."""
        for setting in self.settings:
            for subject in self.subjects:
                yield from ((setting, subject, run) for run in self._open(setting, subject))

    def left(self, setting: Setting, rule: str) -> int:
        """Return how many runs are left of a subject in a setting."""
        return len(self._open(setting, rule))

    def first(self, setting: Setting, rule: str) -> Cell:
        """Return a cell of a subject, by which its runs are timed."""
        assert isinstance(setting, Setting2)
        return self.cells(setting, rule)[0]

    def may_diverge(self, run: Cell) -> bool:
        """Return True: a cell with such a run is left out of its arm."""
        return True

    # --- what is read of them ---

    @property
    def done(self) -> list[Setting2]:
        """Settings in which all runs are done."""
        return [at for at in self.settings if not any(self._open(at, s) for s in self.subjects)]

    def paths(self, setting: Setting2, subject: str) -> dict[str, dict[int, RunPath]]:
        """Return a subject's runs in a setting by cell and seed, without cells that diverge.

        Args:
            setting: A setting that is done.
            subject: The arm's name, or the baseline's.

        Raises:
            ValueError: if all its cells diverge.
        """
        arm: dict[str, dict[int, RunPath]] = {}
        for cell in self.cells(setting, subject):
            runs = {seed: cell.but(seed=seed) for seed in self.seeds}
            if all(self.file(run).exists() for run in runs.values()):
                arm[repr(cell)] = {seed: path_of(self.read(run)) for seed, run in runs.items()}
        if not arm:
            raise ValueError(
                f"every cell of {subject} has a run that diverges in {setting.name}, so that it "
                "has no lead there; scale what the rule returns"
            )
        return arm

    def leads(self, setting: Setting2, measure: str = "score") -> Leads:
        """Return the arm's leads on the baseline in a setting that is done.

        Args:
            setting: The setting.
            measure: Measurement at equal KL; ``gold_score`` is a share of the way of the score.
        """
        start, goal = self.way(setting)
        arm, baseline = (self.paths(setting, subject) for subject in self.subjects)
        return leads_of(arm, baseline, goal - start, price=self.definition.price, measure=measure)

    def seconds(self, setting: Setting2, subject: str) -> float:
        """Return the mean CPU seconds of a subject's runs in a setting that is done."""
        runs = [
            run
            for cell in self.cells(setting, subject)
            if self.file(run := cell.but(seed=self.seeds[0])).exists()
        ]
        return mean([float(self.read(run)[-1]["cpu_s"]) for run in runs])

    def models(self, setting: Setting2) -> dict[str, str]:
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

        Raises:
            ValueError: if a published run lacks measurements.
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
