"""State that a class of the user's adds to a learner, such as a running baseline, for checkpoints.

It is what the class's ``state_dict()`` returns and ``load_state_dict(state)`` takes: an object of
texts, finite numbers, lists and tensors. An estimator, or weights, of a class with both methods are
kept likewise. A class without them begins anew when it is loaded, which is said once.
"""

import json
import logging
import reprlib
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tokengym.agents.errors import CheckpointError
from tokengym.base.errors import reason_of
from tokengym.rewards.credits.bound import BoundFunction

PREFIX = "own."
"""Of the names of tensors of such state."""
TENSOR = "__tensor__"
"""Stands in such state for a tensor, by its name."""
HOOKS = ("state_dict", "load_state_dict")

logger = logging.getLogger(__name__)
_told: set[type] = set()


def own_state(agent: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the states of an agent's own parts as JSON, by part, and the tensors in them."""
    kind, tensors = type(agent), dict[str, Tensor]()
    owners = _owners(agent)
    if "agent" not in owners and not kind.__module__.startswith("tokengym.") and kind not in _told:
        _told.add(kind)
        logger.warning(
            "%s has no state_dict() and load_state_dict(state): whatever it keeps beside its "
            "models begins anew in a resumed run",
            kind.__name__,
        )
    states: dict[str, Any] = {}
    for name, owner in owners.items():
        state = owner.state_dict()
        states[name] = _packed(state, tensors)
        try:
            plain = json.loads(json.dumps(states[name], allow_nan=False))
        except (TypeError, ValueError, RecursionError):
            plain = None
        if not isinstance(state, Mapping) or plain != states[name]:
            raise CheckpointError(
                f"state_dict() of the {name} must be an object of texts, finite numbers, lists "
                f"and tensors, got {reprlib.repr(state)}; convert arrays by tolist()"
            )
    return states, tensors


def restore_own_state(agent: Any, states: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Give an agent's own parts the states that `own_state` returned."""
    owners = _owners(agent)
    for name in owners.keys() ^ states.keys():
        whose = "the agent" if name in owners else "the checkpoint"
        logger.warning("the %s begins anew: only %s has a state of it", name, whose)
    for name in owners.keys() & states.keys():
        try:
            owners[name].load_state_dict(_unpacked(states[name], tensors))
        except Exception as error:
            raise CheckpointError(
                f"the {name} cannot load its state {reprlib.repr(states[name])} "
                f"({type(error).__name__}: {reason_of(error)}); make it as it was"
            ) from error


def _owners(agent: Any) -> dict[str, Any]:
    """Return the agent, if its class keeps a state, and its functions of named inputs that do."""
    bound = {name: one for name, one in vars(agent).items() if isinstance(one, BoundFunction)}
    owners = {name: one for name, one in sorted(bound.items()) if _has_hooks(one.function)}
    return {"agent": agent, **owners} if _has_hooks(agent) else owners


def _has_hooks(owner: Any) -> bool:
    """Return whether an object gives its state and takes it."""
    return all(hasattr(owner, hook) for hook in HOOKS)


def _packed(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Return a state with names in the place of its tensors, which are added to ``tensors``."""
    if isinstance(value, Tensor):
        name = f"{PREFIX}{len(tensors)}"
        tensors[name] = value.detach().cpu().clone().contiguous()
        return {TENSOR: name}
    if isinstance(value, Mapping):
        return {key: _packed(one, tensors) for key, one in value.items()}
    return [_packed(one, tensors) for one in value] if type(value) is list else value


def _unpacked(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Return the state that was packed."""
    if isinstance(value, dict):
        if value.keys() == {TENSOR}:
            return tensors[value[TENSOR]]
        return {key: _unpacked(one, tensors) for key, one in value.items()}
    return [_unpacked(one, tensors) for one in value] if isinstance(value, list) else value
