"""A turn's information gain: how much likelier it and its reply made the reference answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tokengym.lab.rules.answer_gain import answers, check_beta
from tokengym.lab.rules.turn_return import turn_ends
from tokengym.rewards import last, on_last, rest_on_last, token_credit

if TYPE_CHECKING:
    from torch import Tensor


@token_credit(cut="turn", conserves=lambda published: not published, check=check_beta)
def turn_gain(
    paid: Tensor,
    response_mask: Tensor,
    turn_ids: Tensor,
    references: Sequence[str | None],
    prompts: Sequence[str],
    ref_log_prob_of: Callable[..., Tensor],
    cue: str = "",
    beta: float = 1.0,
    published: bool = False,
) -> Tensor:
    """Each turn but the last earns what it added to the probability of the reference answer.

    r_k = beta (pi(a | h_k) - pi(a | h_{k-1})) for k < K,  pi(a | h) = exp(mean_j log p(a_j | h))

    h_k is the conversation up to the reply to turn k, which is what the policy found out, and p a
    frozen language model. The last turn earns the episode's score: R minus the gains, so that all
    sum to R, or R alone as published. It is `answer_gain` per turn, in probability in place of
    nats. The answer is scored right after the conversation; ``cue`` is what stands between.

    Args:
        paid: R.
        response_mask: The tokens.
        turn_ids: The turns.
        references: a.
        prompts: Named where one has no answer.
        ref_log_prob_of: As for `answer_gain`. The paper reads the policy that learns, this a frozen
            one.
        cue: As for `answer_gain`.
        beta: Reward units per unit of probability.
        published: Whether the last turn earns the whole score, and the rewards sum to more.

    Source: Wang et al. 2025, IGPO, arXiv:2510.14967. Its advantages are the rewards normalised over
    the group's turns and summed with a discount in turns: the learner's part.
    """
    answer, ends = answers(references, prompts, cue), turn_ends(turn_ids)
    known = ref_log_prob_of(answer, mean=True, ends=ends).exp()
    gains = beta * known.diff(dim=1) * ~last(response_mask)
    if published:
        return gains + on_last(paid, response_mask)
    return rest_on_last(paid, gains, response_mask)
