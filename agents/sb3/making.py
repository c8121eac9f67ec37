"""Stock algorithms of Stable-Baselines3 and sb3-contrib, made for texts."""

import inspect
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from tokengym.agents.sb3.hindsight import (
    HindsightReplayBuffer,
    HindsightRolloutBuffer,
    TokenFeatures,
)
from tokengym.agents.sb3.settings import STOCK, given_arguments, stock_base
from tokengym.agents.sb3.vec_env import NoEnvironment
from tokengym.base.errors import SettingsError


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
    usual = inspect.signature(stock_base(made)).parameters
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
    if any(parameter.kind == parameter.VAR_KEYWORD for parameter in given.values()):
        filled["seed"] = seed
    filled |= given_arguments(settings)
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
