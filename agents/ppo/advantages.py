"""Advantage estimators by name: what ``PPO(advantage=...)`` finds.

An estimator is one pure function of `tokengym.agents.losses` and a declaration of what it needs. A
learner without a critic is such a function: value head, values and value loss are then absent.
"""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from tokengym.agents.losses import gae, rewards_to_go
from tokengym.agents.ppo.settings import PPOSettings
from tokengym.envs import SettingsError

CRITIC_SETTINGS = ("gae_lambda", "vf_coef", "clip_range_vf", "n_value_warmup")
"""Settings of `PPOSettings` that have no effect without a critic."""


@dataclass(frozen=True, kw_only=True)
class RoundTensors:
    """What an estimator sees of a round; 0 past a response's end."""

    token_rewards: Tensor
    """(batch, time), reward units, minus the price of the KL where it is in the reward."""
    response_mask: Tensor
    """(batch, time) bool."""
    values: Tensor | None
    """(batch, time), reward units; None without a critic."""
    final_values: Tensor | None
    """(batch,) value past the last token of truncated episodes, 0 elsewhere; None: 0 everywhere."""


Estimate = Callable[[RoundTensors, PPOSettings], tuple[Tensor, Tensor]]
"""Returns advantages and returns, both (batch, time), reward units."""


@dataclass(frozen=True, kw_only=True)
class AdvantageEstimator:
    """Declaration of an estimator."""

    name: str
    """As ``advantage=`` takes it."""
    estimate: Estimate
    """The function."""
    needs_critic: bool
    """Whether it reads values; without them the policy has no value head."""
    uses_token_rewards: bool = True
    """Whether it sees which token was credited, or only the sum."""
    source: str = ""
    """Paper."""


_ESTIMATORS: dict[str, AdvantageEstimator] = {}


def register_advantage(estimator: AdvantageEstimator) -> AdvantageEstimator:
    """Make an estimator known by its name."""
    _ESTIMATORS[estimator.name] = estimator
    return estimator


def advantage_names() -> list[str]:
    """Return the names of all estimators."""
    return list(_ESTIMATORS)


def find_advantage(name: str) -> AdvantageEstimator:
    """Return the estimator of that name.

    Raises:
        SettingsError: if there is none, with the near matches.
    """
    if name in _ESTIMATORS:
        return _ESTIMATORS[name]
    near = difflib.get_close_matches(str(name), _ESTIMATORS, n=2)
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    raise SettingsError(
        f"unknown advantage {name!r}; {hint}known: {', '.join(map(repr, _ESTIMATORS))}"
    )


def check_critic_settings(
    estimator: AdvantageEstimator, settings: PPOSettings, policy_kwargs: Mapping[str, Any]
) -> None:
    """Refuse settings of a critic where the estimator has none.

    Args:
        estimator: The estimator.
        settings: The learner's settings.
        policy_kwargs: The policy's arguments.

    Raises:
        SettingsError: naming the setting and the estimator that it is for.
    """
    if estimator.needs_critic:
        return
    usual = PPOSettings()
    given = [name for name in CRITIC_SETTINGS if getattr(settings, name) != getattr(usual, name)]
    if policy_kwargs.get("value_network", "trunk") != "trunk":
        given.append("value_network")
    for name in given:
        raise SettingsError(
            f"{name} has no effect with advantage={estimator.name!r}, which has no critic; "
            "leave it out, or take advantage='gae'"
        )


def _gae(played: RoundTensors, settings: PPOSettings) -> tuple[Tensor, Tensor]:
    assert played.values is not None
    return gae(
        played.token_rewards,
        played.values,
        played.response_mask,
        gamma=settings.gamma,
        gae_lambda=settings.gae_lambda,
        final_values=played.final_values,
    )


def _reinforce(played: RoundTensors, settings: PPOSettings) -> tuple[Tensor, Tensor]:
    to_go = rewards_to_go(played.token_rewards, played.response_mask, gamma=settings.gamma)
    return to_go, to_go


register_advantage(
    AdvantageEstimator(
        name="gae",
        estimate=_gae,
        needs_critic=True,
        source="Schulman et al. 2016, arXiv:1506.02438",
    )
)
register_advantage(
    AdvantageEstimator(
        name="reinforce",
        estimate=_reinforce,
        needs_critic=False,
        source="Williams 1992; the reward to go, whitened over the batch",
    )
)
