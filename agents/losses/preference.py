"""The mathematics of learning from preference pairs: pure functions of log-probabilities.

y_w is the chosen and y_l the rejected response. Arguments are (batch,): the log-probability of a
whole response, summed over its own tokens (EOS included when there was one), nats, under the policy
or the frozen reference; where a loss takes the mean per token, it says so.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Ratios(NamedTuple):
    """Input of the losses of `dpo_loss`, each (batch,) or a number."""

    chosen: Tensor
    """log pi(y_w) - log pi_ref(y_w), nats; per token where the loss averages."""
    rejected: Tensor
    """The same of y_l."""
    beta: float
    label_smoothing: float

    @property
    def h(self) -> Tensor:
        """The product beta * (chosen - rejected): the margin between the implicit rewards."""
        return self.beta * (self.chosen - self.rejected)


def _sigmoid(r: Ratios) -> Tensor:
    if r.label_smoothing == 0.0:
        return -F.logsigmoid(r.h)
    clean, flipped = -F.logsigmoid(r.h), -F.logsigmoid(-r.h)
    return (1.0 - r.label_smoothing) * clean + r.label_smoothing * flipped


def _robust(r: Ratios) -> Tensor:
    clean, flipped = -F.logsigmoid(r.h), -F.logsigmoid(-r.h)
    e = r.label_smoothing
    return ((1.0 - e) * clean - e * flipped) / (1.0 - 2.0 * e)


def _hinge(r: Ratios) -> Tensor:
    return torch.relu(1.0 - r.h)


def _ipo(r: Ratios) -> Tensor:
    return (r.chosen - r.rejected - 1.0 / (2.0 * r.beta)) ** 2


def _nca_pair(r: Ratios) -> Tensor:
    chosen, rejected = r.beta * r.chosen, r.beta * r.rejected
    return -F.logsigmoid(chosen) - 0.5 * F.logsigmoid(-chosen) - 0.5 * F.logsigmoid(-rejected)


def _sppo_hard(r: Ratios) -> Tensor:
    return (r.chosen - 0.5 / r.beta) ** 2 + (r.rejected + 0.5 / r.beta) ** 2


def _apo_zero(r: Ratios) -> Tensor:
    return torch.sigmoid(-r.beta * r.chosen) + torch.sigmoid(r.beta * r.rejected)


def _apo_down(r: Ratios) -> Tensor:
    return torch.sigmoid(r.beta * r.chosen) + torch.sigmoid(-r.h)


_DPO_LOSSES: dict[str, Callable[[Ratios], Tensor]] = {
    "sigmoid": _sigmoid,
    "hinge": _hinge,
    "ipo": _ipo,
    "robust": _robust,
    "sigmoid_norm": _sigmoid,
    "nca_pair": _nca_pair,
    "sppo_hard": _sppo_hard,
    "apo_zero": _apo_zero,
    "apo_down": _apo_down,
}
DPO_LOSS_TYPES = tuple(_DPO_LOSSES)
PER_TOKEN_LOSS_TYPES = ("ipo", "sigmoid_norm")
"""Losses of `dpo_loss` that take log-probabilities averaged per token."""
SMOOTHED_LOSS_TYPES = ("sigmoid", "robust", "sigmoid_norm")
"""Losses of `dpo_loss` that know labels which may be wrong."""


def dpo_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    *,
    beta: float,
    loss_type: str,
    label_smoothing: float = 0.0,
    chosen_lengths: Tensor | None = None,
    rejected_lengths: Tensor | None = None,
) -> Tensor:
    """Return each pair's loss under a frozen reference; loss types have TRL's names.

    c = policy_chosen - ref_chosen, r = policy_rejected - ref_rejected, h = beta * (c - r)

    sigmoid       -logsigmoid(h)                              Rafailov et al. 2023, 2305.18290
                  with label_smoothing e > 0 (cDPO): (1-e) * -logsigmoid(h) + e * -logsigmoid(-h)
                                                              Mitchell 2023, "A note on DPO with
                                                              noisy preferences"
    robust        ((1-e) * -logsigmoid(h) - e * -logsigmoid(-h)) / (1 - 2e)
                                                              Chowdhury et al. 2024, 2403.00409
    hinge         relu(1 - h)                                 SLiC, Zhao et al. 2023, 2305.10425
    ipo           (h / beta - 1 / (2 * beta))^2, per token    Azar et al. 2023, 2310.12036
    sigmoid_norm  as sigmoid, per token                       Meng et al. 2024, 2405.14734, table 3
    nca_pair      -logsigmoid(beta c) - (logsigmoid(-beta c) + logsigmoid(-beta r)) / 2
                                                              Chen et al. 2024, 2402.05369
    sppo_hard     (c - 1 / (2 beta))^2 + (r + 1 / (2 beta))^2  Wu et al. 2024, 2405.00675
    apo_zero      sigmoid(-beta c) + sigmoid(beta r)          D'Oosterlinck et al. 2024, 2408.06266
    apo_down      sigmoid(beta c) + sigmoid(-h)               same

    "Per token" losses take log-probabilities averaged over the response's tokens: pass averages,
    or pass sums with the two lengths, which then divide them. The other losses take sums; their
    lengths would change nothing and are not read.

    Args:
        policy_chosen: (batch,), nats, of y_w under the policy.
        policy_rejected: (batch,), of y_l.
        ref_chosen: (batch,), of y_w under the reference.
        ref_rejected: (batch,), of y_l.
        beta: > 0, strength of the pull towards the reference.
        loss_type: One of the above.
        label_smoothing: e in [0, 0.5), the probability that a label is wrong.
        chosen_lengths: (batch,) tokens of y_w; None: a per-token loss was given averages.
        rejected_lengths: (batch,) tokens of y_l.

    Returns:
        (batch,), nats (of squared type: nats squared).

    Raises:
        ValueError: if shapes differ, the loss type is unknown, or a coefficient is out of range.

    Example:
        >>> zero = torch.zeros(1)
        >>> dpo_loss(zero, zero, zero, zero, beta=0.1, loss_type="sigmoid")  # log 2
        tensor([0.6931])
    """
    _check_shapes(
        policy_chosen,
        policy_rejected=policy_rejected,
        ref_chosen=ref_chosen,
        ref_rejected=ref_rejected,
        chosen_lengths=chosen_lengths,
        rejected_lengths=rejected_lengths,
    )
    check_dpo_settings(beta, loss_type, label_smoothing)
    chosen, rejected = policy_chosen - ref_chosen, policy_rejected - ref_rejected
    if loss_type in PER_TOKEN_LOSS_TYPES:
        if (chosen_lengths is None) != (rejected_lengths is None):
            raise ValueError(
                "chosen_lengths and rejected_lengths go together, got one; pass both, or neither "
                "with log-probabilities that are averages already"
            )
        if chosen_lengths is not None and rejected_lengths is not None:
            chosen, rejected = chosen / chosen_lengths, rejected / rejected_lengths
    return _DPO_LOSSES[loss_type](Ratios(chosen, rejected, beta, label_smoothing))


def check_dpo_settings(beta: float, loss_type: str, label_smoothing: float) -> None:
    """Refuse settings that `dpo_loss` does not know.

    Raises:
        ValueError: naming the one that cannot be.
    """
    if loss_type not in _DPO_LOSSES:
        raise ValueError(f"loss_type must be one of {', '.join(_DPO_LOSSES)}, got {loss_type!r}")
    if not beta > 0.0:
        raise ValueError(f"beta must be > 0, got {beta}; 0.1 is usual")
    if not 0.0 <= label_smoothing < 0.5:
        raise ValueError(
            f"label_smoothing must lie in [0, 0.5), got {label_smoothing}; it is the share of "
            "labels that are wrong"
        )
    if label_smoothing and loss_type not in SMOOTHED_LOSS_TYPES:
        raise ValueError(
            f"label_smoothing={label_smoothing} means nothing to loss_type={loss_type!r}; it goes "
            f"with {', '.join(SMOOTHED_LOSS_TYPES)}"
        )


def dpop_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    *,
    beta: float,
    dpop_coef: float,
) -> Tensor:
    """Return DPO-Positive's loss: DPO that does not let y_w become less likely.

    -logsigmoid(h - beta * dpop_coef * max(0, ref_chosen - policy_chosen)), h as in `dpo_loss`

    Args:
        policy_chosen: (batch,), nats; and so are the next three.
        policy_rejected: of y_l.
        ref_chosen: of y_w under the reference.
        ref_rejected: of y_l under the reference.
        beta: > 0.
        dpop_coef: >= 0, the paper's lambda; 0 is DPO.

    Returns:
        (batch,), nats.

    Raises:
        ValueError: if shapes differ.

    Source: Pal et al. 2024, arXiv:2402.13228, eq. 3 (lambda 5 to 500).
    """
    others = {"ref_chosen": ref_chosen, "ref_rejected": ref_rejected}
    _check_shapes(policy_chosen, policy_rejected=policy_rejected, **others)
    h = Ratios(policy_chosen - ref_chosen, policy_rejected - ref_rejected, beta, 0.0).h
    return -F.logsigmoid(h - beta * dpop_coef * torch.relu(ref_chosen - policy_chosen))


def rpo_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    *,
    chosen_lengths: Tensor,
    beta: float,
    nll_coef: float,
) -> Tensor:
    """Return DPO's loss plus the negative log-likelihood of y_w per token.

    -logsigmoid(h) - nll_coef * policy_chosen / chosen_lengths, h as in `dpo_loss`

    Args:
        policy_chosen: (batch,), nats; and so are the next three.
        policy_rejected: of y_l.
        ref_chosen: of y_w under the reference.
        ref_rejected: of y_l under the reference.
        chosen_lengths: (batch,), tokens of y_w.
        beta: > 0.
        nll_coef: >= 0, the paper's alpha; 0 is DPO.

    Returns:
        (batch,), nats.

    Raises:
        ValueError: if shapes differ.

    Source: Pang et al. 2024, iterative RPO, arXiv:2404.19733, eq. 1 (alpha 1).
    """
    _check_shapes(policy_chosen, chosen_lengths=chosen_lengths)
    preference = dpo_loss(
        policy_chosen, policy_rejected, ref_chosen, ref_rejected, beta=beta, loss_type="sigmoid"
    )
    return preference - nll_coef * policy_chosen / chosen_lengths


def simpo_loss(
    policy_chosen: Tensor, policy_rejected: Tensor, *, beta: float, gamma: float
) -> Tensor:
    """Return SimPO's loss, which needs no reference.

    -logsigmoid(beta * (policy_chosen - policy_rejected) - gamma)

    Args:
        policy_chosen: (batch,), nats per token: averaged over y_w.
        policy_rejected: (batch,), averaged over y_l.
        beta: > 0; 2.0 in the paper.
        gamma: >= 0, the margin that is wanted; 0.5 to 1.6 in the paper.

    Returns:
        (batch,), nats.

    Raises:
        ValueError: if shapes differ.

    Source: Meng et al. 2024, arXiv:2405.14734, eq. 6.
    """
    _check_shapes(policy_chosen, policy_rejected=policy_rejected)
    return -F.logsigmoid(beta * (policy_chosen - policy_rejected) - gamma)


def cpo_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    *,
    chosen_lengths: Tensor,
    beta: float,
    nll_coef: float,
) -> Tensor:
    """Return CPO's loss: DPO under a uniform reference, plus the likelihood of y_w per token.

    -logsigmoid(beta * (policy_chosen - policy_rejected))
        - nll_coef * policy_chosen / chosen_lengths

    Args:
        policy_chosen: (batch,), nats.
        policy_rejected: (batch,).
        chosen_lengths: (batch,), tokens of y_w. The paper's likelihood is summed, its code's is
            averaged per token, as here.
        beta: > 0.
        nll_coef: >= 0; 1 in the paper.

    Returns:
        (batch,), nats.

    Raises:
        ValueError: if shapes differ.

    Source: Xu et al. 2024, arXiv:2401.08417, eq. 5 to 7.
    """
    _check_shapes(policy_chosen, policy_rejected=policy_rejected, chosen_lengths=chosen_lengths)
    preference = -F.logsigmoid(beta * (policy_chosen - policy_rejected))
    return preference - nll_coef * policy_chosen / chosen_lengths


def orpo_loss(policy_chosen: Tensor, policy_rejected: Tensor, *, beta: float) -> Tensor:
    """Return ORPO's loss: likelihood of y_w plus the log odds ratio, without a reference.

    log odds = l - log(1 - exp(l)), l the mean log-probability per token
    -policy_chosen + beta * -logsigmoid(log odds(policy_chosen) - log odds(policy_rejected))

    Args:
        policy_chosen: (batch,), nats per token: averaged over y_w, < 0.
        policy_rejected: (batch,), averaged over y_l, < 0.
        beta: > 0, the paper's lambda; 0.1 to 0.25 there.

    Returns:
        (batch,), nats.

    Raises:
        ValueError: if shapes differ.

    Source: Hong et al. 2024, arXiv:2403.07691, eq. 4 to 7.
    """
    _check_shapes(policy_chosen, policy_rejected=policy_rejected)
    log_odds = _log_odds(policy_chosen) - _log_odds(policy_rejected)
    return -policy_chosen - beta * F.logsigmoid(log_odds)


def _log_odds(log_probs: Tensor) -> Tensor:
    """Return log(p / (1 - p)) of log p < 0.

    1 - p is -expm1(log p): exact where p is near 1, unlike 1 - exp(log p).
    """
    return log_probs - torch.log(-torch.expm1(log_probs))


def _check_shapes(expected: Tensor, **others: Tensor | None) -> None:
    """Raise unless all tensors are (batch,), of one batch."""
    if expected.dim() != 1:
        raise ValueError(
            f"log-probabilities must have shape (batch,), got {tuple(expected.shape)}; sum them "
            "over each response's tokens first"
        )
    for name, tensor in others.items():
        if tensor is not None and tensor.shape != expected.shape:
            raise ValueError(
                f"{name} must have shape {tuple(expected.shape)}, got {tuple(tensor.shape)}; pass "
                "one value per pair"
            )
