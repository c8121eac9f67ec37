"""The state of an environment that decides its next episodes and scores, for checkpoints."""

import copy
import json
import logging
import reprlib
from collections.abc import Mapping, Sized
from typing import Any

import gymnasium.wrappers as single
import gymnasium.wrappers.vector as batched
import numpy as np
from gymnasium.vector import VectorEnv
from stable_baselines3.common.vec_env import VecNormalize

from tokengym.agents.errors import CheckpointError
from tokengym.agents.rollouts.layers import Environments, layers
from tokengym.agents.sb3.vec_env import GymVecEnv
from tokengym.base.errors import reason_of
from tokengym.base.folders import check_entries
from tokengym.envs import EpisodeOverError
from tokengym.envs.mdp import MdpEnvironment
from tokengym.rewards import RewardWrapper, Scorer, VectorRewardWrapper
from tokengym.rewards.errors import ScorerError

SCALES: dict[type, tuple[str, str]] = {
    single.NormalizeReward: ("return_rms", "discounted_reward"),
    batched.NormalizeReward: ("return_rms", "accumulated_reward"),
    VecNormalize: ("ret_rms", "returns"),
}
"""Layers that scale rewards by a running deviation: their attributes with its moments, and with the
returns of the rows so far, that it is the deviation of."""
MOMENTS = ("mean", "var", "count")

logger = logging.getLogger(__name__)


def environment_state(envs: Environments, *, begun: bool = False) -> dict[str, Any] | None:
    """Return the state that decides an environment's next episodes and scores, as plain data.

    That is every ``get_state()`` of the innermost environments (prompts to come, random state),
    every ``state_dict()`` of reward wrappers' scorers (running means) and of layers of the user's
    own, and the running scale of each layer of `SCALES`. None: no episode has begun.

    Args:
        envs: The environment.
        begun: The next round is to play the present episodes.
    """
    chains = layers(envs)
    try:
        states = [chain[-1].get_state() for chain in chains if hasattr(chain[-1], "get_state")]
    except EpisodeOverError:
        return None
    # Copied: what a state holds may change in the round.
    scorers = [copy.deepcopy(scorer.state_dict()) for scorer in _scorers(chains)]
    scales = [
        {name: float(getattr(moments, name)) for name in MOMENTS}
        | {"returns": np.asarray(getattr(layer, returns)).tolist()}
        for layer, moments, returns in _scales(chains)
    ]
    state = {"states": states, "scorers": scorers, "scales": scales, "begun": int(begun)}
    kept = [_plain_state(layer) for layer in _layers_with_state(chains)]
    return state | ({"layers": kept} if kept else {})


def restore_environment(envs: Environments, state: Mapping[str, Any]) -> None:
    """Restore the state that `environment_state` returned.

    Where the next round is to play its episodes, it has no other reset to draw prompts.
    """
    chains = layers(envs)
    owners = [chain[-1] for chain in chains if hasattr(chain[-1], "set_state")]
    scorers = _scorers(chains)
    _check_count("environments", owners, state["states"])
    _check_count("scorers with state", scorers, state["scorers"])
    is_known = bool(owners) and all(isinstance(owner, MdpEnvironment) for owner in owners)
    begun = envs if state["begun"] and is_known and isinstance(envs, GymVecEnv) else None
    if begun is not None:  # layers around the environment begin their episodes by it
        begun.reset()
    starts = [owner.set_state(saved) for owner, saved in zip(owners, state["states"], strict=True)]
    if begun is not None:
        begun.fresh = starts[0] if isinstance(owners[0], VectorEnv) else _as_batch(starts)
    _restore_scales(_scales(chains), state["scales"])
    _restore_layers(_layers_with_state(chains), state.get("layers"))
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


def _scales(chains: list[list[Any]]) -> list[tuple[Any, Any, str]]:
    """Return each layer of `SCALES`, its moments, and the name of its returns, in a fixed order."""
    return [
        (layer, getattr(layer, moments), returns)
        for chain in chains
        for layer in chain
        for kind, (moments, returns) in SCALES.items()
        if isinstance(layer, kind)
    ]


def _check_count(name: str, present: Sized, saved: Sized) -> None:
    """Refuse the states of more or fewer parts than an environment has."""
    if len(present) != len(saved):
        raise CheckpointError(
            f"the checkpoint holds the state of {len(saved)} {name}, the environment has "
            f"{len(present)}; make it as it was"
        )


def _restore_scales(scales: list[tuple[Any, Any, str]], saved: list[Any] | None) -> None:
    """Give layers their running scales back; several processes save None."""
    if saved is None:
        kinds = sorted({type(layer).__name__ for layer, *_ in scales})
        if kinds:
            logger.warning(
                "the checkpoint has no running scale of %s: it begins anew", ", ".join(kinds)
            )
        return
    _check_count("running scales of rewards", scales, saved)
    for scale, kept in zip(scales, saved, strict=True):
        _restore_scale(*scale, kept)


def _restore_scale(layer: Any, moments: Any, returns: str, saved: object) -> None:
    """Give a layer of `SCALES` its moments and returns back."""
    name, present = f"the running scale of {type(layer).__name__}", getattr(layer, returns)
    check_entries(saved, {**dict.fromkeys(MOMENTS, int | float), "returns": list}, name)
    assert isinstance(saved, dict)
    try:
        kept = np.asarray(saved["returns"], dtype=present.dtype)
    except (TypeError, ValueError):
        kept = np.empty(0)
    if kept.shape != present.shape:
        raise CheckpointError(
            f"returns of {name} must be numbers of shape {present.shape}, got "
            f"{saved['returns']!r}; make the environment as it was"
        )
    setattr(layer, returns, kept)
    for moment in MOMENTS:
        setattr(moments, moment, np.float64(saved[moment]))


def _layers_with_state(chains: list[list[Any]]) -> list[Any]:
    """Return the layers with a state to save, as torch's modules have it, in a fixed order.

    The class is asked: a layer of a batch passes attributes of those inside it on.
    """
    hooks = ("state_dict", "load_state_dict")
    return [
        layer
        for chain in chains
        for layer in chain[:-1]  # the innermost has get_state
        if all(callable(getattr(type(layer), hook, None)) for hook in hooks)
    ]


def _plain_state(layer: Any) -> Any:
    """Return a copy of a layer's state."""
    state = layer.state_dict()
    try:
        plain = json.loads(json.dumps(state, allow_nan=False))
    except (TypeError, ValueError):
        plain = None
    if plain is None or plain != state:
        raise CheckpointError(
            f"state_dict() of {type(layer).__name__} must be an object of texts, finite numbers "
            f"and lists, for the checkpoint, got {reprlib.repr(state)}; convert arrays by tolist()"
        )
    return plain


def _restore_layers(owners: list[Any], saved: list[Any] | None) -> None:
    """Give layers their states back; several processes save None."""
    if saved is None:
        if owners:
            kinds = ", ".join(sorted({type(layer).__name__ for layer in owners}))
            logger.warning("the checkpoint has no state of %s: it begins anew", kinds)
        return
    _check_count("layers with state_dict()", owners, saved)
    for layer, kept in zip(owners, saved, strict=True):
        try:
            layer.load_state_dict(kept)
        except Exception as error:
            raise CheckpointError(
                f"{type(layer).__name__} cannot load its state {reprlib.repr(kept)} "
                f"({type(error).__name__}: {reason_of(error)}); make the environment as it was"
            ) from error


def _scorers(chains: list[list[Any]]) -> list[Scorer]:
    """Return the scorers of all reward wrappers, in a fixed order."""
    return [
        layer.reward.scorer
        for chain in chains
        for layer in chain
        if isinstance(layer, RewardWrapper | VectorRewardWrapper)
    ]
