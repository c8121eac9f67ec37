"""Every kind of environment seen in one way: rounds of one episode per row."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np
from gymnasium.vector import (
    AsyncVectorEnv,
    AutoresetMode,
    SyncVectorEnv,
    VectorEnv,
    VectorWrapper,
)
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from tokengym.agents.errors import CheckpointError
from tokengym.envs import Episode, EpisodeOverError, episodes_from_infos

logger = logging.getLogger(__name__)

Environments: TypeAlias = VectorEnv[Any, Any, Any] | gym.Env[Any, Any] | VecEnv
Observation: TypeAlias = Mapping[str, NDArray[np.generic]]


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


def as_rounds(envs: Environments) -> RoundEnvironment:
    """Return any supported environment as a `RoundEnvironment`.

    Args:
        envs: A Gymnasium ``VectorEnv`` or ``Env``, or a Stable-Baselines3 ``VecEnv``.

    Raises:
        TypeError: if it is none of these.
    """
    from tokengym.agents.sb3 import GymVecEnv

    if isinstance(envs, GymVecEnv):  # our own adapter: the batch below it is faster
        return GymRounds(envs.envs, begin=envs.begin)
    if isinstance(envs, VecEnv):
        return VecEnvRounds(envs)
    return GymRounds(as_vector_env(envs))


def as_vector_env(envs: Any) -> VectorEnv[Any, Any, Any]:
    """Return a Gymnasium ``VectorEnv``: the given one, or one over a single ``Env``.

    Raises:
        TypeError: if ``envs`` is neither.
    """
    if isinstance(envs, VectorEnv):
        return envs
    if isinstance(envs, gym.Env):
        return SyncVectorEnv([lambda: envs])
    raise TypeError(
        f"envs must be a gymnasium VectorEnv or Env or a stable_baselines3 VecEnv, got "
        f"{type(envs).__name__}; make one with gym.make_vec(id, num_envs=...)"
    )


def environment_attribute(envs: Environments, name: str, default: Any = None) -> Any:
    """Return an attribute of the innermost environment (of the first row), or the default."""
    if isinstance(envs, VecEnv):
        inner = envs.unwrapped
        if isinstance(getattr(inner, "envs", None), VectorEnv):
            return environment_attribute(inner.envs, name, default)  # type: ignore[attr-defined]
        return envs.get_attr(name)[0] if envs.has_attr(name) else default
    bare = envs.unwrapped
    if isinstance(bare, SyncVectorEnv):
        bare = bare.envs[0].unwrapped
    return getattr(bare, name, default)


def environment_state(envs: Environments) -> dict[str, Any] | None:
    """Return what decides an environment's next episodes and their scores, as plain data.

    That is every ``get_state()`` of the innermost environments (prompts to come, random state) and
    every ``state_dict()`` of reward wrappers' scorers (running means). None: nothing begun yet.
    """
    chains = _chains(envs)
    try:
        states = [chain[-1].get_state() for chain in chains if hasattr(chain[-1], "get_state")]
    except EpisodeOverError:
        return None
    if not states:
        logger.warning("%s has no get_state(): a resumed run will see other prompts", chains[0][-1])
    return {"states": states, "scorers": [s.state_dict() for s in _scorers(chains)]}


def restore_environment(envs: Environments, state: Mapping[str, Any]) -> None:
    """Put back what `environment_state` returned.

    Raises:
        CheckpointError: if the environment is made up differently.
    """
    chains = _chains(envs)
    owners = [chain[-1] for chain in chains if hasattr(chain[-1], "set_state")]
    scorers = _scorers(chains)
    for name, found, saved in (
        ("environments", owners, state["states"]),
        ("scorers with state", scorers, state["scorers"]),
    ):
        if len(found) != len(saved):
            raise CheckpointError(
                f"the checkpoint holds the state of {len(saved)} {name}, the environment has "
                f"{len(found)}; make it as it was"
            )
    for owner, saved in zip(owners, state["states"], strict=True):
        owner.set_state(saved)
    for scorer, saved in zip(scorers, state["scorers"], strict=True):
        scorer.load_state_dict(saved)


def _chains(envs: Any) -> list[list[Any]]:
    """Return the wrappers around every innermost environment, outermost first, it being last."""
    chain = [envs]
    while True:
        layer = chain[-1]
        inner = getattr(layer, "envs", None)
        below: Any = inner if isinstance(inner, VectorEnv) else None
        if isinstance(layer, gym.Wrapper | VectorWrapper):
            below = layer.env
        elif isinstance(layer, VecEnvWrapper):
            below = layer.venv
        if below is None:
            break
        chain.append(below)
    rows = inner if isinstance(inner, list | tuple) else ()
    return [chain, *(rest for row in rows for rest in _chains(row))]


def _scorers(chains: list[list[Any]]) -> list[Any]:
    """Return the scorers of reward wrappers, in a fixed order."""
    scorers = (
        getattr(getattr(layer, "reward", None), "scorer", None)
        for chain in chains
        for layer in chain
    )
    return [scorer for scorer in scorers if hasattr(scorer, "state_dict")]


def filler_action(envs: Environments) -> int:
    """Return a token that ends no text: the pad token where there is a tokenizer, else 0."""
    tokenizer = environment_attribute(envs, "tokenizer")
    return 0 if tokenizer is None else int(tokenizer.pad_token_id)


def _stacked_masks(infos: Any) -> NDArray[np.generic] | None:
    """Return the rows' action masks as one array, if every row has one."""
    masks = [info.get("action_mask") for info in infos]
    return None if any(mask is None for mask in masks) else np.stack(masks)
