"""One run of any learner: trained, measured along the way, recorded.

The reference samples of a comparison are a run too, in a folder beside those of the rewards: they
are resumed, retried and shown alike.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tokengym.agents.contract import Agent, Update
from tokengym.agents.errors import CheckpointError
from tokengym.base.errors import SettingsError, StorageError, is_fault
from tokengym.base.files import content_hash, write_hashed
from tokengym.base.folders import locked
from tokengym.base.saved_code import check_code
from tokengym.envs.prompts.rows import ENCODED, rows_stored_in
from tokengym.envs.prompts.tokenization import token_texts
from tokengym.evaluation.measure.references import SAMPLES, ReferenceSamples, draw_references
from tokengym.evaluation.runs.config import ComparisonConfig
from tokengym.evaluation.runs.defaults import TrainingSettings
from tokengym.evaluation.runs.executors import Fault
from tokengym.evaluation.runs.folder import PROGRESS, write_progress
from tokengym.evaluation.runs.record import (
    RunRecord,
    UnfinishedRun,
    describe,
    origin,
    versions,
)
from tokengym.evaluation.runs.spec import NO_NUMBERS, RunSpec, flat
from tokengym.rewards.errors import ScorerError

if TYPE_CHECKING:
    from stable_baselines3.common.logger import KVWriter

    from tokengym.agents.processes import Processes
    from tokengym.evaluation.measure.evaluate import Evaluation, Evaluator


logger = logging.getLogger(__name__)

Report = Callable[[int, Mapping[str, Any]], None]
"""Told (step of the curve, its last point)."""


def run(
    config: ComparisonConfig,
    name: str,
    seed: int,
    *,
    out: Path | None = None,
    save: Path | None = None,
    report: Report | None = None,
    checkpoint_every: int = 0,
    track: str | None = None,
) -> RunRecord:
    """Train one policy and measure it along the way.

    A point's ``tokens`` are the response tokens processed: those sampled, and of a learner from
    whole scores also those passed over with gradient, each as often as that was. Its ``step``
    counts updates, epochs, iterations, or the candidates of best-of-n.

    Args:
        config: The comparison it belongs to.
        name: Name of the run, see `ComparisonConfig.names`; a reward that the comparison does not
            name will do.
        seed: Seed of everything random in the training.
        out: The comparison's folder; files are written at the end, or when the run fails. None
            writes nothing. Online DPO and RAFT keep their iterations in the run's folder and resume
            after the last one there.
        save: Folder that the trained agent is saved in; None saves none.
        report: Told after each evaluation.
        checkpoint_every: Evaluations between two checkpoints in ``out``; the same call resumes
            from the last one and ends with the same numbers. 0 keeps none.
        track: Tracker that the log and the evaluations are passed on to, see `make_tracker`; None
            for none. A resumed run begins a second run there.

    Returns:
        The measurements.

    Raises:
        CheckpointError: if the folder holds iterations of other settings.
        FolderInUseError: if another process does the same run in the same folder.
        StorageError: if the disk is full, before any training if it cannot hold the agent to
            save; what was complete is kept.
        Exception: whatever the training raises, after it was recorded.
    """
    plan = config.plan(name, seed, out)
    return do_plan(plan, save=save, report=report, checkpoint_every=checkpoint_every, track=track)


def do_plan(
    plan: RunSpec,
    *,
    report: Report | None = None,
    save: Path | None = None,
    checkpoint_every: int = 0,
    track: str | None = None,
) -> RunRecord:
    """Do a planned run; see `run`."""
    processes = join_run(plan.training)
    # Of processes that share a run one locks and writes; the lock would refuse the others.
    folder = plan.folder if processes.is_main else None
    shared = plan.comparison_folder
    stored = rows_stored_in(shared / ENCODED if shared else None)
    with locked(folder) if folder else nullcontext(), plan.training.applied(), stored:
        work = _Run(plan, processes, report, checkpoint_every, track, saves=save is not None)
        try:
            check_code(plan.code, plan.data)
            if folder is not None:
                plan.write(versions())
            last = train(work)
            saves = last and last.saves
            if save is not None and saves:
                saves(save)
        except (CheckpointError, StorageError):
            raise  # the same call resumes, elsewhere or with more space
        except BaseException as error:
            if not is_fault(error):
                raise
            # Resumed it would fail again, unless the fault was a passing one.
            work.end(error, keep_checkpoint=is_transient(error))
            raise
        work.end()
        return work.record


def do_spec(spec: RunSpec, *, checkpoint_every: int = 1, track: str | None = None) -> Fault | None:
    """Do a run of a comparison, which tells in its folder how far it is; return its fault."""
    folder, is_measured = spec.folder, False
    assert folder is not None

    def report(step: int, point: Mapping[str, Any]) -> None:
        nonlocal is_measured
        is_measured = True
        write_progress(folder, step, point)

    try:
        if spec.is_reference:
            draw_plan(spec, report=report)
        else:
            do_plan(spec, report=report, checkpoint_every=checkpoint_every, track=track)
    except BaseException as raised:
        if not is_fault(raised):
            raise
        if isinstance(raised, ScorerError) and not is_measured:
            return Fault(describe(raised), of_scorer=raised.for_terminal())
        return Fault(describe(raised))
    finally:
        if is_measured:
            (folder / PROGRESS).unlink(missing_ok=True)
    return None


def train(work: "_Run") -> Update | None:
    """Train and measure one agent from the first update to the last, and return that."""
    for update in work.training.declaration.train(work):  # the first is of the untrained agent
        if work.follow(update):
            break
    return work.last


def join_run(training: TrainingSettings) -> "Processes":
    """Return this process among those that `tokengym train` was launched in, which share its runs.

    Raises:
        SettingsError: if the learner, or the number of its rows, cannot be shared out.
    """
    from tokengym.agents.processes import join, launched

    if launched() > 1 and not training.declaration.uses_credit:
        raise SettingsError(
            f"--agent {training.agent} trains in one process; start it without a launcher, or use "
            "DPO and SFT from a script of your own, which accelerate launch can run"
        )
    if training.batch_size % launched():
        raise SettingsError(
            f"batch_size must be a multiple of the {launched()} processes, got "
            f"{training.batch_size}; each plays as many rows"
        )
    return join(training.device)


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


class _Run:
    """One run: what a learner trains by (a `TrainingRun`), and the record of its measurements."""

    def __init__(
        self,
        plan: RunSpec,
        processes: "Processes",
        report: Report | None,
        checkpoint_every: int,
        track: str | None,
        *,
        saves: bool,
    ) -> None:
        self.plan, self.processes, self.report = plan, processes, report
        self.seed, self.folder = plan.seed, plan.folder
        self.training, self.settings = plan.training, plan.training.learner
        self.record = RunRecord(plan)
        self.checkpoint_every = checkpoint_every
        self._saves = saves
        self._track = track
        self._tracker: KVWriter | None = None
        self.unfinished = None
        if self.folder is not None and checkpoint_every > 0:
            judge = "gold score" if plan.by_gold else plan.rewards[0].text
            self.unfinished = UnfinishedRun(self.folder, {**plan.settings(), "judge": judge})
        self.last: Update | None = None
        """The update that was followed last."""
        self._resumable = False
        self._measured = 0
        self._resumed_at: int | None = None
        self._evaluator: Evaluator | None = None

    # --- what a learner asks ----------------------------------------------------------------------

    @property
    def updates(self) -> int:
        return self.record.steps_done

    @property
    def configuration(self) -> dict[str, Any]:
        named = flat(self.plan.settings())
        length = self.training.declaration.steps_setting
        left_out = ("rewards", "agents", "seeds", "first_seed", "level", length, *NO_NUMBERS)
        return {"reward": self.plan.reward.text} | {
            k: v for k, v in named.items() if k not in left_out
        }

    def make_envs(self, num_envs: int, *, normalize: bool = False) -> Any:
        import gymnasium as gym

        kwargs = self.plan.env_kwargs(train=True)
        if not normalize:
            kwargs["normalize"] = None
        return gym.make_vec(self.plan.env_id, num_envs=num_envs, **kwargs)

    def policy_kwargs(self) -> dict[str, Any]:
        return self.plan.policy_kwargs()

    def resume(self, load: Callable[[Path], Agent]) -> Agent | None:
        self._resumable = True
        checkpoint = None if self.unfinished is None else self.unfinished.load(load)
        if checkpoint is None:
            return None
        agent, measured = checkpoint
        self.record.resume(measured)
        self._measured, self._resumed_at = len(self.record.curve), self.updates
        return agent

    def state(self) -> dict[str, Any]:
        return self.record.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        self.record.resume(state)

    def follow(self, update: Update) -> bool:
        self.last = update
        self.log(update)
        is_over = self.is_over(update)
        if is_over or self.is_due(update):
            with update.single_process():
                self.measure(update)
                self.keep(update)
        return is_over

    @contextmanager
    def untimed(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.record.add_evaluation_time(time.perf_counter() - began)

    # --- what is done after an update -------------------------------------------------------------

    def is_over(self, update: Update) -> bool:
        """Return whether the run ends here; other learners than those by updates end themselves."""
        by_updates = self.training.declaration.uses_credit
        return by_updates and self.training.is_over(update.step, _count(update.tokens))

    def is_due(self, update: Update) -> bool:
        """Return whether the agent is measured after this update."""
        by_updates = self.training.declaration.uses_credit
        return not by_updates or self.plan.evaluation.is_due(update.step)

    def log(self, update: Update) -> None:
        """Keep the learner's log of an update."""
        rows = [*update.log, (update.step, update.figures)] if update.figures else update.log
        for step, figures in rows:
            self.record.add_update(step, figures)
            self._watch(step, figures)

    def measure(self, update: Update) -> None:
        """Add a point to the learning curve, unless the run resumes from it."""
        if update.step == self._resumed_at:
            return
        self._measured += 1
        if self.processes.is_main:
            self._add_point(update)

    def keep(self, update: Update) -> None:
        """Write a checkpoint of an agent that can be resumed, if one is due."""
        is_due = self._resumable and self._measured % max(self.checkpoint_every, 1) == 0
        if self.unfinished is None or not is_due or update.step == self._resumed_at:
            return
        saves = update.saves
        assert saves is not None  # it resumes
        if not self.processes.is_main:
            saves(self.unfinished.last)  # its part of what the main process writes
            return
        with self.untimed():
            try:
                self.unfinished.save(saves, self.record.state())
            except StorageError as error:
                # Nor would the trained agent be saved; or others wait for shards of this process.
                if (self._saves and update.step == 0) or self.processes.saves_together:
                    raise
                logger.warning("no checkpoint after step %d: %s", update.step, error)

    def _add_point(self, update: Update) -> None:
        """Evaluate an agent and record what was found."""
        if self._evaluator is None:
            self._evaluator = self.plan.evaluator()
            if self.record.curve:  # one curve has one measure, whatever the policy writes by now
                self._evaluator.resume_reading(has_gold="gold_score" in self.record.curve[0])
        if not self.record.curve:
            self.record.begin()
        step = update.step
        with self.untimed():
            evaluation = self._evaluator(update.agent)
        self.record.measured_by = self._evaluator.measured_by
        self.record.reads_little |= self._evaluator.reads_little
        processed = _count(update.tokens)
        self.record.add_evaluation(step, processed, evaluation)
        # A tracker has one axis, and some drop rows of steps before their last one.
        moment = self.record.steps_done if self.record.train else step
        self._watch(moment, {f"eval/{name}": value for name, value in evaluation.metrics.items()})
        if self.training.declaration.uses_credit and (step == 0 or self.is_over(update)):
            self.record.samples += self._credited_samples(step, evaluation, update.agent)
        if self.report is not None:
            budget = self.training.tokens
            done = step if budget is None else min(processed, budget)
            logged = self.record.train[-1] if self.record.train else {}
            self.report(done, {**logged, **self.record.curve[-1]})

    def _credited_samples(
        self, step: int, evaluation: "Evaluation", agent: Any
    ) -> list[dict[str, Any]]:
        """Return an evaluation's first responses, with their credit, as rows of episodes.jsonl."""
        from tokengym.evaluation.measure.evaluate import task_reward

        kwargs = self.plan.env_kwargs(train=False)
        reward, tokenizer = task_reward(self.plan.env_id, kwargs, agent)
        episodes = evaluation.episodes[: self.plan.evaluation.samples]
        credited = reward.evaluate(list(episodes)) if episodes else []
        return [
            {
                "credit": self.record.name,
                "seed": self.seed,
                "step": step,
                "sample": index,
                **paid.to_record(),
                "tokens": token_texts(tokenizer, paid.response_ids),
                "token_rewards": _rounded(paid.token_rewards),
                "log_probs": _rounded(paid.log_probs),
                "score": episode.score,
                "gold_score": None
                if evaluation.gold_scores is None
                else float(evaluation.gold_scores[index]),
            }
            for index, (episode, paid) in enumerate(zip(episodes, credited, strict=True))
        ]

    def _watch(self, step: int, row: Mapping[str, Any]) -> None:
        """Pass a row on to the tracker, if there is one."""
        if self._track is None or not self.processes.is_main:
            return
        if self._tracker is None:
            from tokengym.agents.rollouts.logs import make_tracker

            name = f"{self.record.name}, seed {self.seed}"
            settings = flat(self.plan.settings()) | {"seed": self.seed}
            folder = Path() if self.folder is None else self.folder
            self._tracker = make_tracker(self._track, folder, name=name, config=settings)
        self._tracker.write(dict(row), {name: () for name in row}, step)

    def end(self, error: BaseException | None = None, *, keep_checkpoint: bool = False) -> None:
        """Close the evaluator, write the run's files and delete its checkpoint."""
        if self._evaluator is not None:
            self._evaluator.close()
        if self._tracker is not None:
            self._tracker.close()
        if self.folder is not None and self.processes.is_main:
            self.record.write(self.folder, error)
        if self.unfinished is not None and self.processes.is_main and not keep_checkpoint:
            self.unfinished.remove()


def _count(tokens: int | Callable[[], int]) -> int:
    """Return a number of tokens that may be known only now."""
    return tokens() if callable(tokens) else tokens


def _rounded(values: NDArray[np.floating] | None) -> list[float] | None:
    """Return six digits of each value, which is what a float32 holds for sure."""
    return None if values is None else [float(f"{value:.6g}") for value in values]


def run_references(
    config: ComparisonConfig,
    out: Path,
    report: Report | None = None,
    *,
    warns: bool = True,
) -> ReferenceSamples:
    """Draw and score what is missing of a comparison's reference samples, and record them.

    Args:
        config: The comparison.
        out: Its folder.
        report: Told (progress in the unit of a run's steps, mean score and tokens so far).
        warns: Whether a warning names a judge that cannot read the texts.

    Raises:
        FolderInUseError: if another process does the same in the same folder.
        Exception: whatever the model or the scorer raises.
    """
    return draw_plan(replace(config.reference_plan(out), warns=warns), report=report)


def draw_plan(plan: RunSpec, *, report: Report | None = None) -> ReferenceSamples:
    """Draw reference samples by a plan; see `run_references`."""
    folder = plan.folder
    assert folder is not None
    wanted = plan.evaluation.reference_samples or 0
    began = time.perf_counter()

    def told(drawn: ReferenceSamples) -> None:
        if report is not None:
            share = min(drawn.scores.shape[1] / wanted, 1.0)
            seconds = time.perf_counter() - began
            point = {"score": drawn.scores.mean(), "tokens": drawn.tokens, "wall_s": seconds}
            report(round(share * plan.training.last_step), point)

    with locked(folder), plan.training.applied():
        plan.write(versions())
        (folder / "run.json").unlink(missing_ok=True)  # it has a hash of the samples so far
        evaluator = plan.evaluator()
        seed, device = plan.evaluation.seed, plan.training.device
        # Its adapters, which change nothing yet, let it share its backbone.
        policy = evaluator.untrained(seed=seed, device=device, **plan.policy_kwargs())
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
