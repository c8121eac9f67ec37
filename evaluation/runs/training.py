"""The training of one run: what its learner is given, and what is measured after each update."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tokengym.agents.contract import Agent, Update
from tokengym.base.errors import SettingsError, StorageError
from tokengym.envs.prompts.tokenization import token_texts
from tokengym.evaluation.runs.record import RunRecord
from tokengym.evaluation.runs.settings import TrainingSettings
from tokengym.evaluation.runs.spec import RunSpec, flat

if TYPE_CHECKING:
    from stable_baselines3.common.logger import KVWriter

    from tokengym.agents.processes import Processes
    from tokengym.evaluation.measure.evaluate import Evaluation, Evaluator

logger = logging.getLogger(__name__)

Report = Callable[[int, Mapping[str, Any]], None]
"""Told (step of the curve, its last point)."""


def train(work: "Training") -> Update | None:
    """Train and measure one agent from the first update to the last, and return that."""
    for update in work.training.declaration.train(work):  # the first is of the untrained agent
        if work.follow(update):
            break
    return work.last


class Training:
    """One run at work: what a learner trains by, a `TrainingRun`, and what is done after an update.

    Its arguments are those of `Run.do`; ``processes`` share it.
    """

    def __init__(
        self,
        spec: RunSpec,
        processes: "Processes",
        report: Report | None,
        checkpoint_every: int,
        track: str | None,
        *,
        saves: bool,
    ) -> None:
        self.spec, self.processes, self.report = spec, processes, report
        self.seed, self.folder = spec.seed, spec.folder
        self.training, self.settings = spec.training, spec.training.learner
        self.record = RunRecord(spec)
        self.state, self.restore = self.record.state, self.record.resume
        self.policy_kwargs = spec.policy_kwargs
        self.checkpoint_every = checkpoint_every
        self._saves = saves
        self._track = track
        self._tracker: KVWriter | None = None
        self._keeps = self.folder is not None and checkpoint_every > 0
        self.last: Update | None = None
        """The update that was followed last."""
        self._resumable = False
        self._measured = 0
        self._resumed_at: int | None = None
        self._evaluator: Evaluator | None = None

    # --- what a learner asks ----------------------------------------------------------------------

    @property
    def updates(self) -> int:
        """Last step that the learner has logged."""
        return self.record.steps_done

    @property
    def configuration(self) -> dict[str, Any]:
        """Settings that decide the run's numbers, by name, without the length of training."""
        named = {**self.spec.numbers(), **self.spec.code, **self.spec.data}
        length = self.training.declaration.steps_setting
        return {name: value for name, value in named.items() if name != length}

    def make_envs(self, num_envs: int, *, normalize: bool = False) -> Any:
        """Return the training environments under the run's reward."""
        import gymnasium as gym

        kwargs = self.spec.env_kwargs(train=True) | ({} if normalize else {"normalize": None})
        return gym.make_vec(self.spec.env_id, num_envs=num_envs, **kwargs)

    def resume(self, load: Callable[[Path], Agent]) -> Agent | None:
        """Return the learner of the checkpoint, whose measurements count from here on."""
        self._resumable = True
        agent = self.record.load(load) if self._keeps else None
        if agent is not None:
            self._measured, self._resumed_at = len(self.record.points), self.updates
        return agent

    def follow(self, update: Update) -> bool:
        """Log, measure and keep the agent of an update; return whether the run ends here."""
        self.last, self.record.settled = update, update.settled
        self.log(update)
        is_over = self.is_over(update)
        if is_over or self.is_due(update):
            self.measure(update)
            self.keep(update)
        return is_over

    @contextmanager
    def untimed(self) -> Iterator[None]:
        """Take what the block does off the run's time."""
        began = time.perf_counter()
        yield
        self.record.add_evaluation_time(time.perf_counter() - began)

    # --- what is done after an update -------------------------------------------------------------

    def is_over(self, update: Update) -> bool:
        """Return whether the run ends here; other learners than those by updates end themselves."""
        return self.spec.uses_credit and self.training.is_over(update.step, _count(update.tokens))

    def is_due(self, update: Update) -> bool:
        """Return whether the agent is measured after this update."""
        return not self.spec.uses_credit or self.spec.evaluation.is_due(update.step)

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
        if not (self._keeps and is_due) or update.step == self._resumed_at:
            return
        saves = update.saves
        assert saves is not None  # it resumes
        if not self.processes.is_main:
            saves(self.record.checkpoint)  # its part of what the main process writes
            return
        with self.untimed():
            try:
                self.record.save(saves)
            except StorageError as error:
                if self._saves and update.step == 0:  # nor would the trained agent be saved
                    raise
                logger.warning("no checkpoint after step %d: %s", update.step, error)

    def _add_point(self, update: Update) -> None:
        """Evaluate an agent and record what was found."""
        if self._evaluator is None:
            self._evaluator = self.spec.evaluator()
            if self.record.points:  # one curve has one measure, whatever the policy writes by now
                self._evaluator.resume_reading(has_gold="gold_score" in self.record.points[0])
        if not self.record.points:  # models are loaded, training begins
            self.record.optimum = known_optimum(self._evaluator.envs)
            self.record.started = time.perf_counter()
        step = update.step
        with self.untimed():
            draws = self.spec.evaluation.draws(self.seed, step)
            evaluation = self._evaluator(update.agent, draws=draws)
        self.record.measured_by = self._evaluator.measured_by
        self.record.reads_little |= self._evaluator.reads_little
        processed = _count(update.tokens)
        self.record.add_evaluation(step, processed, evaluation)
        # A tracker has one axis, and some drop rows of steps before their last one.
        moment = self.record.steps_done if self.record.log else step
        self._watch(moment, {f"eval/{name}": value for name, value in evaluation.metrics.items()})
        if self.spec.uses_credit and (step == 0 or self.is_over(update)):
            self.record.samples += self._credited_samples(step, evaluation, update.agent)
        if self.report is not None:
            budget = self.training.tokens
            done = step if budget is None else min(processed, budget)
            logged = self.record.log[-1] if self.record.log else {}
            self.report(done, {**logged, **self.record.points[-1]})

    def _credited_samples(
        self, step: int, evaluation: "Evaluation", agent: Any
    ) -> list[dict[str, Any]]:
        """Return an evaluation's first responses, with their credit, as rows of episodes.jsonl."""
        from tokengym.evaluation.measure.evaluate import task_reward, unmoved

        kwargs = self.spec.env_kwargs(train=False)
        reward, tokenizer = task_reward(self.spec.env_id, kwargs, agent)
        episodes = evaluation.episodes[: self.spec.evaluation.samples]
        # A judge may be slow, paid, or fail on a second question.
        credits = reward.credit_scored if self._is_scored_alike() else reward.evaluate
        with unmoved([reward]):  # whose state is the training's
            credited = credits(list(episodes)) if episodes else []
        return [
            {
                "credit": self.spec.name,
                "seed": self.seed,
                "step": step,
                "sample": index,
                **paid.to_record(),
                "tokens": token_texts(tokenizer, paid.response_ids),
                "token_rewards": _rounded(paid.token_rewards),
                "log_probs": _rounded(paid.log_probs),
                "entropy": _rounded(paid.entropy),
                "score": episode.score,
                "gold_score": None
                if evaluation.gold_scores is None
                else float(evaluation.gold_scores[index]),
            }
            for index, (episode, paid) in enumerate(zip(episodes, credited, strict=True))
        ]

    def _is_scored_alike(self) -> bool:
        """Return whether its reward has the scorer by which the comparison's runs are measured."""
        if self.spec.reward == self.spec.rewards[0]:
            return True
        choices = map(self.spec.choice, (self.spec.reward, self.spec.rewards[0]))
        return all(choice.kind == "any" and not choice.switches for choice in choices)

    def _watch(self, step: int, row: Mapping[str, Any]) -> None:
        """Pass a row on to the tracker, if there is one."""
        if self._track is None or not self.processes.is_main:
            return
        if self._tracker is None:
            from tokengym.agents.rollouts.logs import make_tracker

            name = f"{self.spec.name}, seed {self.seed}"
            settings = flat(self.spec.settings()) | {"seed": self.seed}
            folder = Path() if self.folder is None else self.folder
            self._tracker = make_tracker(self._track, folder, name=name, config=settings)
        self._tracker.write(dict(row), {name: () for name in row}, step)

    def end(self, error: BaseException | None = None) -> None:
        """Close what is open, and write the run's files."""
        if self._evaluator is not None:
            self._evaluator.close()
        if self._tracker is not None:
            self._tracker.close()
        if self.folder is not None and self.processes.is_main:
            self.record.write(error)


def known_optimum(envs: Any) -> dict[str, float]:
    """Return the best expected gold score, V* of the empty text, where a task can compute it.

    It is {} where there are too many responses to enumerate.
    """
    if not hasattr(type(envs.unwrapped), "optimal_values"):
        return {}
    try:
        values, _ = envs.unwrapped.optimal_values()
    except SettingsError:
        return {}
    return {"gold_score": float(values[()])}


def _count(tokens: int | Callable[[], int]) -> int:
    """Return a number of tokens that may be known only now."""
    return tokens() if callable(tokens) else tokens


def _rounded(values: NDArray[np.floating] | None) -> list[float] | None:
    """Return six digits of each value, which is what a float32 holds for sure."""
    return None if values is None else [float(f"{value:.6g}") for value in values]


def join_processes(training: TrainingSettings) -> "Processes":
    """Return this process among those that `tokengym train` was launched in."""
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
