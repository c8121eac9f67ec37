"""Data of one update: the rollout of one round, with rewards turned into advantages."""

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from tokengym.agents.policy.sequences import ActionMasks, Sequences


@dataclass(frozen=True, kw_only=True)
class Experience:
    """Responses with PPO's figures of each token; 0 past a response's end."""

    sequences: Sequences
    """Prompts and responses, ``len()`` = batch."""
    action_masks: ActionMasks | None
    """Tokens that could be sampled at each step, (batch, time) masks; None if all could."""
    response_mask: Tensor
    """(batch, time) bool, True on the response's own tokens."""
    old_log_probs: Tensor
    """(batch, time), nats, stored when sampled."""
    old_values: Tensor | None
    """(batch, time) V_old, reward units, stored when sampled; None without a critic."""
    advantages: Tensor
    """(batch, time) A, as the policy loss takes it."""
    returns: Tensor | None
    """(batch, time) A + V_old before whitening, reward units; None without a critic."""
    ref_log_probs: Tensor | None = None
    """(batch, time), nats, under the frozen reference; needed for a sampled KL in the loss."""
    ref_logits: Tensor | None = None
    """(batch, time, vocab) of the frozen reference, for the exact KL; None computes them again."""
    advantage_scale: float = 1.0
    """Standard deviation that whitening divided the advantages by, reward units."""

    def __len__(self) -> int:
        return len(self.sequences)

    def select(self, rows: Tensor) -> "Experience":
        """Return the given rows, with no more padding than they need."""
        sequences = self.sequences.select(rows)
        time = int(sequences.response_lengths.max())
        tensors: dict[str, Any] = {
            field.name: value[rows, :time] if isinstance(value, Tensor) else value
            for field in fields(self)
            if field.name not in ("sequences", "action_masks")
            for value in [getattr(self, field.name)]
        }
        masks = None if self.action_masks is None else self.action_masks.select(rows)
        return Experience(sequences=sequences, action_masks=masks, **tensors)

    def minibatches(self, num: int, generator: torch.Generator) -> list[Tensor]:
        """Return the rows of ``num`` shuffled minibatches, or of as many as there are rows."""
        order = torch.randperm(len(self), generator=generator)
        parts = order.tensor_split(min(num, len(self)))
        return [rows.to(self.response_mask.device) for rows in parts]
