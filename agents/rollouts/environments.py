"""Environments for agents: adapting them, reading attributes, saving and restoring state."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeAlias

import gymnasium as gym
from gymnasium.vector import SyncVectorEnv, VectorEnv, VectorWrapper
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from tokengym.agents.errors import CheckpointError
from tokengym.agents.policy.sampler import Observation as Observation
from tokengym.envs import EpisodeOverError, TokenGenerationVectorEnv
from tokengym.envs.settings import GenerationSettings
from tokengym.rewards import RewardWrapper, Scorer, VectorRewardWrapper

Environments: TypeAlias = VectorEnv[Any, Any, Any] | gym.Env[Any, Any] | VecEnv
"""Environments of learners and samplers: a batch or a single one, of Gymnasium or of SB3."""


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


def bare_envs(envs: Environments, num_envs: int, **changes: Any) -> TokenGenerationVectorEnv:
    """Return a private copy of a token-generation environment, without reward, as a batch.

    It has the tokenizer, prompts, lengths, legal tokens and stop strings of the innermost
    environment, shares no random state with it, and does not touch it. Rows are not reset by
    themselves.

    Args:
        envs: The environment, single or batched, wrapped or not.
        num_envs: Rows of the copy.
        changes: Settings of the copy that differ.

    Raises:
        TypeError: if ``envs`` is no token-generation environment.
    """
    settings = environment_attribute(envs, "settings")
    if not isinstance(settings, GenerationSettings):
        raise TypeError(
            f"env must be a token-generation environment, got {type(envs).__name__}; make it "
            "with gym.make_vec"
        )
    arguments: dict[str, Any] = {
        field.name: getattr(settings, field.name) for field in fields(settings)
    }
    for name in ("max_prompt_tokens", "tokenizer", "prompts"):
        arguments[name] = environment_attribute(envs, name)
    return TokenGenerationVectorEnv(
        num_envs=num_envs, autoreset_mode="Disabled", **{**arguments, **changes}
    )


def environment_state(envs: Environments, *, begun: bool = False) -> dict[str, Any] | None:
    """Return the state that decides an environment's next episodes and scores, as plain data.

    That is every ``get_state()`` of the innermost environments (prompts to come, random state) and
    every ``state_dict()`` of reward wrappers' scorers (running means). None: no episode has begun.

    Args:
        envs: The environment.
        begun: The next round is to play the present episodes, from their beginnings.
    """
    chains = layers(envs)
    try:
        states = [chain[-1].get_state() for chain in chains if hasattr(chain[-1], "get_state")]
    except EpisodeOverError:
        return None
    if begun:
        rows = states[0] if isinstance(states[0], list) else states
        for row in rows:
            row.update(response_ids=[], terminated=False, truncated=False)
            if "turns" in row:
                row["turns"] = []
    scorers = [scorer.state_dict() for scorer in _scorers(chains)]
    return {"states": states, "scorers": scorers, "begun": int(begun)}


def restore_environment(envs: Environments, state: Mapping[str, Any]) -> None:
    """Restore the state that `environment_state` returned.

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
    for owner, saved in zip(owners, state["states"], strict=True):
        owner.set_state(saved)
    for scorer, saved in zip(scorers, state["scorers"], strict=True):
        if not isinstance(saved, Mapping):
            raise CheckpointError(f"the state of a scorer must be an object, got {saved!r}")
        scorer.load_state_dict(saved)


def layers(envs: Any) -> list[list[Any]]:
    """Return the layers of an environment, outermost first, the innermost environment last.

    The first list is the batch's; one for each row follows where rows are environments themselves.
    """
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
    return [chain, *(rest for row in rows for rest in layers(row))]


def _scorers(chains: list[list[Any]]) -> list[Scorer]:
    """Return the scorers of all reward wrappers, in a fixed order."""
    return [
        layer.reward.scorer
        for chain in chains
        for layer in chain
        if isinstance(layer, RewardWrapper | VectorRewardWrapper)
    ]
