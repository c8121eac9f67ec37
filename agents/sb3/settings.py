"""Settings of a stock algorithm: the arguments of its constructor that a word can say."""

import inspect
from collections.abc import Mapping
from dataclasses import field, fields, make_dataclass
from functools import cache, reduce
from operator import or_
from types import NoneType
from typing import Any, get_args, get_type_hints

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from tokengym.base.errors import SettingsError

STOCK = ("stable_baselines3.", "sb3_contrib.")
OF_RUN = ("policy", "env", "seed", "device", "verbose", "tensorboard_log", "_init_setup_model")
"""Arguments that are the run's."""
OF_STEPS = ("n_steps", "optimize_memory_usage")
"""Arguments of algorithms with a replay buffer that no buffer of dictionaries has an effect of."""
BY_TEXTS = ("n_steps", "buffer_size", "learning_starts")
"""Settings that follow from the length of texts where neither word nor class has its own."""
MINIBATCH = "minibatch_size"
"""Name of the argument ``batch_size``, which of a run is the number of episodes per update."""
KINDS = (bool, int, float, str)


@cache
def settings_of(made: type[BaseAlgorithm]) -> type:
    """Return a frozen dataclass of an algorithm's settings, with its class's own defaults."""
    usual = inspect.signature(stock_base(made)).parameters
    left_out = OF_RUN if issubclass(made, OnPolicyAlgorithm) else (*OF_RUN, *OF_STEPS)
    declared = []
    for name, parameter in arguments(made).items():
        kinds = _kinds(made, parameter)
        if name in left_out or not kinds or parameter.default is parameter.empty:
            continue
        default = parameter.default
        if name in BY_TEXTS and name in usual and default == usual[name].default:
            default = None
        kind = reduce(or_, [*kinds, NoneType] if default is None else kinds)
        renamed = MINIBATCH if name == "batch_size" else name
        declared.append((renamed, kind, field(default=default)))
    inside = {
        "__post_init__": _check,
        "__doc__": f"Settings of {made.__name__}.",
        "__module__": made.__module__,
    }
    name = f"{made.__name__}Settings"
    return make_dataclass(name, declared, namespace=inside, frozen=True, kw_only=True)


def arguments(made: type[BaseAlgorithm]) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of an algorithm's constructor, those that it hands on included."""
    own = inspect.signature(made).parameters
    if not any(parameter.kind == parameter.VAR_KEYWORD for parameter in own.values()):
        return own
    return {**inspect.signature(stock_base(made)).parameters, **own}


def given_arguments(settings: Any) -> dict[str, Any]:
    """Return the constructor's arguments that are not left to the class."""
    values = {one.name: getattr(settings, one.name) for one in fields(settings)}
    defaults = {one.name: one.default for one in fields(settings)}
    return {
        "batch_size" if name == MINIBATCH else name: value
        for name, value in values.items()
        if value != defaults[name]
    }


def stock_base(made: type[BaseAlgorithm]) -> type[BaseAlgorithm]:
    """Return the class of Stable-Baselines3 or sb3-contrib that an algorithm is, or is one of."""
    return next(base for base in made.__mro__ if base.__module__.startswith(STOCK))


def _kinds(made: type[BaseAlgorithm], parameter: inspect.Parameter) -> list[type]:
    """Return which of `KINDS` an argument takes."""
    for owner in (made, stock_base(made)):
        try:
            hint = get_type_hints(owner.__init__).get(parameter.name)
        except (NameError, TypeError):  # a type that is there for checkers alone
            hint = None
        if hint is not None:
            return [kind for kind in KINDS if kind in (hint, *get_args(hint))]
    return [kind for kind in KINDS if type(parameter.default) is kind]


def _check(settings: Any) -> None:
    """Refuse values of another type than their argument's."""
    for one in fields(settings):
        value: Any = getattr(settings, one.name)
        kinds = get_args(one.type) or (one.type,)
        if type(value) not in kinds and not (float in kinds and type(value) is int):
            names = " or ".join(kind.__name__ for kind in kinds if kind is not NoneType)
            raise SettingsError(f"{one.name} must be of type {names}, got {value!r}")
