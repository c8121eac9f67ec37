"""The score spread by signed attributions: gradients, or leaving tokens out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tokengym.rewards import each_alone, rescaled, rest_on_last, token_credit

if TYPE_CHECKING:
    from torch import Tensor

ROUNDING = 1e-6
"""Share of a score, or of 1 where that is more, up to which two scores differ by rounding."""


@token_credit
def gradient(paid: Tensor, gradient: Tensor, response_mask: Tensor, rescale: bool = True) -> Tensor:
    """Each token earns what it did to the score by its gradient, good or bad.

    a_t = e_t . dR/de_t, e_t the embedding of token t; a forward and a backward pass.

    Args:
        paid: R.
        gradient: a.
        response_mask: The tokens.
        rescale: Whether the parts are scaled to sum to the score (`rescaled`), or keep their size
            and leave what they miss on the last token.

    Source: Simonyan et al. 2014, arXiv:1312.6034.
    """
    spread = rescaled if rescale else rest_on_last
    return spread(paid, gradient, response_mask)


@token_credit
def integrated_gradients(
    paid: Tensor, integrated_gradients: Tensor, response_mask: Tensor, rescale: bool = True
) -> Tensor:
    """Each token earns what it did to the score by integrated gradients, good or bad.

    They sum to R minus the score of a blank response, whose embeddings are 0, or EOS's in models
    with RMSNorm.

    a_t = (e_t - blank) . mean of dR/de_t along the straight line from a blank response to the
    own one; as many forward and backward passes as the line has points.

    Args:
        paid: R.
        integrated_gradients: a.
        response_mask: The tokens.
        rescale: As for `gradient`.

    Source: Sundararajan et al. 2017, arXiv:1703.01365.
    """
    spread = rescaled if rescale else rest_on_last
    return spread(paid, integrated_gradients, response_mask)


@token_credit
def deeplift(paid: Tensor, deeplift: Tensor, response_mask: Tensor, rescale: bool = True) -> Tensor:
    """Each token earns what it did to the score by DeepLIFT, good or bad.

    The parts sum to R minus the score of a blank response.

    a_t = (e_t - blank) . m_t, multipliers that carry the whole change of score from a blank
    response through the model; a pass over twice the texts and its backward pass.

    Args:
        paid: R.
        deeplift: a.
        response_mask: The tokens.
        rescale: As for `gradient`.

    Source: Shrikumar et al. 2017, arXiv:1704.02685.
    """
    spread = rescaled if rescale else rest_on_last
    return spread(paid, deeplift, response_mask)


@token_credit
def leave_one_out(
    paid: Tensor,
    score_without: Callable[[Tensor], Tensor],
    response_mask: Tensor,
    rescale: bool = True,
) -> Tensor:
    """Each token earns what leaving it out does to the score, good or bad, of any scorer.

    a_t = R(x, y) - R(x, y without t), and 0 where |a_t| <= 1e-6 max(1, |R|), which is what a model
    rounds in batches of other texts; n further scorings.

    Args:
        paid: R; the score as given, so that centring and clipping are in both terms.
        score_without: R of the response without some tokens.
        response_mask: The tokens.
        rescale: As for `gradient`.
    """
    parts = paid[:, None] - score_without(each_alone(response_mask))
    # Scaled to the score, the last digits of two passes would be all of it.
    parts = parts.where(parts.abs() > ROUNDING * paid.abs().clamp(min=1.0)[:, None], 0.0)
    spread = rescaled if rescale else rest_on_last
    return spread(paid, parts, response_mask)
