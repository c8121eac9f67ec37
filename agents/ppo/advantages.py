"""Advantage estimators by name.

A round goes from `RoundTensors` through the estimator that ``PPO(advantage=...)`` finds to
`Experience`, which the update learns from. An estimator is one pure function of
`tokengym.agents.losses` and a declaration of what it needs. A learner without a critic is such a
function: value head, values and value loss are then absent.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tokengym.agents import losses
from tokengym.agents.losses import rewards_to_go
from tokengym.agents.losses.advantages import check_groups
from tokengym.agents.ppo.settings import GAE_LAMBDA, NEEDS, VARIANTS, PPOSettings
from tokengym.agents.rollouts.experience import RoundTensors
from tokengym.base.registry import Registry
from tokengym.envs import SettingsError

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
    reads_lambda: bool = True
    """Whether it reads ``gae_lambda``, of those that read values."""
    needs_groups: bool = False
    """Whether its baseline is taken from the other responses to the same prompt."""
    uses_token_rewards: bool = True
    """Whether it sees which token was credited, or only the sum."""
    reads_segments: bool = False
    """Whether it reads which tokens the credit rule pays in one sum."""
    whitens: bool = False
    """Whether its advantages are whitened over the batch."""
    loss_mean: str = "token"
    """The mean that its paper takes of the loss; see `PPOSettings.loss_mean`."""
    source: str = ""
    """Paper."""


def _adopted(name: str, made: Any) -> AdvantageEstimator:
    """Return the estimator that a file or an installed package defines."""
    if not isinstance(made, AdvantageEstimator):
        raise SettingsError(
            f"advantage {name} must be an AdvantageEstimator, got {made!r}; name one that the file "
            "declares: MINE = AdvantageEstimator(name='mine', estimate=..., needs_critic=False)"
        )
    return made


ADVANTAGES: Registry[AdvantageEstimator] = Registry(
    "advantage", group="estimators", from_files=True, adopt=_adopted
)
"""All estimators by name."""


def register_advantage(estimator: AdvantageEstimator) -> AdvantageEstimator:
    """Make an estimator known by its name."""
    return ADVANTAGES.register(estimator.name, estimator)


def find_advantage(name: str) -> AdvantageEstimator:
    """Return the estimator of that name, or that of "path/to/file.py:Name".

    Raises:
        SettingsError: if there is none, with the near matches, or the file's object is another.
    """
    return ADVANTAGES.find(name)


def check_estimator(estimator: AdvantageEstimator, settings: PPOSettings) -> None:
    """Refuse settings that do not go with an estimator."""
    name, defaults = estimator.name, PPOSettings()
    if estimator.needs_groups and settings.group_size is None:
        raise SettingsError(
            f"advantage={name!r} needs group_size, the responses to each prompt; pass "
            "group_size=8, or take advantage='reinforce++', which has no group"
        )
    has = {
        "critic": estimator.needs_critic,
        "lambda": estimator.reads_lambda,
        "group_size": settings.group_size is not None,
        "grpo": name == "grpo",
    }
    for setting, needs in VARIANTS.items():
        if getattr(settings, setting) != getattr(defaults, setting):
            for need in needs:
                if not has[need]:
                    raise SettingsError(f"{setting} has no effect {NEEDS[need].format(name)}")


def check_settings(settings: PPOSettings, batch_size: int) -> None:
    """Refuse an unknown estimator, or settings that do not go with it."""
    check_estimator(find_advantage(settings.advantage), settings)
    if settings.group_size is not None:
        check_groups(batch_size, settings.group_size)


def _gae(played: RoundTensors, settings: PPOSettings) -> tuple[Tensor, Tensor]:
    gae_lambda = GAE_LAMBDA if settings.gae_lambda is None else settings.gae_lambda
    advantages, returns = played.gae(gae_lambda, gamma=settings.gamma)
    if settings.gae_lambda_vf is not None:
        _, returns = played.gae(settings.gae_lambda_vf, gamma=settings.gamma)
    return advantages, returns


def _reinforce(played: RoundTensors, settings: PPOSettings) -> tuple[Tensor, Tensor]:
    to_go = rewards_to_go(played.token_rewards, played.response_mask, gamma=settings.gamma)
    return to_go, to_go


def _vineppo(played: RoundTensors, settings: PPOSettings) -> tuple[Tensor, Tensor]:
    """Return A_t = r_t, or a segment's sum: rewards that are advantages already, as ``mc``'s.

    The first segment's contain the value of the prompt; its mean over the batch comes off.
    """
    mask, ends = played.response_mask, played.segment_ends
    if ends is None:  # each token is a segment
        ends = torch.arange(mask.shape[1], device=mask.device).expand(mask.shape)
    advantages = losses.rewards_within(played.token_rewards, mask, ends, gamma=settings.gamma)
    in_first = mask & (ends == ends[:, :1])
    # Nothing was earned in an episode that a partner lost: as 0 it would bend the mean.
    first = advantages[mask.any(1), 0]
    value = torch.where(losses.no_spread(first), advantages[:, :1], first.mean())
    advantages = advantages - in_first * value
    return advantages, advantages


def _by_score(
    function: Callable[[Tensor, int, PPOSettings], Tensor],
) -> Estimate:
    """Return an estimator whose advantage is one number per response, the same at every token."""

    def estimate(played: RoundTensors, settings: PPOSettings) -> tuple[Tensor, Tensor]:
        assert settings.group_size is not None
        advantages = function(played.scores, settings.group_size, settings)[:, None]
        spread = advantages.expand_as(played.token_rewards).masked_fill(~played.response_mask, 0.0)
        return spread, spread

    return estimate


def _loo(played: RoundTensors, settings: PPOSettings) -> tuple[Tensor, Tensor]:
    assert settings.group_size is not None
    ids = None
    if any(episode.written is not None for episode in played.episodes):
        ids = torch.zeros_like(played.response_mask, dtype=torch.int64)
        for row, episode in enumerate(played.episodes):
            ids[row, : len(episode.response_ids)] = torch.tensor(episode.response_ids)
    advantages = losses.leave_one_out(
        played.token_rewards,
        played.response_mask,
        settings.group_size,
        gamma=settings.gamma,
        response_ids=ids,
    )
    return advantages, advantages


for _estimator in (
    AdvantageEstimator(
        name="gae",
        estimate=_gae,
        needs_critic=True,
        whitens=True,
        source="Schulman et al. 2016, arXiv:1506.02438",
    ),
    AdvantageEstimator(
        name="reinforce",
        estimate=_reinforce,
        needs_critic=False,
        source="Williams 1992: the reward to go, without a baseline",
    ),
    AdvantageEstimator(
        name="reinforce++",
        estimate=_reinforce,
        needs_critic=False,
        whitens=True,
        source="Hu 2025, arXiv:2501.03262: the reward to go, whitened over the batch",
    ),
    AdvantageEstimator(
        name="vineppo",
        estimate=_vineppo,
        needs_critic=False,
        reads_segments=True,
        whitens=True,
        source="Kazemnejad et al. 2024, arXiv:2410.01679, under the rule `mc`",
    ),
    AdvantageEstimator(
        name="rloo",
        estimate=_by_score(lambda scores, n, settings: losses.rloo(scores, n)),
        needs_critic=False,
        needs_groups=True,
        uses_token_rewards=False,
        source="Ahmadian et al. 2024, arXiv:2402.14740",
    ),
    AdvantageEstimator(
        name="grpo",
        estimate=_by_score(
            lambda scores, n, settings: losses.grpo(scores, n, std_floor=settings.std_floor)
        ),
        needs_critic=False,
        needs_groups=True,
        uses_token_rewards=False,
        loss_mean="sequence",
        source="Shao et al. 2024, arXiv:2402.03300",
    ),
    AdvantageEstimator(
        name="dr-grpo",
        estimate=_by_score(lambda scores, n, settings: losses.dr_grpo(scores, n)),
        needs_critic=False,
        needs_groups=True,
        uses_token_rewards=False,
        loss_mean="constant",
        source="Liu et al. 2025, arXiv:2503.20783",
    ),
    AdvantageEstimator(
        name="loo",
        estimate=_loo,
        needs_critic=False,
        needs_groups=True,
        source="here: the reward to go minus that of the other rows still being written, unbiased",
    ),
):
    register_advantage(_estimator)
