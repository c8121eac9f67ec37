"""ABC-D and ABC-D2: credit by the attention of the policy itself, not of the reward model."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

from tokengym.rewards import last, shares, token_credit

if TYPE_CHECKING:
    from torch import Tensor


def _former(options: SimpleNamespace) -> None:
    options.reference = options.reference or options.model


@token_credit(beta=0.8, check=_former)
def abc_d(
    paid: Tensor, response_mask: Tensor, ref_attention: Tensor, model: str | None = None
) -> Tensor:
    """Each token earns its share of the score by how much the policy looked back at it later on.

    Weight of token t: the attention it received from the steps after it, on average over them, in
    the last layer's head mean (`received_attention`). Any scorer will do.

    It is read by a frozen language model: the one given, or the environment's reference policy.
    That one is where learning starts; as the policy moves away it becomes a stand-in, whose weights
    stay comparable over a whole run and cost one forward pass.

    Args:
        paid: R.
        response_mask: The tokens.
        ref_attention: a of the reference, or of ``reference=PATH``.
        model: Former name of ``reference``, for words that are stored.

    Source: Chan et al. 2024, arXiv:2402.00782, ABC-D.
    """
    weights = received_attention(ref_attention, response_mask)
    return paid[:, None] * shares(weights, response_mask)


@token_credit(beta=0.8, check=_former)
def abc_d2(
    paid: Tensor, response_mask: Tensor, ref_attention: Tensor, model: str | None = None
) -> Tensor:
    """Each token earns its share of the score by how much the policy looked at it at the end.

    ABC-D by the attention of the last step alone.

    Args:
        paid: R.
        response_mask: The tokens.
        ref_attention: As for `abc_d`.
        model: Likewise.

    Source: Chan et al. 2024, arXiv:2402.00782, the variant ABC-D2.
    """
    weights = last_written_row(ref_attention, response_mask)
    return paid[:, None] * shares(weights, response_mask)


def received_attention(attention: Tensor, response_mask: Tensor) -> Tensor:
    """Return how much attention each token received from the steps that came after it.

    alpha_t = 1 / (n - 1 - t) * sum_{s = t}^{n - 2} a_st;   alpha_{n-1} = 0

    Row s of ``attention`` is the query of token s, the one that wrote token s + 1. The last token
    was written when nothing followed that could look at it.

    Args:
        attention: (batch, time, time) a, query by key.
        response_mask: (batch, time) bool.

    Returns:
        (batch, time) >= 0, not normalised.

    Source: ABC-D of Chan et al. 2024, arXiv:2402.00782.
    """
    wrote = response_mask & ~last(response_mask)
    received = (attention.tril() * wrote[:, :, None]).sum(1)
    return received / wrote.flip(1).cumsum(1).flip(1).clamp(min=1)


def last_written_row(attention: Tensor, response_mask: Tensor) -> Tensor:
    """Return what the step that wrote the last token attended to.

    alpha_t = a_{n-2, t} for t <= n - 2;   alpha_{n-1} = 0

    Args:
        attention: As for `received_attention`.
        response_mask: Likewise.

    Returns:
        (batch, time) >= 0, not normalised; all 0 for one token, which only the prompt preceded.

    Source: ABC-D2 of Chan et al. 2024, arXiv:2402.00782.
    """
    wrote = last(response_mask & ~last(response_mask))
    return (attention.tril() * wrote[:, :, None]).sum(1)
