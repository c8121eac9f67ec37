"""Which loss a pair is learned by: its name and coefficients, checked when chosen."""

from dataclasses import dataclass

from torch import Tensor

from tokengym.agents.losses import preference as losses

REFERENCE_FREE = ("simpo", "orpo", "cpo")
LOSS_TYPES = (*losses.DPO_LOSS_TYPES, "dpop", "rpo", *REFERENCE_FREE)


@dataclass(frozen=True, kw_only=True)
class PairLogProbs:
    """What a loss reads of a batch of pairs, each (batch,); log-probabilities are sums, nats."""

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
        """(chosen, rejected) under the reference, or what implicit rewards count from without it.

        Reference-free losses are those of a uniform reference: its log-probabilities are constants
        that TRL's CPO and ORPO log as 0 too.
        """
        if self.ref_chosen is None or self.ref_rejected is None:
            return self.policy_chosen.new_zeros(()), self.policy_chosen.new_zeros(())
        return self.ref_chosen, self.ref_rejected


@dataclass(frozen=True, kw_only=True)
class PreferenceLoss:
    """A loss of `agents.losses` with its coefficients.

    Raises:
        ValueError: if the loss is unknown or a coefficient is out of range.
    """

    loss_type: str = "sigmoid"
    """Of `dpo_loss`, or "dpop", "rpo", "simpo", "orpo", "cpo" (the last three need no reference).
    "sigmoid" is DPO, arXiv:2305.18290."""
    beta: float = 0.1
    """Strength of the pull towards the reference; 0.1 in DPO. SimPO wants about 2."""
    label_smoothing: float = 0.0
    """Share of wrong labels, for "sigmoid" (cDPO), "sigmoid_norm" and "robust"."""
    gamma: float = 1.0
    """SimPO's margin; 0.5 to 1.6 in arXiv:2405.14734."""
    nll_coef: float = 1.0
    """Weight of y_w's likelihood in RPO and CPO; 1 in both papers."""
    dpop_coef: float = 50.0
    """DPOP's penalty; 5 to 500 in arXiv:2402.13228."""

    def __post_init__(self) -> None:
        if self.loss_type not in LOSS_TYPES:
            raise ValueError(
                f"loss_type must be one of {', '.join(LOSS_TYPES)}, got {self.loss_type!r}"
            )
        if self.label_smoothing and self.loss_type not in losses.SMOOTHED_LOSS_TYPES:
            raise ValueError(
                f"label_smoothing={self.label_smoothing} means nothing to loss_type="
                f"{self.loss_type!r}; it goes with {', '.join(losses.SMOOTHED_LOSS_TYPES)}"
            )
        losses.check_dpo_settings(self.beta, "sigmoid", self.label_smoothing)
        for name in ("gamma", "nll_coef", "dpop_coef"):
            if not getattr(self, name) >= 0.0:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}; 0 turns it off")

    @property
    def needs_reference(self) -> bool:
        """Whether the loss reads log-probabilities under a reference."""
        return self.loss_type not in REFERENCE_FREE

    def __call__(self, pairs: PairLogProbs) -> Tensor:
        """Return the loss of each pair, (batch,)."""
        chosen, rejected = pairs.policy_chosen, pairs.policy_rejected
        if self.loss_type == "cpo":
            return losses.cpo_loss(
                chosen,
                rejected,
                chosen_lengths=pairs.chosen_lengths,
                beta=self.beta,
                nll_coef=self.nll_coef,
            )
        if self.loss_type in REFERENCE_FREE:
            chosen, rejected = chosen / pairs.chosen_lengths, rejected / pairs.rejected_lengths
            if self.loss_type == "orpo":
                return losses.orpo_loss(chosen, rejected, beta=self.beta)
            return losses.simpo_loss(chosen, rejected, beta=self.beta, gamma=self.gamma)
        four = (chosen, rejected, *pairs.reference)
        if self.loss_type == "dpop":
            return losses.dpop_loss(*four, beta=self.beta, dpop_coef=self.dpop_coef)
        if self.loss_type == "rpo":
            return losses.rpo_loss(
                *four,
                chosen_lengths=pairs.chosen_lengths,
                beta=self.beta,
                nll_coef=self.nll_coef,
            )
        return losses.dpo_loss(
            *four,
            beta=self.beta,
            loss_type=self.loss_type,
            label_smoothing=self.label_smoothing,
            chosen_lengths=pairs.chosen_lengths,
            rejected_lengths=pairs.rejected_lengths,
        )
