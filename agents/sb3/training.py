"""Stock algorithms of Stable-Baselines3 and sb3-contrib as learners of a run, by tokens."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from tokengym.agents.contract import TrainingRun, Update
from tokengym.agents.random_state import (
    global_random_state,
    isolated_random_state,
    set_global_random_state,
)
from tokengym.agents.sb3.making import make
from tokengym.agents.sb3.saved import restored, save
from tokengym.agents.sb3.vec_env import as_vec_env


def updates(run: TrainingRun, *, name: str, made: type[BaseAlgorithm]) -> Iterator[Update]:
    """Train an algorithm; the run follows each ``batch_size * max_new_tokens`` tokens.

    Nothing is yielded, since ``learn`` calls back and cannot be left. The algorithm has its class's
    own settings, but for what texts need, see `make`. Rewards are raw scores: what ends in one step
    is too little to centre by. A run that was stopped continues to the same numbers.

    Args:
        run: The run.
        name: What the user wrote.
        made: The class.

    Raises:
        SettingsError: if it cannot be made for texts.
    """
    with isolated_random_state(), suppress(_Over):
        _train(run, name, made)
    return iter(())


class _Over(Exception):
    """The run ends here."""


def _train(run: TrainingRun, name: str, made: type[BaseAlgorithm]) -> None:
    training = run.training
    rows, length = training.batch_size, training.max_new_tokens
    envs = as_vec_env(run.make_envs(rows))
    try:
        begin = partial(
            make,
            *(made, run.settings, envs),
            name=name,
            rows=rows,
            length=length,
            seed=run.seed,
            device=training.device,
        )
        each = _Follow(run, rows * length, word=name)
        agent = run.resume(lambda folder: each.resume(begin(), folder))
        is_resumed = agent is not None
        agent = begin() if agent is None else agent
        each.pause(agent, run.updates)
        budget = training.steps * rows * length if training.tokens is None else training.tokens
        agent.learn(
            budget - agent.num_timesteps,
            callback=each,
            log_interval=None,  # type: ignore[arg-type]  # the run keeps the log
            reset_num_timesteps=not is_resumed,
        )
        each.pause(agent, each.last + 1 if training.tokens is not None else training.steps)
    finally:
        envs.close()


class _Follow(BaseCallback):
    """Lets a run follow the training between two rollouts, where an update's tokens were played."""

    def __init__(self, run: TrainingRun, per_update: int, *, word: str) -> None:
        super().__init__()
        self.run, self.word = run, word
        self.per_update, self.due = per_update, per_update
        self.last = 0
        """Last update that was followed."""
        self._ended: list[tuple[float, int]] = []
        """Score and length of the episodes that have ended since the last update."""

    def resume(self, agent: BaseAlgorithm, folder: Path) -> BaseAlgorithm:
        """Return the algorithm as it was saved in a folder, with the random numbers to come."""
        state = restored(agent, folder)
        self.due = state["due"]
        set_global_random_state(state["random"])
        return agent

    def pause(self, agent: BaseAlgorithm, step: int) -> None:
        """Let the run follow an algorithm that has made ``step`` updates."""
        self.last = step
        # Measuring draws from the generator of the actions that are explored.
        explored = agent.action_space.np_random.bit_generator
        before = explored.state
        state = {"due": self.due, "random": global_random_state()}
        update = Update(
            step=step,
            tokens=agent.num_timesteps,
            agent=agent,
            figures=self._take_figures(agent) if step else {},
            save=partial(self._save, agent, state, before),
        )
        with isolated_random_state():
            is_over = self.run.follow(update)
        explored.state = before
        if is_over:
            raise _Over

    def _save(
        self,
        agent: BaseAlgorithm,
        state: Mapping[str, Any],
        explored: Mapping[str, Any],
        path: Path,
    ) -> None:
        """Write an algorithm as it was followed."""
        agent.action_space.np_random.bit_generator.state = explored
        save(agent, path, word=self.word, settings=self.run.settings, state=state)

    def _take_figures(self, agent: BaseAlgorithm) -> dict[str, Any]:
        """Return the log since the last update."""
        ended, self._ended = self._ended, []
        figures = dict(agent.logger.name_to_value) if hasattr(agent, "_logger") else {}
        if ended:
            scores, lengths = zip(*ended, strict=True)
            figures["rollout/ep_len_mean"] = float(np.mean(lengths))
            figures["rollout/score"] = float(np.mean(scores))
        return figures

    def _on_rollout_start(self) -> None:
        tokens = self.model.num_timesteps
        if tokens >= self.due:
            step = tokens // self.per_update
            self.due = (step + 1) * self.per_update
            self.pause(self.model, step)

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "score" in info:
                self._ended.append((float(info["score"]), len(info["response_ids"])))
        return True
