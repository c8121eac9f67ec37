"""One interface to every kind of environment: rounds of one episode per row."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from tokengym.agents.policy.sampler import Observation
from tokengym.agents.rollouts.environments import (
    Environments,
    filler_action,
)
from tokengym.agents.rollouts.reward import RoundReward
from tokengym.agents.sb3.vec_env import GymVecEnv, as_vector_env
from tokengym.envs import Episode, SettingsError, episodes_from_infos

Options: TypeAlias = dict[str, Any]
"""Options of an environment's reset, such as ``{"prompt_ids": [...]}`` or ``{"group_size": n}``."""
Start: TypeAlias = tuple[Observation, NDArray[np.generic] | None]
"""Observation and action masks of a round's first step."""
Begin: TypeAlias = Callable[[int | None, Options | None], tuple[Any, dict[str, Any]]]
"""Takes a seed and options; returns observations and infos, as Gymnasium's ``reset`` does."""
HOLD = "hold_after_end"
"""Method of environments whose rows can stay at the end of an episode."""
PER_ROW = {"prompts": "prompt", "prompt_ids": "prompt_id", "responses": "response"}
"""Options with one entry per row of a batch, and their names in a single environment."""

COUNTERS = {
    "num_timesteps": int,
    "_n_updates": int,
    "_total_timesteps": int,
    "_current_progress_remaining": int | float,
    "learning_since": int,
}
"""Counters of an agent that a checkpoint keeps, and their types."""


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """Outcome of one step of every row."""

    observation: Observation
    """Arrays of (num_envs, length)."""
    action_masks: NDArray[np.generic] | None
    """(num_envs, vocab), non-zero where the next token is allowed; None if not given."""
    rewards: NDArray[np.floating]
    """(num_envs,), as the environment returned them."""
    terminated: NDArray[np.bool_]
    """(num_envs,): the text is finished."""
    truncated: NDArray[np.bool_]
    """(num_envs,): a budget ran out."""
    episodes: Mapping[int, Episode]
    """The episodes that ended in this step, by row; their scores come when the round has ended."""


@dataclass(frozen=True, kw_only=True)
class RolloutState:
    """State before a round; weights and optimiser do not change while one is played.

    A checkpoint that a callback writes in the middle of a round holds this: the resumed run plays
    the round again, token for token, from its beginning.
    """

    counters: dict[str, Any]
    """`COUNTERS` by name."""
    sampling: Tensor
    """State of the generator that tokens are drawn with."""
    environment: dict[str, Any] | None
    """See `environment_state`; None: it had not begun, and its seed is all there is."""


class RoundEnvironment(ABC):
    """A batch of environments that are reset together and each play one episode.

    Rows that end stay where they are until the next round, where the environment can hold them:
    they draw no prompt and play no episode, in any autoreset mode. Those of environments without
    ``hold_after_end`` (other than this package's) reset and play while they wait.

    Args:
        envs: The batch.
    """

    envs: Any

    def __init__(self, envs: VectorEnv[Any, Any, Any] | VecEnv) -> None:
        self.envs = envs
        self.num_envs = envs.num_envs
        self.filler_action = filler_action(envs)
        """Action of rows that wait for the end of the round."""
        self.reward = RoundReward(envs)
        """Reward of the episodes of a round."""

    def reset(self, seed: int | None = None, options: Options | None = None) -> Start:
        """Begin an episode in every row; return observation and action masks.

        Args:
            seed: Seed of the environment's random state; None continues with its present one.
            options: Options of the environment's reset.
        """
        self._hold(False)
        self.reward.defer(True)
        start = self._begin(seed, options)
        self._hold(True)
        return start

    @abstractmethod
    def _begin(self, seed: int | None, options: Options | None) -> Start:
        """Reset every row; see `reset`."""

    @abstractmethod
    def step(self, actions: NDArray[np.int64]) -> StepResult:
        """Append one token to every row; what rows that ended return is not read."""

    @abstractmethod
    def _hold(self, held: bool) -> None:
        """Hold rows that end, or give them back to the autoreset mode."""

    def finish(self) -> None:
        """End the round: the environment pays episodes and resets rows as before it."""
        self._hold(False)
        self.reward.defer(False)


class GymRounds(RoundEnvironment):
    """Rounds on a Gymnasium ``VectorEnv`` in any autoreset mode.

    Args:
        envs: The batch.
        reset: Begins a round, given a seed and options; None takes the batch's own ``reset``.
    """

    def __init__(self, envs: VectorEnv[Any, Any, Any], reset: Begin | None = None) -> None:
        super().__init__(envs)
        self._reset = reset or (lambda seed, options: envs.reset(seed=seed, options=options))
        # Gymnasium's own batches refuse to step a row that ended and was not reset.
        self._must_reset = (
            isinstance(envs.unwrapped, SyncVectorEnv | AsyncVectorEnv)
            and envs.metadata.get("autoreset_mode") == AutoresetMode.DISABLED
        )

    def _begin(self, seed: int | None, options: Options | None) -> Start:
        observation, infos = self._reset(seed, options)
        return observation, infos.get("action_mask")

    def _hold(self, held: bool) -> None:
        bare: Any = self.envs.unwrapped
        if isinstance(bare, SyncVectorEnv | AsyncVectorEnv):
            if all(bare.call("has_wrapper_attr", HOLD)):
                bare.call(HOLD, held)
        elif hasattr(bare, HOLD):
            bare.hold_after_end(held)

    def step(self, actions: NDArray[np.int64]) -> StepResult:
        """See `RoundEnvironment.step`."""
        observation, rewards, terminated, truncated, infos = self.envs.step(actions)
        result = StepResult(
            observation=observation,
            action_masks=infos.get("action_mask"),
            rewards=rewards,
            terminated=terminated,
            truncated=truncated,
            episodes=episodes_from_infos(infos, unscored=self.reward.leaves_unscored),
        )
        if self._must_reset and (ended := terminated | truncated).any():
            self.envs.reset(options={"reset_mask": ended})
        return result


class VecEnvRounds(RoundEnvironment):
    """Rounds on a Stable-Baselines3 ``VecEnv``."""

    def _begin(self, seed: int | None, options: Options | None) -> Start:
        if seed is not None:
            self.envs.seed(seed)
        if options is not None:
            self.envs.set_options(_row_options(options, self.num_envs))
        observation: Any = self.envs.reset()
        return observation, _stacked_masks(self.envs.reset_infos)

    def _hold(self, held: bool) -> None:
        if self.envs.has_attr(HOLD):
            self.envs.env_method(HOLD, held)

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
            episodes={
                row: Episode.from_info(infos[row], scored=not self.reward.leaves_unscored(row))
                for row in np.flatnonzero(dones).tolist()
            },
        )


def as_rounds(envs: Environments) -> RoundEnvironment:
    """Return any supported environment as a `RoundEnvironment`.

    Args:
        envs: A Gymnasium ``VectorEnv`` or ``Env``, or a Stable-Baselines3 ``VecEnv``.

    Raises:
        TypeError: if it is none of these.
    """
    if isinstance(envs, GymVecEnv):  # our own adapter: the batch below it is faster
        return GymRounds(envs.envs, reset=envs.begin)
    if isinstance(envs, VecEnv):
        return VecEnvRounds(envs)
    return GymRounds(as_vector_env(envs))


def _row_options(options: Options, num_envs: int) -> list[Options]:
    """Return a batch's options row by row, as a stock ``VecEnv`` takes them.

    Raises:
        SettingsError: for groups, which rows that draw their prompts apart cannot share, and for
            prompts that are not one per row.
    """
    if "group_size" in options:
        raise SettingsError(
            f"group_size={options['group_size']} needs a Gymnasium VectorEnv, whose rows can share "
            "a prompt; make one with gym.make_vec"
        )
    shared = {key: value for key, value in options.items() if key not in PER_ROW}
    rows = [dict(shared) for _ in range(num_envs)]
    for many, one in PER_ROW.items():
        if many in options:
            if len(options[many]) != num_envs:
                raise SettingsError(
                    f"options[{many!r}] must have one entry for each of the {num_envs} rows, got "
                    f"{len(options[many])}"
                )
            for row, value in zip(rows, options[many], strict=True):
                row[one] = value
    return rows


def _stacked_masks(infos: Any) -> NDArray[np.generic] | None:
    """Return the rows' action masks as one array, if every row has one."""
    masks = [info.get("action_mask") for info in infos]
    return None if any(mask is None for mask in masks) else np.stack(masks)
