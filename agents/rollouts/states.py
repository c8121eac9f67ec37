"""The state of an environment that decides its next episodes and scores, for checkpoints."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from tokengym.agents.errors import CheckpointError
from tokengym.agents.rollouts.layers import Environments, layers
from tokengym.agents.sb3.vec_env import GymVecEnv
from tokengym.envs import EpisodeOverError
from tokengym.envs.mdp import MdpEnvironment
from tokengym.rewards import RewardWrapper, Scorer, VectorRewardWrapper
from tokengym.rewards.errors import ScorerError


def environment_state(envs: Environments, *, begun: bool = False) -> dict[str, Any] | None:
    """Return the state that decides an environment's next episodes and scores, as plain data.

    That is every ``get_state()`` of the innermost environments (prompts to come, random state) and
    every ``state_dict()`` of reward wrappers' scorers (running means). None: no episode has begun.

    Args:
        envs: The environment.
        begun: The next round is to play the present episodes.
    """
    chains = layers(envs)
    try:
        states = [chain[-1].get_state() for chain in chains if hasattr(chain[-1], "get_state")]
    except EpisodeOverError:
        return None
    scorers = [scorer.state_dict() for scorer in _scorers(chains)]
    return {"states": states, "scorers": scorers, "begun": int(begun)}


def restore_environment(envs: Environments, state: Mapping[str, Any]) -> None:
    """Restore the state that `environment_state` returned.

    Where the next round is to play its episodes, it has no other reset to draw prompts.

    Raises:
        CheckpointError: if the environment has other parts.
    """
    chains = layers(envs)
    owners = [chain[-1] for chain in chains if hasattr(chain[-1], "set_state")]
    scorers = _scorers(chains)
    for name, owned, saved in (
        ("environments", owners, state["states"]),
        ("scorers with state", scorers, state["scorers"]),
    ):
        if len(owned) != len(saved):
            raise CheckpointError(
                f"the checkpoint holds the state of {len(saved)} {name}, the environment has "
                f"{len(owned)}; make it as it was"
            )
    is_known = bool(owners) and all(isinstance(owner, MdpEnvironment) for owner in owners)
    begun = envs if state["begun"] and is_known and isinstance(envs, GymVecEnv) else None
    if begun is not None:  # layers around the environment begin their episodes by it
        begun.reset()
    starts = [owner.set_state(saved) for owner, saved in zip(owners, state["states"], strict=True)]
    if begun is not None:
        begun.fresh = starts[0] if isinstance(owners[0], VectorEnv) else _as_batch(starts)
    for scorer, saved in zip(scorers, state["scorers"], strict=True):
        if not isinstance(saved, Mapping):
            raise CheckpointError(f"the state of a scorer must be an object, got {saved!r}")
        try:
            scorer.load_state_dict(saved)
        except ScorerError as error:
            raise CheckpointError(
                f"{error}; make the environment as it was when the agent was saved, with the same "
                "normalize= (`tokengym train` sets 'batch')"
            ) from error


def _as_batch(starts: list[tuple[Any, dict[str, Any]]]) -> tuple[Any, dict[str, Any]]:
    """Return what single environments returned as their batch would."""
    rows = [observation for observation, _ in starts]
    masks = [info["action_mask"] for _, info in starts]
    batch = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    return batch, {"action_mask": np.stack(masks)}


def _scorers(chains: list[list[Any]]) -> list[Scorer]:
    """Return the scorers of all reward wrappers, in a fixed order."""
    return [
        layer.reward.scorer
        for chain in chains
        for layer in chain
        if isinstance(layer, RewardWrapper | VectorRewardWrapper)
    ]
