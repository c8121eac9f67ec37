"""One run of a learner by rounds: updates until the run's end, measured along the way."""

import sys
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, Logger

from tokengym.agents.algorithm import EpisodicAlgorithm
from tokengym.agents.contract import TrainingRun, own_player
from tokengym.agents.errors import CheckpointError
from tokengym.agents.processes import launched
from tokengym.agents.rollouts.playing import collect
from tokengym.base.errors import SettingsError
from tokengym.base.registry import split_file_word
from tokengym.base.saved_code import texts_in


def train(run: TrainingRun, algorithm: type[EpisodicAlgorithm]) -> EpisodicAlgorithm:
    """Train an agent, or continue from the run's checkpoint to the same numbers.

    Args:
        run: The run.
        algorithm: Class of the agent.
    """
    training, settings = run.training, vars(run.settings)
    # A checkpoint's word for code of the user's counts only where the run's settings say it too.
    code = {k: value for k, value in settings.items() if any(map(split_file_word, texts_in(value)))}
    resumed = run.resume(
        lambda folder: algorithm.load(folder, env=_make_envs(run), device=training.device, **code)
    )
    agent = resumed
    if agent is None:
        agent = algorithm(
            "CausalLMPolicy",
            _make_envs(run),
            **settings,
            policy_kwargs=run.policy_kwargs(),
            seed=run.seed,
            device=training.device,
        )
    elif (products := agent.policy.language_model.products) != training.products:
        raise CheckpointError(
            f"the unfinished training was begun with products={products!r}, got "
            f"{training.products!r}; name another folder"
        )
    recorder = Recorder(run, is_measured=resumed is not None)
    agent.set_logger(Logger(folder=None, output_formats=[LogRows(recorder)]))
    # No limit on tokens, of which continuations take any number: the recorder ends the training.
    agent.learn(sys.maxsize, callback=recorder, reset_num_timesteps=resumed is None)
    return agent


def teach(run: TrainingRun, name: str, made: Any) -> Any:
    """Train an agent of the user's: it plays a batch of episodes and learns from them, and again.

    Args:
        run: The run.
        name: What the user wrote.
        made: The agent or its class, with ``predict`` and ``learn(episodes)``.

    Returns:
        The agent, if it has a method ``save``; None, since there is nothing to save, if not.

    Raises:
        SettingsError: if several processes were launched, or it cannot be made.
    """
    if launched() > 1:
        raise SettingsError(f"agent {name} trains in one process; start it without a launcher")
    training, envs = run.training, _make_envs(run)
    agent = own_player(name, made, envs, seed=run.seed)
    step = tokens = 0
    while True:
        is_over = step == training.steps if training.tokens is None else tokens >= training.tokens
        if is_over or run.is_due(step):
            run.measure(step, tokens, agent)
        if is_over:
            break
        episodes = collect(agent, envs, training.batch_size, seed=None if step else run.seed)
        agent.learn(episodes)
        step += 1
        tokens += sum(episode.num_written for episode in episodes)
        scores = [e.score_parts.get("raw_score", e.score or 0.0) for e in episodes]
        run.log(step, {"rollout/score": sum(scores) / len(scores)})
    envs.close()
    return agent if callable(getattr(agent, "save", None)) else None


def _make_envs(run: TrainingRun) -> Any:
    rows = run.training.batch_size // launched()
    return run.make_envs(rows, normalize=True)


class Recorder(BaseCallback):
    """Measures the policy every few updates, at the start and the end, and ends the training.

    Args:
        run: The run; the updates that it made before count.
        is_measured: Whether the policy was measured after them.
    """

    model: EpisodicAlgorithm

    def __init__(self, run: TrainingRun, *, is_measured: bool) -> None:
        super().__init__()
        self.run = run
        self.updates = run.updates
        self._known = self.updates if is_measured else None
        self._is_over = False

    def _on_rollout_start(self) -> None:
        agent, training = self.model, self.run.training
        if training.tokens is None:
            self._is_over = self.updates == training.steps
            agent.remaining = 1.0 - self.updates / training.steps
        else:
            self._is_over = agent.num_timesteps >= training.tokens
            agent.remaining = 1.0 - min(agent.num_timesteps / training.tokens, 1.0)
        is_due = self._is_over or self.run.is_due(self.updates)
        if is_due and self.updates != self._known:
            with agent.processes.whole():
                self.run.measure(self.updates, agent.num_timesteps, agent)

    def _on_rollout_end(self) -> None:
        self.updates += 1

    def _on_step(self) -> bool:
        return not self._is_over


class LogRows(KVWriter):
    """Has a run keep each row that the learner logs, one an update.

    Args:
        recorder: Counts the updates.
    """

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    def write(
        self,
        key_values: dict[str, Any],
        key_excluded: dict[str, tuple[str, ...]],
        step: int = 0,
    ) -> None:
        """Keep a row."""
        del key_excluded, step
        self.recorder.run.log(self.recorder.updates, key_values)

    def close(self) -> None:
        """Nothing is open."""
