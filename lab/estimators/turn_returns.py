"""Returns of turns with a discount in turns, normalised over the turns of a group."""

import torch
from torch import Tensor

from tokengym.agents import losses
from tokengym.agents.ppo import AdvantageEstimator, PPOSettings, RoundTensors
from tokengym.lab.estimators.turns import centred, turns_of


def turn_returns(played: RoundTensors, settings: PPOSettings) -> tuple[Tensor, Tensor]:
    """Return each turn's return minus the mean over all turns of its group, over their deviation.

    A_k = (G_k - mean G) / (std G + epsilon),  G_k = sum_{j >= k} gamma^{j-k} r_j

    The learner's gamma is a discount per turn here. With gamma=0 a turn has its own reward alone.

    Args:
        played: The round.
        settings: The learner's, with groups.

    Returns:
        The same (batch, time) twice, unitless.

    Source: Baronio et al. 2025, Kevin, arXiv:2507.11948, where every turn is a sample of its own.
    """
    assert settings.group_size is not None
    mask = played.response_mask
    turns = turns_of(played.token_rewards, mask)
    groups = (torch.arange(len(mask), device=mask.device) // settings.group_size)[:, None]
    returns = losses.rewards_to_go(turns.rewards, turns.mask, gamma=settings.gamma)
    advantages = torch.zeros_like(returns)
    of_turn = groups.expand_as(returns)[turns.mask]
    advantages[turns.mask] = centred(returns[turns.mask], of_turn, scale=True)
    advantages = turns.on_tokens(advantages, mask)
    return advantages, advantages


TURN_RETURNS = AdvantageEstimator(
    name="turn-returns",
    estimate=turn_returns,
    needs_critic=False,
    needs_groups=True,
    source="Baronio et al. 2025, arXiv:2507.11948",
)
