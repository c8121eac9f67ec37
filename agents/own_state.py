"""State that a class of the user's adds to a learner, such as a running baseline, for checkpoints.

An estimator and weights with a state of their own are kept as a rule of credit is. Numbers, texts,
lists, dictionaries and arrays are kept as they are, generators and what has a
``state_dict`` by their states. Nothing is pickled: what cannot be kept is named in one line.
"""

import dis
import logging
from collections.abc import Callable, Mapping
from functools import cache, partial
from itertools import zip_longest
from types import CodeType, FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokengym.agents.errors import CheckpointError
from tokengym.rewards.credits.bound import BoundFunction

PREFIX = "own."
"""Of the names of tensors of such state."""
LIBRARIES = ("tokengym.", "stable_baselines3.")
"""Packages whose classes have states that a checkpoint keeps, or begins anew, by itself."""
ARRAYS = (np.ndarray, np.generic, Tensor)
SEQUENCES: dict[str, type[Any]] = {"list": list, "tuple": tuple, "set": set}

logger = logging.getLogger(__name__)
_named: set[tuple[type, str]] = set()


def own_state(agent: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return what the attributes of an agent that are its class's own hold.

    That is as JSON, by attribute, and the tensors in it by name.
    """
    values: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    for name in sorted(vars(agent).keys() - _of_libraries(agent)):
        of_attribute: dict[str, Tensor] = {}
        try:
            _check_name(type(agent), name)
            values[name] = _packed(vars(agent)[name], f"{PREFIX}{name}", of_attribute)
        except (CheckpointError, TypeError, RecursionError) as error:
            if (type(agent), name) not in _named:
                _named.add((type(agent), name))
                logger.warning("a loaded agent has %s as its constructor makes it: %s", name, error)
            continue
        tensors |= of_attribute
    return values, tensors


def restore_own_state(agent: Any, values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Give an agent the attributes that `own_state` returned.

    One with a state that nothing of the constructor's takes stays as the constructor made it. A
    folder of somebody else's replaces no method, and nothing that Python itself keeps.
    """
    for name in values.keys() - _of_libraries(agent):
        _check_name(type(agent), name)
        takes: list[Callable[[], Any]] = []
        try:
            value = _unpacked(values[name], tensors, vars(agent).get(name), takes)
        except CheckpointError as error:
            logger.warning("a loaded agent has %s as its constructor makes it: %s", name, error)
            continue
        for take in takes:
            take()
        setattr(agent, name, value)


def _check_name(kind: type, name: str) -> None:
    """Refuse an attribute in the place of a method, or of what Python itself keeps."""
    if name.startswith("__") or callable(getattr(kind, name, None)):
        raise CheckpointError(f"{name!r} is no name of state, but of a method of {kind.__name__}")


def _of_libraries(agent: Any) -> frozenset[str]:
    """Return the attributes of an agent that a library sees to.

    Methods of the library's classes assign them, and they are no function with a state, such as an
    estimator that is a class.
    """
    assigned = _assigned_by_libraries(type(agent))
    return assigned - {name for name in assigned if _has_state(vars(agent).get(name))}


def _has_state(value: Any) -> bool:
    """Return whether it is a function of named inputs that keeps a state."""
    return isinstance(value, BoundFunction) and hasattr(value.function, "load_state_dict")


def _assigned_by_libraries(kind: type) -> frozenset[str]:
    """Return the attributes that methods of a class assign which are a library's."""
    methods = [
        function
        for base in kind.__mro__
        if f"{base.__module__}.".startswith(LIBRARIES)
        for member in vars(base).values()
        for function in (member, *(getattr(member, part, None) for part in ("fget", "fset")))
        if isinstance(function, FunctionType)
    ]
    return frozenset().union(*(_assigned(method.__code__) for method in methods))


@cache
def _assigned(code: CodeType) -> frozenset[str]:
    """Return the names of the attributes that code assigns: 15 ms for the methods of a learner."""
    assigned = {
        instruction.argval
        for instruction in dis.get_instructions(code)
        if instruction.opname == "STORE_ATTR"
    }
    inner = (_assigned(const) for const in code.co_consts if isinstance(const, CodeType))
    return frozenset(assigned).union(*inner)


def _packed(value: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    """Return a value as JSON; its arrays go to ``tensors``, by place."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return {"float": value.hex()}
    if isinstance(value, ARRAYS):
        try:
            array = value if isinstance(value, Tensor) else torch.from_numpy(np.array(value))
        except TypeError as error:
            raise CheckpointError(f"{place} is an array of {value.dtype}; keep numbers") from error
        tensors[place] = array.detach().cpu().clone().contiguous()
        return {"tensor" if isinstance(value, Tensor) else "array": place}
    for word, kind in SEQUENCES.items():
        if type(value) is kind:
            parts = sorted(value, key=repr) if kind is set else value
            return {word: [_packed(v, f"{place}.{i}", tensors) for i, v in enumerate(parts)]}
    if type(value) is dict:
        pairs = [
            [_packed(k, f"{place}.{i}.key", tensors), _packed(v, f"{place}.{i}", tensors)]
            for i, (k, v) in enumerate(value.items())
        ]
        return {"dict": pairs}
    if (state := _state_of(value)) is None:
        raise CheckpointError(
            f"a checkpoint cannot hold a {type(value).__name__}; keep it as numbers, texts, lists "
            "or arrays, or give it state_dict() and load_state_dict(state)"
        )
    return {"state": _packed(state, place, tensors)}


def _state_of(value: Any) -> Any:
    """Return the state of a generator, or of what has a ``state_dict``; None of anything else."""
    if isinstance(value, torch.Generator):
        return value.get_state()
    if isinstance(value, np.random.Generator):
        return dict(value.bit_generator.state)
    hooks = ("state_dict", "load_state_dict")
    return dict(value.state_dict()) if all(hasattr(type(value), hook) for hook in hooks) else None


def _unpacked(
    value: Any, tensors: Mapping[str, Tensor], present: Any, takes: list[Callable[[], Any]]
) -> Any:
    """Return the value that was packed, with what takes a state from ``present``, its place now.

    The states are taken when ``takes`` are called.
    """
    if not isinstance(value, dict):
        return value
    ((word, packed),) = value.items()
    if word == "float":
        return float.fromhex(packed)
    if word == "tensor":
        tensor = tensors[packed]
        return tensor.to(present.device) if isinstance(present, Tensor) else tensor
    if word == "array":
        array = tensors[packed].numpy()
        return array if array.ndim else array[()]
    if word in SEQUENCES:
        parts = present if isinstance(present, list | tuple) else ()
        pairs = zip_longest(packed, parts[: len(packed)])
        return SEQUENCES[word](_unpacked(one, tensors, part, takes) for one, part in pairs)
    if word == "dict":
        within = present if isinstance(present, dict) else {}
        keys = [_unpacked(key, tensors, None, takes) for key, _ in packed]
        entries = zip(keys, packed, strict=True)
        return {k: _unpacked(one, tensors, within.get(k), takes) for k, (_, one) in entries}
    state = _unpacked(packed, tensors, None, takes)
    takes.append(partial(_taker(present), state))
    return present


def _taker(present: Any) -> Callable[[Any], Any]:
    """Return what gives an object its state, the counterpart of `_state_of`."""
    if isinstance(present, torch.Generator):
        return present.set_state
    if isinstance(present, np.random.Generator):
        return partial(setattr, present.bit_generator, "state")
    if not hasattr(type(present), "load_state_dict"):
        raise CheckpointError("the constructor makes nothing that takes a state of the checkpoint")
    return present.load_state_dict
