"""Policy losses that keep the entropy: Clip-Cov and KL-Cov, as functions that name what they read.

    tokengym train --env MovieReview --loss examples/entropy_losses.py:kl_cov:share=0.01

The entropy of a policy falls by the covariance of log-probability and advantage. Both losses find
the few tokens on which it rests: one leaves them without a gradient, the other charges their move.
They compare the tokens of a whole minibatch (``by_row=False``), which is then not passed over in
parts. Source: Cui et al. 2025, arXiv:2505.22617, section 4, with the defaults of its code.
"""

import torch
from torch import Tensor

from tokengym import token_credit
from tokengym.agents.losses import clipped_loss


def covariances(log_probs: Tensor, advantages: Tensor, response_mask: Tensor) -> Tensor:
    """Return (A - mean A) (log pi - mean log pi) of each token, (tokens,), means over the mask."""
    of_tokens = advantages[response_mask], log_probs.detach()[response_mask]
    one, other = (values - values.mean() for values in of_tokens)
    return one * other


def at(places: Tensor, response_mask: Tensor) -> Tensor:
    """Return a mask, (batch, time), that is True at these of the response's tokens."""
    chosen = torch.zeros(int(response_mask.sum()), dtype=torch.bool, device=places.device)
    chosen[places] = True
    return torch.zeros_like(response_mask).masked_scatter(response_mask, chosen)


@token_credit(by_row=False)
def clip_cov(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    clip_range: float,
    clip_range_high: float,
    generator: torch.Generator,
    share: float = 2e-4,
    low: float = 1.0,
    high: float = 5.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """PPO's clipped loss, 0 at a random ``share`` of the tokens of a covariance in (low, high).

    At least one token is left out where there is one; none that the clip leaves without a gradient.
    """
    ranges = {"clip_range": clip_range, "clip_range_high": clip_range_high}
    loss = clipped_loss(log_probs, old_log_probs, advantages, response_mask, **ranges)
    move = (log_probs - old_log_probs).masked_fill(~response_mask, 0.0)
    is_clipped = loss > -move.exp() * advantages
    found = covariances(log_probs, advantages, response_mask)
    among = ((found > low) & (found < high) & ~is_clipped[response_mask]).nonzero()[:, 0]
    count = max(1, int(share * len(found)))
    chosen = among[torch.randperm(len(among), generator=generator)[:count].to(among.device)]
    left_out = at(chosen, response_mask)
    return loss.masked_fill(left_out, 0.0), {"left_out": left_out.sum(1) / response_mask.sum(1)}


@token_credit(by_row=False)
def kl_cov(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    share: float = 2e-4,
    price: float = 1.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """-rho A, and the price of |log rho| at the ``share`` of tokens of the largest covariance."""
    move = (log_probs - old_log_probs).masked_fill(~response_mask, 0.0)
    found = covariances(log_probs, advantages, response_mask)
    chosen = found.topk(max(1, int(share * len(found)))).indices
    charged = at(chosen, response_mask)
    loss = -move.exp() * advantages + charged * price * move.abs()
    return loss, {"charged": charged.sum(1) / response_mask.sum(1)}
