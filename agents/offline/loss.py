"""The loss of a batch of pairs, as `PreferenceLoss` names it."""

from dataclasses import dataclass

from torch import Tensor

from tokengym.agents.losses import preference as losses
from tokengym.agents.offline.settings import REFERENCE_FREE, PreferenceLoss


@dataclass(frozen=True, kw_only=True)
class PairLogProbs:
    """Input of a loss, each (batch,); log-probabilities are sums over a response, nats."""

    policy_chosen: Tensor
    policy_rejected: Tensor
    chosen_lengths: Tensor
    """Response tokens of y_w."""
    rejected_lengths: Tensor
    """Response tokens of y_l."""
    ref_chosen: Tensor | None = None
    """None: the loss needs no reference."""
    ref_rejected: Tensor | None = None

    @property
    def reference(self) -> tuple[Tensor, Tensor]:
        """(chosen, rejected) under the reference; 0 without one.

        Reference-free losses are those of a uniform reference: its log-probabilities are constants
        that TRL's CPO and ORPO log as 0 too.
        """
        if self.ref_chosen is None or self.ref_rejected is None:
            return self.policy_chosen.new_zeros(()), self.policy_chosen.new_zeros(())
        return self.ref_chosen, self.ref_rejected


def pair_losses(settings: PreferenceLoss, pairs: PairLogProbs) -> Tensor:
    """Return the loss of each pair, (batch,).

    Args:
        settings: The loss and its coefficients.
        pairs: Log-probabilities of the batch.
    """
    chosen, rejected = pairs.policy_chosen, pairs.policy_rejected
    if settings.loss_type == "cpo":
        return losses.cpo_loss(
            chosen,
            rejected,
            chosen_lengths=pairs.chosen_lengths,
            beta=settings.beta,
            nll_coef=settings.nll_coef,
        )
    if settings.loss_type in REFERENCE_FREE:
        chosen, rejected = chosen / pairs.chosen_lengths, rejected / pairs.rejected_lengths
        if settings.loss_type == "orpo":
            return losses.orpo_loss(chosen, rejected, beta=settings.beta)
        return losses.simpo_loss(chosen, rejected, beta=settings.beta, gamma=settings.gamma)
    four = (chosen, rejected, *pairs.reference)
    if settings.loss_type == "dpop":
        return losses.dpop_loss(*four, beta=settings.beta, dpop_coef=settings.dpop_coef)
    if settings.loss_type == "rpo":
        return losses.rpo_loss(
            *four,
            chosen_lengths=pairs.chosen_lengths,
            beta=settings.beta,
            nll_coef=settings.nll_coef,
        )
    return losses.dpo_loss(
        *four,
        beta=settings.beta,
        loss_type=settings.loss_type,
        label_smoothing=settings.label_smoothing,
        chosen_lengths=pairs.chosen_lengths,
        rejected_lengths=pairs.rejected_lengths,
    )
