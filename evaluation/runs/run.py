"""One run: a spec, and the folder that holds what has become of it.

How far a run is - missing, unfinished, failed, finished, or damaged - is asked of `Run` alone. The
reference samples of a comparison are a run too, in a folder beside those of the rewards: they are
resumed, retried and shown alike.
"""

import csv
import math
import shutil
import time
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import cached_property
from numbers import Real
from pathlib import Path
from typing import Any

from tokengym.agents.errors import CheckpointError
from tokengym.base.errors import StorageError, is_fault
from tokengym.base.files import (
    content_hash,
    read_hashed,
    read_json,
    read_jsonl,
    write_hashed,
    write_json,
)
from tokengym.base.folders import LOCK, locked
from tokengym.base.objects import own_copies, short
from tokengym.base.saved_code import check_code, running_copies
from tokengym.evaluation.measure.references import SAMPLES, ReferenceSamples, draw_references
from tokengym.evaluation.report.curves import curve_of
from tokengym.evaluation.runs.comparison import Comparison
from tokengym.evaluation.runs.record import RESPONSES, RunRecord, origin, read_responses, versions
from tokengym.evaluation.runs.spec import SPEC_FILE, UNFINISHED, RunSpec
from tokengym.evaluation.runs.training import Report, Training, join_processes, train
from tokengym.evaluation.statistics import Curve
from tokengym.evaluation.statistics.curve import GroupKey

BEST_OF_N = "best-of-n"
"""Word for the learner whose policy is the best of the untrained one's responses."""
PROGRESS = "progress.json"
"""File of how far a run is, in its folder while it is at work."""


def run(
    comparison: Comparison,
    name: str,
    seed: int,
    *,
    out: Path | None = None,
    save: Path | None = None,
    report: Report | None = None,
    checkpoint_every: int = 0,
    track: str | None = None,
) -> RunRecord:
    """Do one run of a comparison, and return its measurements.

    Args:
        comparison: The comparison.
        name: Name of its arm, see `Comparison.names`.
        seed: Seed of everything random in the training.
        out: The comparison's folder; files are written at the end, or when the run fails. None
            writes nothing. Online DPO and RAFT keep their iterations in the run's folder and resume
            after the last one there.
        save: Folder that the trained agent is saved in; None saves none.
        report: Told (step of the curve, its last point) after each evaluation.
        checkpoint_every: Evaluations between two checkpoints in the folder; the same call resumes
            from the last one and ends with the same numbers. 0 keeps none.
        track: Tracker that the log and the evaluations are passed on to; None for none. A resumed
            run begins a second run there.

    Raises:
        CheckpointError: if the folder holds iterations of other settings.
        FolderInUseError: if another process does the same run in the same folder.
        StorageError: if the disk is full, before any training if it cannot hold the agent to
            save; what was complete is kept.
        Exception: whatever the training raises, after it was recorded.
    """
    spec = comparison.spec(name, seed, out)
    return Run(spec).do(save=save, report=report, checkpoint_every=checkpoint_every, track=track)


class Run:
    """One run, which may have been done: its spec and its folder.

    Args:
        of: The spec, or the folder of a run that has begun.
    """

    def __init__(self, of: RunSpec | Path | str) -> None:
        self.group: GroupKey = ()
        """Settings that set it apart from runs of other comparisons that are shown with it."""
        self._given_folder = of.folder if isinstance(of, RunSpec) else Path(of)
        if isinstance(of, RunSpec):
            self.spec = of

    @cached_property
    def spec(self) -> RunSpec:
        """What decides its numbers; that of a folder is read, running no code that it names.

        Raises:
            ValueError: if it is damaged, or of another version.
        """
        return RunSpec.read(self.folder)

    @property
    def key(self) -> tuple[str, int]:
        """Name of its arm and seed, which no other run of the comparison has."""
        return self.spec.key

    @property
    def folder(self) -> Path:
        """Folder of its files."""
        assert self._given_folder is not None
        return self._given_folder

    @property
    def seed(self) -> int:
        """Its seed."""
        return self.key[1]

    @cached_property
    def arm(self) -> str:
        """Name of its arm in the results, which several comparisons together may change."""
        return self.spec.arm

    @property
    def named(self) -> dict[str, str | None]:
        """Its arm, and the words of its reward and its learner."""
        reward, agent = (short(word.text) for word in (self.spec.reward, self.spec.agent))
        return {"credit": self.arm, "reward": reward, "agent": agent}

    # --- how far it is ----------------------------------------------------------------------------

    @property
    def has_ended(self) -> bool:
        """Whether its result is in its folder, failed or finished."""
        return self._given_folder is not None and (self.folder / "run.json").exists()

    @property
    def result(self) -> dict[str, Any]:
        """What its run.json says, after a look at the files that it has hashes of; {} before.

        Raises:
            ValueError: if run.json is damaged, or a file is missing or was changed since the end.
        """
        if not self.has_ended:
            return {}
        folder, result = self.folder, read_hashed(self.folder / "run.json")
        tables = [result.get(name) or {} for name in ("versions", "made", "files")]
        is_whole = isinstance(result.get("status"), str)
        if not is_whole or not all(isinstance(table, dict) for table in tables):
            raise ValueError(f"{folder / 'run.json'} is damaged; delete {folder} and run again")
        of = result.get("credit"), result.get("seed")  # the reference samples have none
        if of[0] is not None and (folder / SPEC_FILE).exists() and of != self.key:
            raise ValueError(
                f"{folder / 'run.json'} is that of {of[0]}, seed {of[1]}; restore that of "
                f"{self.key[0]}, seed {self.key[1]}, or delete {folder} and run again"
            )
        for name, expected in tables[-1].items():
            file = folder / name
            if not file.is_file() or content_hash(file) != expected:
                state = "was changed since its run ended" if file.exists() else "is missing"
                raise ValueError(f"{file} {state}; restore it, or delete {folder} and run again")
        return result

    @property
    def is_finished(self) -> bool:
        """Whether it ended without a fault."""
        return self.result.get("status") == "finished"

    @property
    def status(self) -> str:
        """What run.json says of its end, without a look at other files: "" before it has ended."""
        return str(read_hashed(self.folder / "run.json").get("status")) if self.has_ended else ""

    @property
    def can_resume(self) -> bool:
        """Whether a checkpoint, samples or iterations are in its folder, which were paid for."""
        return any((self.folder / name).exists() for name in (UNFINISHED, SAMPLES, "iterations"))

    @property
    def progress(self) -> tuple[bool, list[Any] | None]:
        """Whether a process is at work on it, and the step and point that it wrote last."""
        try:
            progress = read_json(self.folder / PROGRESS)
        except (OSError, ValueError):
            progress = None
        return progress is not None or (self.folder / LOCK).exists(), progress

    # --- what it measured -------------------------------------------------------------------------

    @cached_property
    def points(self) -> list[dict[str, Any]]:
        """Its evaluations, once it has finished; what was not measured is None."""
        file = self.folder / "curve.csv"
        rows = _read_numbers(file)
        if not rows:
            raise ValueError(f"{file} holds no rows; it needs a header and a row per step")
        return rows

    @cached_property
    def curve(self) -> Curve:
        """Its curve by steps, once it has finished."""
        said = read_hashed(self.folder / "run.json")
        is_untrained = self.spec.plain["training"]["agent"] == BEST_OF_N
        return replace(
            curve_of(self.points, credit=self.arm, seed=self.seed, group=self.group),
            responses=read_responses(self.folder / RESPONSES, len(self.points)),
            is_weighed=not (is_untrained or said.get("reads_little")),
        )

    @property
    def log(self) -> list[dict[str, Any]]:
        """The learner's log, a row per step; what was not logged is None."""
        file = self.folder / "train.csv"
        return _read_numbers(file) if file.exists() else []

    @property
    def samples(self) -> list[dict[str, Any]]:
        """Responses of its first and last evaluation, with the credit of their tokens."""
        file = self.folder / "episodes.jsonl"
        return read_jsonl(file) if file.exists() else []

    # --- what is done -----------------------------------------------------------------------------

    def do(
        self,
        *,
        save: Path | None = None,
        report: Report | None = None,
        checkpoint_every: int = 0,
        track: str | None = None,
    ) -> RunRecord:
        """Train its policy, and measure it along the way.

        A point's ``tokens`` are the response tokens processed: those sampled, and of a learner from
        whole scores also those passed over with gradient, each as often as that was. Its ``step``
        counts updates, epochs, iterations, or the candidates of best-of-n.

        The arguments and errors are those of `run`.
        """
        with running_copies(self.spec.code, self.spec.copies):
            return self._do(save, report, checkpoint_every, track)

    def _do(
        self, save: Path | None, report: Report | None, checkpoint_every: int, track: str | None
    ) -> RunRecord:
        from tokengym.evaluation.measure.evaluate import unmoved

        spec, processes = self.spec.alone(), join_processes(self.spec.training)
        # Of processes that share a run one locks and writes; the lock would refuse the others.
        folder = spec.folder if processes.is_main else None
        with locked(folder) if folder else nullcontext(), spec.training.applied():
            work = Training(spec, processes, report, checkpoint_every, track, saves=bool(save))
            try:
                check_code(spec.code, spec.data)
                if folder is not None:
                    spec.write(versions())
                # An object that several runs are given begins each as it was passed.
                with own_copies(), unmoved(spec.payers()):
                    last = train(work)
                    if save is not None and last and last.saves:
                        last.saves(save)
            except (CheckpointError, StorageError):
                raise  # the same call resumes, elsewhere or with more space
            except BaseException as error:
                if is_fault(error):
                    work.end(error)
                    # Resumed it would fail again, unless the fault was a passing one.
                    if folder is not None and checkpoint_every and not is_transient(error):
                        self.remove_checkpoint()
                raise
            work.end()
            if folder is not None and checkpoint_every:
                self.remove_checkpoint()
        return work.record

    def draw(self, report: Report | None = None) -> ReferenceSamples:
        """Draw and score what is missing of the reference samples, and record them.

        ``report`` is told progress in the unit of a run's steps, and the mean score so far.
        """
        spec, folder = self.spec, self.folder
        wanted = spec.evaluation.reference_samples or 0
        began = time.perf_counter()

        def told(drawn: ReferenceSamples) -> None:
            if report is not None:
                share = min(drawn.scores.shape[1] / wanted, 1.0)
                seconds = time.perf_counter() - began
                point = {"score": drawn.scores.mean(), "tokens": drawn.tokens, "wall_s": seconds}
                report(round(share * spec.training.last_step), point)

        copies = running_copies(spec.code, spec.copies)
        with copies, locked(folder), spec.training.applied():
            spec.write(versions())
            (folder / "run.json").unlink(missing_ok=True)  # it has a hash of the samples so far
            evaluator = spec.evaluator()
            seed, device = spec.evaluation.seed, spec.training.device
            # Its adapters, which change nothing yet, let it share its backbone.
            policy = evaluator.untrained(seed=seed, device=device, **spec.policy_kwargs())
            with policy.weights(True):
                drawn = draw_references(evaluator, policy, wanted, file=folder / SAMPLES, told=told)
            evaluator.close()
            record = {
                "status": "finished",
                "samples": drawn.scores.shape[1],
                "tokens": drawn.tokens,
                "wall_s": round(time.perf_counter() - began, 3),
                **origin(),
                "measured_by": evaluator.measured_by,
                "files": {SAMPLES: content_hash(folder / SAMPLES)},
            }
            write_hashed(folder / "run.json", record)
        return drawn

    # --- what is kept in its folder ---------------------------------------------------------------

    def fail(self, error: str) -> None:
        """Record it as failed, where it left no result of its own."""
        name, seed = self.key
        record = {"credit": name, "seed": seed, "status": "failed", "error": error}
        with locked(self.folder):
            if not self.has_ended:  # another process may have ended it since
                self.spec.write(versions())  # which it may not have come to
                write_hashed(self.folder / "run.json", record)

    def retry(self) -> None:
        """Forget that it failed: it resumes from what was paid for, or begins anew."""
        if self.can_resume:
            (self.folder / "run.json").unlink()
        else:
            shutil.rmtree(self.folder)

    def clear(self) -> None:
        """Delete what a process left that was killed when the run had finished."""
        left = [name for name in (UNFINISHED, LOCK) if (self.folder / name).exists()]
        if left and self.status == "finished":
            with locked(self.folder):
                self.remove_checkpoint()

    def remove_checkpoint(self) -> None:
        """Delete the checkpoint: the run has ended."""
        shutil.rmtree(self.folder / UNFINISHED, ignore_errors=True)

    def keep_progress(self, step: int, point: Mapping[str, Any]) -> None:
        """Keep how far it is, for who looks on, here or on another machine."""
        shown = {k: float(v) for k, v in point.items() if isinstance(v, Real) and math.isfinite(v)}
        with suppress(OSError):  # a full disk is the affair of what the run has to keep
            write_json(self.folder / PROGRESS, [step, shown])

    def remove_progress(self) -> None:
        """Forget how far it was: it is not at work."""
        (self.folder / PROGRESS).unlink(missing_ok=True)


def is_transient(error: BaseException) -> bool:
    """Return whether a fault may be gone when the same run is done again.

    A full disk, a judge that could not be reached and too little memory are; they may be the cause
    of the error that was raised.
    """
    from torch import OutOfMemoryError

    # A library may have raised another error about it: the whole chain of causes is looked at.
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, (OSError, MemoryError, OutOfMemoryError)):
            return True
        link = link.__cause__ or link.__context__
    return False


def _read_numbers(file: Path) -> list[dict[str, Any]]:
    """Return a table whose cells are numbers, but for the column credit."""
    with file.open(encoding="utf-8", newline="") as lines:
        rows: list[dict[str, Any]] = list(csv.DictReader(lines))
    for row in rows:
        for name, cell in row.items():
            if name != "credit":
                kind = int if name in ("seed", "step", "tokens", "episodes") else float
                row[name] = kind(cell) if cell else None
    return rows
