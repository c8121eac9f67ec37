"""Every kind of environment seen in one way: rounds of one episode per row."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from tokengym.agents.rollouts.environments import (
    Environments,
    Observation,
    as_vector_env,
    filler_action,
)
from tokengym.agents.sb3 import GymVecEnv
from tokengym.envs import Episode, episodes_from_infos


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What one step of every row led to."""

    observation: Observation
    """Arrays of (num_envs, length)."""
    action_masks: NDArray[np.generic] | None
    """(num_envs, vocab), non-zero where the next token is allowed; None if nothing was said."""
    rewards: NDArray[np.floating]
    """(num_envs,), as the environment returned them."""
    terminated: NDArray[np.bool_]
    """(num_envs,): the text is finished."""
    truncated: NDArray[np.bool_]
    """(num_envs,): a budget ran out."""
    episodes: Mapping[int, Episode]
    """The episodes that ended in this step, by row."""


class RoundEnvironment(ABC):
    """A batch of environments that are reset together and each play one episode."""

    num_envs: int
    filler_action: int
    """What rows are fed that wait for the end of the round; never the EOS."""

    @abstractmethod
    def reset(self, seed: int | None = None) -> tuple[Observation, NDArray[np.generic] | None]:
        """Begin an episode in every row; return observation and action masks."""

    @abstractmethod
    def step(self, actions: NDArray[np.int64]) -> StepResult:
        """Append one token to every row; rows that ended may do as they like."""


class GymRounds(RoundEnvironment):
    """Rounds on a Gymnasium ``VectorEnv`` in any autoreset mode.

    Args:
        envs: The batch.
        begin: What begins an unseeded round; None: the batch's own ``reset``.
    """

    def __init__(
        self,
        envs: VectorEnv[Any, Any, Any],
        begin: Callable[[], tuple[Any, dict[str, Any]]] | None = None,
    ) -> None:
        self.envs = envs
        self._begin = begin or envs.reset
        self.num_envs = envs.num_envs
        self.filler_action = filler_action(envs)
        # Gymnasium's own batches refuse to step a row that ended and was not reset.
        self._must_reset = (
            isinstance(envs.unwrapped, SyncVectorEnv | AsyncVectorEnv)
            and envs.metadata.get("autoreset_mode") == AutoresetMode.DISABLED
        )

    def reset(self, seed: int | None = None) -> tuple[Observation, NDArray[np.generic] | None]:
        """See `RoundEnvironment.reset`."""
        observation, infos = self._begin() if seed is None else self.envs.reset(seed=seed)
        return observation, infos.get("action_mask")

    def step(self, actions: NDArray[np.int64]) -> StepResult:
        """See `RoundEnvironment.step`."""
        observation, rewards, terminated, truncated, infos = self.envs.step(actions)
        result = StepResult(
            observation=observation,
            action_masks=infos.get("action_mask"),
            rewards=rewards,
            terminated=terminated,
            truncated=truncated,
            episodes=episodes_from_infos(infos),
        )
        if self._must_reset and (ended := terminated | truncated).any():
            self.envs.reset(options={"reset_mask": ended})
        return result


class VecEnvRounds(RoundEnvironment):
    """Rounds on a Stable-Baselines3 ``VecEnv``."""

    def __init__(self, envs: VecEnv) -> None:
        self.envs = envs
        self.num_envs = envs.num_envs
        self.filler_action = filler_action(envs)

    def reset(self, seed: int | None = None) -> tuple[Observation, NDArray[np.generic] | None]:
        """See `RoundEnvironment.reset`."""
        if seed is not None:
            self.envs.seed(seed)
        observation: Any = self.envs.reset()
        return observation, _stacked_masks(self.envs.reset_infos)

    def step(self, actions: NDArray[np.int64]) -> StepResult:
        """See `RoundEnvironment.step`."""
        observation: Any
        observation, rewards, dones, infos = self.envs.step(actions)
        cut = [bool(info.get("TimeLimit.truncated", False)) for info in infos]
        truncated = dones & np.array(cut)
        return StepResult(
            observation=observation,
            action_masks=_stacked_masks(infos),
            rewards=rewards,
            terminated=dones & ~truncated,
            truncated=truncated,
            episodes={int(row): Episode.from_info(infos[row]) for row in np.flatnonzero(dones)},
        )


class TimedRounds(RoundEnvironment):
    """Rounds that count the seconds the environment takes, scoring included."""

    def __init__(self, rounds: RoundEnvironment) -> None:
        self._rounds = rounds
        self.num_envs = rounds.num_envs
        self.filler_action = rounds.filler_action
        self.seconds = 0.0

    def reset(self, seed: int | None = None) -> tuple[Observation, NDArray[np.generic] | None]:
        """See `RoundEnvironment.reset`."""
        started = time.perf_counter()
        try:
            return self._rounds.reset(seed)
        finally:
            self.seconds += time.perf_counter() - started

    def step(self, actions: NDArray[np.int64]) -> StepResult:
        """See `RoundEnvironment.step`."""
        started = time.perf_counter()
        try:
            return self._rounds.step(actions)
        finally:
            self.seconds += time.perf_counter() - started


def as_rounds(envs: Environments) -> RoundEnvironment:
    """Return any supported environment as a `RoundEnvironment`.

    Args:
        envs: A Gymnasium ``VectorEnv`` or ``Env``, or a Stable-Baselines3 ``VecEnv``.

    Raises:
        TypeError: if it is none of these.
    """
    if isinstance(envs, GymVecEnv):  # our own adapter: the batch below it is faster
        return GymRounds(envs.envs, begin=envs.begin)
    if isinstance(envs, VecEnv):
        return VecEnvRounds(envs)
    return GymRounds(as_vector_env(envs))


def _stacked_masks(infos: Any) -> NDArray[np.generic] | None:
    """Return the rows' action masks as one array, if every row has one."""
    masks = [info.get("action_mask") for info in infos]
    return None if any(mask is None for mask in masks) else np.stack(masks)
