"""What one update learns from: the rollout of one round, with rewards turned into advantages."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from tokengym.agents import losses
from tokengym.agents.sequences import ActionMasks, Sequences


@dataclass(frozen=True, kw_only=True)
class Experience:
    """Responses with what PPO knows of each token; 0 past a response's end."""

    sequences: Sequences
    """Prompts and responses, ``len()`` = batch."""
    action_masks: ActionMasks | None
    """What was allowed at each step, (batch, time) masks; None if everything was."""
    response_mask: Tensor
    """(batch, time) bool, True on the response's own tokens."""
    old_log_probs: Tensor
    """(batch, time), nats, stored when sampled."""
    old_values: Tensor
    """(batch, time) V_old, reward units, stored when sampled."""
    advantages: Tensor
    """(batch, time) A, whitened over the batch."""
    returns: Tensor
    """(batch, time) A + V_old before whitening, reward units."""

    def __len__(self) -> int:
        return len(self.sequences)

    def select(self, rows: Tensor) -> "Experience":
        """Return the given rows, with no more padding than they need."""
        sequences = self.sequences.select(rows)
        time = int(sequences.response_lengths.max())
        tensors = {
            field.name: getattr(self, field.name)[rows, :time]
            for field in fields(self)
            if field.type == "Tensor" or field.type is Tensor
        }
        masks = None if self.action_masks is None else self.action_masks.select(rows)
        return Experience(sequences=sequences, action_masks=masks, **tensors)

    def minibatches(self, num: int, generator: torch.Generator) -> list[Tensor]:
        """Return the rows of ``num`` shuffled minibatches, or of as many as there are rows."""
        order = torch.randperm(len(self), generator=generator)
        parts = order.tensor_split(min(num, len(self)))
        return [rows.to(self.response_mask.device) for rows in parts]


def penalised_rewards(
    token_rewards: Tensor, old_log_probs: Tensor, ref_log_probs: Tensor, *, kl_coef: float
) -> tuple[Tensor, Tensor]:
    """Return token rewards less the price of leaving the reference, and the KL that was paid for.

    kl_t = log pi(y_t) - log pi_ref(y_t)   (k1);   r_t <- r_t - kl_coef * kl_t

    Args:
        token_rewards: (batch, time), reward units; sums to each score.
        old_log_probs: (batch, time), nats, as sampled; 0 past a response's end.
        ref_log_probs: (batch, time), nats; 0 past a response's end.
        kl_coef: Reward units per nat.

    Returns:
        Rewards and KL, both (batch, time).
    """
    kl = losses.kl_estimate(old_log_probs, ref_log_probs, estimator="k1")
    return token_rewards - kl_coef * kl, kl
