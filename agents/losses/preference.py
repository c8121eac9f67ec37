"""The mathematics of learning from preference pairs: one table of pure functions.

y_w is the chosen and y_l the rejected response. A loss is a function of `Ratios` with a declaration
of what it reads; `register_preference_loss` enters both in the table, from which settings, command
line and trainer take them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tokengym.agents.losses.policy import at_least_float32


class Ratios(NamedTuple):
    """Input of a preference loss, each (batch,) or a number."""

    chosen: Tensor
    """c = log pi(y_w) - log pi_ref(y_w), nats; per token where the loss averages; log pi(y_w) alone
    where it has no reference."""
    rejected: Tensor
    """r, the same of y_l."""
    policy_chosen: Tensor
    """log pi(y_w), nats, summed over the response."""
    chosen_lengths: Tensor | None
    """Tokens of y_w; None unless the loss reads them."""
    beta: float
    """Strength of the pull towards the reference."""
    label_smoothing: float = 0.0
    """e, the probability that a label is wrong."""
    gamma: float = math.nan
    """Margin that is wanted; this and the next two are numbers where the loss says that it reads
    them."""
    nll_coef: float = math.nan
    """Weight of the likelihood of y_w."""
    dpop_coef: float = math.nan
    """Price of y_w becoming less likely."""

    @property
    def h(self) -> Tensor:
        """The product beta * (c - r): the margin between the implicit rewards."""
        return self.beta * (self.chosen - self.rejected)

    @property
    def nll(self) -> Tensor:
        """The weighted negative log-likelihood of y_w per token, nats."""
        if self.chosen_lengths is None:
            raise ValueError("the likelihood per token needs chosen_lengths, got None; pass them")
        return -self.nll_coef * self.policy_chosen / self.chosen_lengths


Formula = Callable[[Ratios], Tensor]


@dataclass(frozen=True, kw_only=True)
class PreferenceFormula:
    """Declaration of a preference loss."""

    name: str
    """Its name, as ``loss_type=`` takes it; TRL's where TRL has the loss."""
    formula: Formula
    """Loss of each pair, (batch,); its docstring states formula and source."""
    reads: tuple[str, ...] = ()
    """Coefficients of `Ratios` that it reads beside beta."""
    has_reference: bool = True
    """Whether it compares the policy with a reference."""
    per_token: bool = False
    """Whether c and r are averages over the response's tokens."""


PREFERENCE_LOSSES: dict[str, PreferenceFormula] = {}
"""The losses by name."""


def register_preference_loss(
    name: str, *reads: str, has_reference: bool = True, per_token: bool = False
) -> Callable[[Formula], Formula]:
    """Enter the decorated function in the table; see `PreferenceFormula` for the arguments."""

    def register(formula: Formula) -> Formula:
        PREFERENCE_LOSSES[name] = PreferenceFormula(
            name=name,
            formula=formula,
            reads=reads,
            has_reference=has_reference,
            per_token=per_token,
        )
        return formula

    return register


@register_preference_loss("sigmoid", "label_smoothing")
def _sigmoid(x: Ratios) -> Tensor:
    """-logsigmoid(h): DPO, Rafailov et al. 2023, arXiv:2305.18290.

    With label_smoothing e > 0, (1-e) * -logsigmoid(h) + e * -logsigmoid(-h): cDPO, Mitchell 2023,
    "A note on DPO with noisy preferences".
    """
    if x.label_smoothing == 0.0:
        return -F.logsigmoid(x.h)
    clean, flipped = -F.logsigmoid(x.h), -F.logsigmoid(-x.h)
    return (1.0 - x.label_smoothing) * clean + x.label_smoothing * flipped


@register_preference_loss("hinge")
def _hinge(x: Ratios) -> Tensor:
    """relu(1 - h): SLiC, Zhao et al. 2023, arXiv:2305.10425."""
    return torch.relu(1.0 - x.h)


@register_preference_loss("ipo", per_token=True)
def _ipo(x: Ratios) -> Tensor:
    """(c - r - 1 / (2 * beta))^2 in nats squared, per token: Azar et al. 2023, arXiv:2310.12036."""
    return (x.chosen - x.rejected - 1.0 / (2.0 * x.beta)) ** 2


@register_preference_loss("robust", "label_smoothing")
def _robust(x: Ratios) -> Tensor:
    """((1-e) * -logsigmoid(h) - e * -logsigmoid(-h)) / (1 - 2e).

    Chowdhury et al. 2024, arXiv:2403.00409.
    """
    clean, flipped = -F.logsigmoid(x.h), -F.logsigmoid(-x.h)
    e = x.label_smoothing
    return ((1.0 - e) * clean - e * flipped) / (1.0 - 2.0 * e)


register_preference_loss("sigmoid_norm", "label_smoothing", per_token=True)(_sigmoid)
"""As sigmoid, per token: Meng et al. 2024, arXiv:2405.14734, table 3."""


@register_preference_loss("nca_pair")
def _nca_pair(x: Ratios) -> Tensor:
    """-logsigmoid(beta c) - (logsigmoid(-beta c) + logsigmoid(-beta r)) / 2.

    Chen et al. 2024, arXiv:2402.05369.
    """
    chosen, rejected = x.beta * x.chosen, x.beta * x.rejected
    return -F.logsigmoid(chosen) - 0.5 * F.logsigmoid(-chosen) - 0.5 * F.logsigmoid(-rejected)


@register_preference_loss("sppo_hard")
def _sppo_hard(x: Ratios) -> Tensor:
    """(c - 1 / (2 beta))^2 + (r + 1 / (2 beta))^2: Wu et al. 2024, arXiv:2405.00675."""
    return (x.chosen - 0.5 / x.beta) ** 2 + (x.rejected + 0.5 / x.beta) ** 2


@register_preference_loss("apo_zero")
def _apo_zero(x: Ratios) -> Tensor:
    """sigmoid(-beta c) + sigmoid(beta r): D'Oosterlinck et al. 2024, arXiv:2408.06266."""
    return torch.sigmoid(-x.beta * x.chosen) + torch.sigmoid(x.beta * x.rejected)


@register_preference_loss("apo_down")
def _apo_down(x: Ratios) -> Tensor:
    """sigmoid(beta c) + sigmoid(-h): the same paper."""
    return torch.sigmoid(x.beta * x.chosen) + torch.sigmoid(-x.h)


@register_preference_loss("dpop", "dpop_coef")
def _dpop(x: Ratios) -> Tensor:
    """-logsigmoid(h - beta * dpop_coef * max(0, -c)), so that y_w does not become less likely.

    Pal et al. 2024, arXiv:2402.13228, eq. 3 (dpop_coef is lambda, 5 to 500; 0 is DPO).
    """
    return -F.logsigmoid(x.h - x.beta * x.dpop_coef * torch.relu(-x.chosen))


@register_preference_loss("rpo", "nll_coef")
def _rpo(x: Ratios) -> Tensor:
    """-logsigmoid(h) - nll_coef * log pi(y_w) / tokens of y_w.

    Pang et al. 2024, iterative RPO, arXiv:2404.19733, eq. 1 (nll_coef is alpha, 1; 0 is DPO).
    """
    return -F.logsigmoid(x.h) + x.nll


@register_preference_loss("simpo", "gamma", has_reference=False, per_token=True)
def _simpo(x: Ratios) -> Tensor:
    """-logsigmoid(h - gamma), per token: Meng et al. 2024, arXiv:2405.14734, eq. 6.

    beta 2.0 and gamma 0.5 to 1.6 in the paper.
    """
    return -F.logsigmoid(x.h - x.gamma)


@register_preference_loss("orpo", has_reference=False, per_token=True)
def _orpo(x: Ratios) -> Tensor:
    """-c - beta * logsigmoid(log_odds(c) - log_odds(r)), per token, c and r <= 0.

    Hong et al. 2024, arXiv:2403.07691, eq. 4 to 7 (beta is lambda, 0.1 to 0.25).
    """
    log_odds = _log_odds(x.chosen) - _log_odds(x.rejected)
    return -x.chosen - x.beta * F.logsigmoid(log_odds)


@register_preference_loss("cpo", "nll_coef", has_reference=False)
def _cpo(x: Ratios) -> Tensor:
    """-logsigmoid(h) - nll_coef * log pi(y_w) / tokens of y_w: DPO under a uniform reference.

    Xu et al. 2024, arXiv:2401.08417, eq. 5 to 7 (nll_coef 1). The paper's likelihood is summed, its
    code's is averaged per token, as here.
    """
    return -F.logsigmoid(x.h) + x.nll


def _log_odds(log_probs: Tensor) -> Tensor:
    """Return log(p / (1 - p)), (batch,), of log p; 0 is taken as the nearest below in float32.

    1 - p is -expm1(log p): exact where p is near 1, unlike 1 - exp(log p).
    """
    log_probs = at_least_float32(log_probs)
    # Moved and not clamped: the gradient of a model that is sure is finite, and not 0.
    nearest = -torch.finfo(torch.float32).eps / 2
    log_probs = log_probs - (log_probs.detach() - nearest).clamp(min=0.0)
    return log_probs - torch.log(-torch.expm1(log_probs))


def check_preference_loss(
    loss_type: str, *, beta: float, **coefficients: float
) -> PreferenceFormula:
    """Return the loss of a name, and refuse coefficients that mean nothing to it.

    Raises:
        ValueError: naming the value and the remedy.
    """
    if loss_type not in PREFERENCE_LOSSES:
        raise ValueError(
            f"loss_type must be one of {', '.join(PREFERENCE_LOSSES)}, got {loss_type!r}"
        )
    loss = PREFERENCE_LOSSES[loss_type]
    if not beta > 0.0:
        raise ValueError(f"beta must be > 0, got {beta}; 0.1 is usual")
    if not 0.0 <= (smoothing := coefficients.get("label_smoothing", 0.0)) < 0.5:
        raise ValueError(
            f"label_smoothing must lie in [0, 0.5), got {smoothing}; it is the share of labels "
            "that are wrong"
        )
    for name, value in coefficients.items():
        if name not in loss.reads and not (name == "label_smoothing" and value == 0.0):
            readers = [other.name for other in PREFERENCE_LOSSES.values() if name in other.reads]
            raise ValueError(
                f"{name}={value} means nothing to loss_type={loss_type!r}; it goes with "
                f"{', '.join(readers)}"
            )
    return loss


def dpo_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    ref_chosen: Tensor | None = None,
    ref_rejected: Tensor | None = None,
    *,
    beta: float,
    loss_type: str,
    label_smoothing: float = 0.0,
    chosen_lengths: Tensor | None = None,
    rejected_lengths: Tensor | None = None,
    **coefficients: float,
) -> Tensor:
    """Return each pair's loss by a formula of `PREFERENCE_LOSSES`; most have TRL's names.

    c = policy_chosen - ref_chosen, r = policy_rejected - ref_rejected, h = beta * (c - r);
    without a reference c = policy_chosen, r = policy_rejected

    The formulas of c, r and h stand at the functions. Arguments are log-probabilities of whole
    responses, summed over their own tokens, EOS included when there was one. "Per token" losses
    take averages: pass averages, or pass sums with the two lengths, which then divide them.

    Args:
        policy_chosen: (batch,), nats, of y_w under the policy.
        policy_rejected: (batch,), of y_l.
        ref_chosen: (batch,), of y_w under the frozen reference; None for a loss that has none.
        ref_rejected: (batch,), of y_l.
        beta: > 0, strength of the pull towards the reference.
        loss_type: Name of the loss.
        label_smoothing: e in [0, 0.5), the probability that a label is wrong.
        chosen_lengths: (batch,) tokens of y_w; None: a per-token loss was given averages.
        rejected_lengths: (batch,) tokens of y_l.
        coefficients: Those that the loss reads beside these: gamma, nll_coef or dpop_coef, >= 0.

    Returns:
        (batch,), nats (of squared type: nats squared).

    Raises:
        ValueError: if shapes differ, the loss type is unknown, or a coefficient or reference is
            missing, out of range or not read.

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
    given = {"label_smoothing": label_smoothing, **coefficients}
    loss = check_preference_loss(loss_type, beta=beta, **given)
    if missing := [name for name in loss.reads if name not in given]:
        raise ValueError(f"loss_type={loss_type!r} reads {missing[0]}; pass {missing[0]}=")
    chosen, rejected = policy_chosen, policy_rejected
    if loss.has_reference:
        if ref_chosen is None or ref_rejected is None:
            raise ValueError(
                f"loss_type={loss_type!r} needs ref_chosen and ref_rejected; pass both"
            )
        chosen, rejected = chosen - ref_chosen, rejected - ref_rejected
    if loss.per_token:
        if (chosen_lengths is None) != (rejected_lengths is None):
            raise ValueError(
                "chosen_lengths and rejected_lengths go together, got one; pass both, or neither "
                "with log-probabilities that are averages already"
            )
        if chosen_lengths is not None and rejected_lengths is not None:
            chosen, rejected = chosen / chosen_lengths, rejected / rejected_lengths
    return loss.formula(Ratios(chosen, rejected, policy_chosen, chosen_lengths, beta, **given))


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
