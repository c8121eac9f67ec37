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
from tokengym.agents.rollouts.layers import REWARD_WRAPPERS, Environments, layers
from tokengym.base.errors import reason_of
from tokengym.envs import EpisodeOverError
from tokengym.envs.mdp import MdpEnvironment
from tokengym.rewards import Rule, Scorer
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
    every ``state_dict()`` of reward wrappers' scorers (running means), of rules of credit and of
    layers of the user's own, and the running scale of each layer of `SCALES`. None: no episode has
    begun. ``begun`` says that the next round is to play the present episodes.
    """
    chains = layers(envs)
    try:
        states = [chain[-1].get_state() for chain in chains if hasattr(chain[-1], "get_state")]
    except EpisodeOverError:
        return None
    # Copied: what a state holds may change in the round.
    scorers = [copy.deepcopy(scorer.state_dict()) for scorer in _scorers(chains)]
    of_layers = [_state_of(layer) for layer in _layers_with_state(chains)]
    return {"states": states, "scorers": scorers, "layers": of_layers, "begun": int(begun)}


def restore_environment(
    envs: Environments, state: Mapping[str, Any]
) -> tuple[Any, dict[str, Any]] | None:
    """Restore the state that `environment_state` returned.

    Returns:
        Observations and infos at the beginning of its episodes, if the next round is to play them.
    """
    chains = layers(envs)
    owners = [chain[-1] for chain in chains if hasattr(chain[-1], "set_state")]
    scorers = _scorers(chains)
    _check_count("environments", owners, state["states"])
    _check_count("scorers with state", scorers, state["scorers"])
    is_known = bool(owners) and all(isinstance(owner, MdpEnvironment) for owner in owners)
    is_begun = bool(state["begun"]) and is_known
    if is_begun:  # layers around the environment begin their episodes by it
        envs.reset()
    starts = [owner.set_state(saved) for owner, saved in zip(owners, state["states"], strict=True)]
    _restore_layers(_layers_with_state(chains), state["layers"])
    for scorer, saved in zip(scorers, state["scorers"], strict=True):
        if not isinstance(saved, Mapping):
            raise CheckpointError(f"the state of a scorer must be an object, got {saved!r}")
        try:
            scorer.load_state_dict(saved)
        except ScorerError as error:
            raise CheckpointError(
                "make the environment as it was when the agent was saved, with the same normalize= "
                f"(`tokengym train` sets 'batch'): {error}"
            ) from None
    if not is_begun:
        return None
    beginning: tuple[Any, dict[str, Any]] = starts[0]
    return beginning if isinstance(owners[0], VectorEnv) else _as_batch(starts)


def _as_batch(starts: list[tuple[Any, dict[str, Any]]]) -> tuple[Any, dict[str, Any]]:
    """Return what single environments returned as their batch would."""
    rows = [observation for observation, _ in starts]
    masks = [info["action_mask"] for _, info in starts]
    batch = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    return batch, {"action_mask": np.stack(masks)}


def _check_count(name: str, present: Sized, saved: Sized) -> None:
    """Refuse the states of more or fewer parts than an environment has."""
    if len(present) != len(saved):
        raise CheckpointError(
            f"the checkpoint holds the state of {len(saved)} {name}, the environment has "
            f"{len(present)}; make it as it was"
        )


class _Scale:
    """State of a layer of `SCALES`, as torch's modules have theirs."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self.moments, self.returns = next(
            n for kind, n in SCALES.items() if isinstance(layer, kind)
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the moments and the returns that they are of."""
        moments = getattr(self.layer, self.moments)
        returns = np.asarray(getattr(self.layer, self.returns)).tolist()
        return {name: float(getattr(moments, name)) for name in MOMENTS} | {"returns": returns}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Give them back."""
        present, moments = getattr(self.layer, self.returns), getattr(self.layer, self.moments)
        returns = np.asarray(state["returns"], dtype=present.dtype).reshape(present.shape)
        setattr(self.layer, self.returns, returns)
        for name in MOMENTS:
            setattr(moments, name, np.float64(state[name]))


def _layers_with_state(chains: list[list[Any]]) -> list[Any]:
    """Return the layers with a state to save, or what has it for them, in a fixed order."""
    every = [layer for chain in chains for layer in chain[:-1]]  # the innermost has get_state
    scaling = [_Scale(layer) for layer in every if isinstance(layer, tuple(SCALES))]
    # The class is asked: a layer of a batch passes attributes of those inside it on.
    hooks = ("state_dict", "load_state_dict")
    own = [layer for layer in every if all(hasattr(type(layer), hook) for hook in hooks)]
    paying = [layer for chain in chains for layer in chain if isinstance(layer, REWARD_WRAPPERS)]
    rules = [layer.reward.credit for layer in paying]
    learning = [one for one in rules if all(hasattr(one.function, hook) for hook in hooks)]
    return [*scaling, *own, *learning]


def _state_of(layer: Any) -> Any:
    """Return a copy of a layer's state."""
    state = layer.state_dict()
    try:
        plain = json.loads(json.dumps(state, allow_nan=False))
    except (TypeError, ValueError):
        plain = None
    if plain is None or plain != state:
        raise CheckpointError(
            f"state_dict() of {_name(layer)} must be an object of texts, finite numbers "
            f"and lists, for the checkpoint, got {reprlib.repr(state)}; convert arrays by tolist()"
        )
    return plain


def _restore_layers(owners: list[Any], saved: list[Any] | None) -> None:
    """Give layers their states back; several processes save None."""
    if saved is None:
        if owners:
            kinds = ", ".join(sorted({_name(layer) for layer in owners}))
            logger.warning("the checkpoint has no state of %s: it begins anew", kinds)
        return
    _check_count("layers with a state", owners, saved)
    for layer, state in zip(owners, saved, strict=True):
        try:
            layer.load_state_dict(state)
        except Exception as error:
            raise CheckpointError(
                f"{_name(layer)} cannot load its state {reprlib.repr(state)} "
                f"({type(error).__name__}: {reason_of(error)}); make the environment as it was"
            ) from error


def _name(layer: Any) -> str:
    """Return the class name of a layer, or the name of a rule."""
    if isinstance(layer, Rule):
        return f"credit {layer.name!r}"
    return type(layer.layer if isinstance(layer, _Scale) else layer).__name__


def _scorers(chains: list[list[Any]]) -> list[Scorer]:
    """Return the scorers of all reward wrappers, in a fixed order."""
    every = [layer for chain in chains for layer in chain]
    return [layer.reward.scorer for layer in every if isinstance(layer, REWARD_WRAPPERS)]
