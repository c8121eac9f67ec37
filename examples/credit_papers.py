"""Token credit of papers of 2025 and 2026, each as a function that names what it reads.

    tokengym compare --agents rloo ppo:advantage=examples/credit_papers.py:sdpo,group_size=8 \
        ppo:advantage=rloo,weights=examples/credit_papers.py:sa_ah,group_size=8

Estimators (``advantage=``): `sdpo`, `spo`. Weights (``weights=``): `sweet_spot` with `sdpo` is
SC-SDPO; `sa_ah`, `top_entropy`, `arca`. Signs are kept, and no weight is rescaled to a mean of 1
but where its paper does. Policy losses are in `entropy_losses` (Clip-Cov, KL-Cov) and have names
of their own ("gspo", "cispo", "sapo").
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from tokengym import token_credit
from tokengym.agents.losses import mean_one


def mean_of_groups(values: Tensor, group_ids: Tensor) -> Tensor:
    """Return the mean of each row's group, (batch,)."""
    is_same = group_ids[:, None] == group_ids
    return (is_same * values).sum(1) / is_same.sum(1)


# --- advantage= -----------------------------------------------------------------------------------


@token_credit(by_row=False)
def sdpo(
    log_probs: Tensor,
    log_probs_after: Callable[[Sequence[str]], Tensor],
    responses: Sequence[str],
    scores: Tensor,
    group_ids: Tensor,
    response_mask: Tensor,
    success: float = 0.5,
) -> Tensor:
    """SDPO: A_t = log pi(y_t | solution, x, y_<t) - log pi(y_t | x, y_<t).

    The solution is the first other response of the group whose score is at least ``success``; a
    row that has none does not learn. Its text stands before the prompt. The teacher is the policy
    itself; the paper's is its running mean, and its loss is over the whole vocabulary by default.
    Hübotter et al. 2026, arXiv:2601.20802, by its code's form for sampled tokens.
    """
    is_shown = (group_ids[:, None] == group_ids) & (scores >= success)
    is_shown.fill_diagonal_(False)
    first, has_one = is_shown.int().argmax(1).tolist(), is_shown.any(1)
    shown = [
        f"Correct solution:\n\n{responses[row]}\n\n" if has else ""
        for row, has in zip(first, has_one.tolist(), strict=True)
    ]
    return (log_probs_after(shown) - log_probs) * (response_mask & has_one[:, None])


@token_credit(by_row=False)
def spo(
    scores: Tensor,
    continue_from: Callable[[int, Tensor], Tensor],
    log_probs: Tensor,
    group_ids: Tensor,
    response_mask: Tensor,
    k: int = 9,
    unsure: float = 0.9,
    every: int = 5,
) -> Tensor:
    """SPO-chain: what a segment changed in the score to come, paid to its unsure tokens.

    A token is unsure where pi < ``unsure``; a segment begins with every fifth of them and with the
    response. A_t = V(behind t's segment) - V(before it) at unsure tokens, 0 at others; V is the
    mean score of k continuations, and of the prompt, which needs none here, the group's mean.
    Guo et al. 2025, arXiv:2505.23564.
    """
    is_unsure = (log_probs.exp() < unsure) & response_mask
    begins = is_unsure & ((is_unsure.cumsum(1) - 1) % every == 0)
    begins[:, 0] = True
    is_last = response_mask & ~pad(response_mask[:, 1:], (0, 1))
    ends = pad(begins[:, 1:], (0, 1)) & response_mask | is_last
    segment = begins.cumsum(1) - 1
    values = continue_from(k, ends).to(log_probs)
    behind = torch.zeros_like(log_probs).scatter_add(1, segment, values * ends)
    before = torch.cat([mean_of_groups(scores, group_ids)[:, None], behind[:, :-1]], dim=1)
    return (behind - before).gather(1, segment) * is_unsure


# --- weights= -------------------------------------------------------------------------------------


@token_credit(by_row=False)
def sweet_spot(
    scores: Tensor, group_ids: Tensor, response_mask: Tensor, success: float = 0.5
) -> Tensor:
    """SC-SDPO, under ``advantage=sdpo``: sqrt(p (1 - p)) of a prompt, over its mean in the batch.

    p is the share of the group whose score is at least ``success``; 0 where none of the batch's
    prompts is between. Liu et al. 2026, arXiv:2605.27765.
    """
    passed = mean_of_groups((scores >= success).to(scores.dtype), group_ids)
    weights = (passed * (1 - passed)).sqrt()
    return (weights / weights.mean().clamp(min=1e-8))[:, None] * response_mask


@token_credit
def sa_ah(
    entropy: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    alpha: float = 0.5,
    vocabulary: int = 151_936,
) -> Tensor:
    """SA-AH-GRPO: bad responses are discounted by the entropy so far, good ones are not.

    w_t = exp(-alpha sum_{s<t} H_s / log |V|) where A_t < 0, else 1; the vocabulary's default is
    that of the paper's models. Chawla et al. 2026, arXiv:2606.05434, whose text was not at hand to
    say whether its sum includes s = t.
    """
    before = (entropy.cumsum(1) - entropy) / math.log(vocabulary)
    return torch.where(advantages < 0, (-alpha * before).exp(), 1.0) * response_mask


@token_credit(by_row=False)
def top_entropy(entropy: Tensor, response_mask: Tensor, share: float = 0.2) -> Tensor:
    """80/20: 1 on the share of a batch's tokens with the highest entropy, 0 elsewhere.

    Wang et al. 2025, arXiv:2506.01939; "entropy" has the share of each response.
    """
    is_top = entropy >= entropy[response_mask].quantile(1 - share)
    return (is_top & response_mask).to(entropy.dtype)


@token_credit
def arca(hidden_states: Tensor, ref_hidden_states: Tensor, response_mask: Tensor) -> Tensor:
    """ARCA: ||h_t of the adapted policy - h_t of its base||, mean 1 over each response.

    Equal weights where the adapter has changed nothing yet. Lafuente-Mercado 2026,
    arXiv:2606.00257.
    """
    return mean_one((hidden_states - ref_hidden_states).norm(dim=-1), response_mask)
