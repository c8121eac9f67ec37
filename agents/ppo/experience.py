"""Responses that an update of PPO learns from, and the figures of the update."""

from collections.abc import Iterable, Mapping
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
    ref_states: Tensor | None = None
    """(batch, time, hidden) of the frozen reference, for the exact KL; None computes them again."""
    advantage_scale: float = 1.0
    """Standard deviation that whitening divided the advantages by, reward units."""

    def __len__(self) -> int:
        return len(self.sequences)

    def select(self, rows: Tensor) -> "Experience":
        """Return the given rows, with no more padding than they need."""
        sequences = self.sequences.select(rows)
        time = int(sequences.response_lengths.max())
        # All tensors are (batch, time, ...): the columns that the rows left need.
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


@dataclass
class UpdateStats:
    """Figures of one update, summed over its minibatches."""

    policy_loss: float = 0.0
    value_loss: float = 0.0
    approx_kl: float = 0.0
    clip_fraction: float = 0.0
    ratio_error: float = 0.0
    """Largest |ratio - 1| before the first gradient step: rollout and update agree when it is 0."""
    log_prob_gap: float = 0.0
    """Largest |log_probs - old_log_probs| then, nats."""
    num_minibatches: int = 0

    def add(self, parts: Iterable[Mapping[str, float]]) -> None:
        """Take in the figures of a minibatch's parts."""
        known = vars(self)
        for figures in parts:
            for name, value in figures.items():
                if name not in ("ratio_error", "log_prob_gap"):
                    known[name] += value
                elif self.num_minibatches == 0:  # later ones have seen steps
                    known[name] = max(known[name], value)
        self.num_minibatches += 1

    def mean(self, name: str) -> float:
        """Return a figure's mean over the minibatches."""
        return getattr(self, name) / max(self.num_minibatches, 1)
