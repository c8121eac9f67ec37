"""Generalised advantage estimates whose lambda rises with the length of the response."""

from torch import Tensor

from tokengym.agents.ppo import AdvantageEstimator, PPOSettings, RoundTensors

ALPHA = 0.05
"""VAPO's."""


def lambda_of(length: Tensor, alpha: float = ALPHA) -> Tensor:
    """Return the lambda of a response of each length.

    lambda_n = max(0, 1 - 1 / (alpha n))

    The sum of the weights lambda^k of the steps ahead is then alpha n: a share of the response.

    Args:
        length: (batch,) tokens.
        alpha: That share, above 0. VAPO's 0.05 makes lambda 0 for responses of up to 20 tokens.

    Example:
        >>> import torch
        >>> lambda_of(torch.tensor([10, 40])).tolist()
        [0.0, 0.5]
    """
    return (1.0 - 1.0 / (alpha * length.clamp(min=1).float())).clamp(min=0.0)


def length_gae(played: RoundTensors, settings: PPOSettings) -> tuple[Tensor, Tensor]:
    """Return advantages at the lambda of each response's length, and the values' returns at 1.

    Args:
        played: The round, with values.
        settings: The learner's; ``gae_lambda_vf`` takes the place of the 1.

    Returns:
        Advantages and returns, both (batch, time), reward units.

    Source: Yue et al. 2025, VAPO, arXiv:2504.05118.
    """
    of_values = 1.0 if settings.gae_lambda_vf is None else settings.gae_lambda_vf
    advantages, _ = played.gae(lambda_of(played.response_mask.sum(1)), gamma=settings.gamma)
    _, returns = played.gae(of_values, gamma=settings.gamma)
    return advantages, returns


LENGTH_GAE = AdvantageEstimator(
    name="gae-length",
    estimate=length_gae,
    needs_critic=True,
    reads_lambda=False,
    whitens=True,
    source="Yue et al. 2025, arXiv:2504.05118",
)
