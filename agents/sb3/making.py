"""Stock algorithms of Stable-Baselines3 and sb3-contrib: settings of their words, made for texts.

Settings are the arguments of an algorithm's constructor that a word can say.
"""

import inspect
from collections.abc import Mapping
from dataclasses import field, fields, make_dataclass
from functools import cache, reduce
from operator import or_
from types import NoneType
from typing import Any, get_args, get_type_hints

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from tokengym.agents.sb3.hindsight import (
    HindsightReplayBuffer,
    HindsightRolloutBuffer,
    TokenFeatures,
)
from tokengym.agents.sb3.vec_env import NoEnvironment
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
    own = inspect.signature(made).parameters
    usual = inspect.signature(_stock_base(made)).parameters
    left_out = OF_RUN if issubclass(made, OnPolicyAlgorithm) else (*OF_RUN, *OF_STEPS)
    declared = []
    for name, parameter in ({**usual, **own} if _hands_on(own) else own).items():
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


def _given_arguments(settings: Any) -> dict[str, Any]:
    """Return the constructor's arguments that are not left to the class."""
    given = {
        one.name: value
        for one in fields(settings)
        if (value := getattr(settings, one.name)) != one.default
    }
    return {"batch_size" if name == MINIBATCH else name: value for name, value in given.items()}


def _hands_on(parameters: Mapping[str, inspect.Parameter]) -> bool:
    """Return whether a constructor takes its base's arguments too."""
    return any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters.values())


def _stock_base(made: type[BaseAlgorithm]) -> type[BaseAlgorithm]:
    """Return the class of Stable-Baselines3 or sb3-contrib that an algorithm is, or is one of."""
    return next(base for base in made.__mro__ if base.__module__.startswith(STOCK))


def _kinds(made: type[BaseAlgorithm], parameter: inspect.Parameter) -> list[type]:
    """Return which of `KINDS` an argument takes."""
    for owner in (made, _stock_base(made)):
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


# --- making ---------------------------------------------------------------------------------------


def make(
    made: type[BaseAlgorithm],
    settings: Any,
    envs: Any,
    *,
    name: str,
    rows: int,
    length: int,
    seed: int | None = None,
    device: torch.device | str = "auto",
) -> BaseAlgorithm:
    """Return an algorithm, with what texts need wherever its class leaves that to its caller.

    That is a network that embeds tokens, buffers that pay each token what the credit rule gives it,
    and rollouts of whole episodes.

    Args:
        made: The class.
        settings: An instance of its `settings_of`.
        envs: Its environment, as SB3 takes it.
        name: What the user wrote.
        rows: Rows of the environment.
        length: Longest response, tokens.
        seed: Seed of everything random in it.
        device: Device of its network.
    """
    given = inspect.signature(made).parameters
    usual = inspect.signature(_stock_base(made)).parameters
    wanted: dict[str, Any] = {
        "policy": policy_of(made),
        "env": envs,
        "seed": seed,
        "device": device,
        "policy_kwargs": {"features_extractor_class": TokenFeatures},
        "rollout_buffer_class": HindsightRolloutBuffer,
        "replay_buffer_class": HindsightReplayBuffer,
        "buffer_size": max(50_000, 8 * rows * length),
        "learning_starts": rows * length,  # every row has ended an episode by then
    }
    if issubclass(made, OnPolicyAlgorithm):
        wanted["n_steps"] = length
    filled = {
        key: value
        for key, value in wanted.items()
        if key in given and given[key].default == usual[key].default
    }
    if _hands_on(given):
        filled["seed"] = seed
    filled |= _given_arguments(settings)
    try:
        return made(**filled)
    except (AssertionError, TypeError, ValueError) as error:
        line = " ".join(str(error).split())
        raise SettingsError(
            f"agent {name} cannot be made with {', '.join(filled)}: {type(error).__name__}: "
            f"{line}; it must choose among discrete actions and read dictionaries"
        ) from error


def check_makes(settings: Any, rows: int, *, name: str, made: type[BaseAlgorithm]) -> None:
    """Refuse a stock algorithm that cannot be made, before any run begins."""
    if made.__module__.startswith(STOCK):  # another class may do more than that
        envs = NoEnvironment(num_envs=rows, num_tokens=4, length=4)
        make(made, settings, envs, name=name, rows=rows, length=64, device="cpu")


def check_reads_texts(name: str, made: type[BaseAlgorithm]) -> None:
    """Refuse an algorithm whose policies read no dictionaries of arrays."""
    if "policy" in inspect.signature(made).parameters and policy_of(made) is None:
        raise SettingsError(
            f"agent {name} cannot read texts: {made.__name__} has no policy for dictionaries, but "
            f"{', '.join(made.policy_aliases)}; name one with MultiInputPolicy, such as A2C or DQN"
        )


def policy_of(made: type[BaseAlgorithm]) -> str | None:
    """Return the name of an algorithm's policy for dictionaries of arrays; None if it has none."""
    return next((alias for alias in made.policy_aliases if alias.startswith("MultiInput")), None)
