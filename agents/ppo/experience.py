"""Responses that an update of PPO learns from, its figures, and warnings about them."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor

from tokengym.agents.policy.sequences import ActionMasks, Sequences

logger = logging.getLogger(__name__)

MAX_CLIP_FRACTION = 0.4
"""Largest clip fraction of one of the first updates that gives no warning."""
FIRST_UPDATES = 5
MAX_KL_PER_TOKEN = 1.0
"""Largest KL to the reference per token, nats, that gives no warning."""


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


@dataclass(frozen=True, kw_only=True)
class UpdateStats:
    """Figures of one update, means over its minibatches."""

    policy_loss: float
    value_loss: float
    approx_kl: float
    clip_fraction: float
    ratio_error: float
    """Largest |ratio - 1| before the first gradient step: rollout and update agree when it is 0."""
    log_prob_gap: float
    """Largest |log_probs - old_log_probs| then, nats."""
    num_minibatches: int


class Alarms:
    """Warnings about one agent's training; each kind is said once."""

    def __init__(self) -> None:
        self._said: set[str] = set()
        self._least = math.inf
        """Least score of the rounds before."""
        self._most = -math.inf
        """Greatest score of the rounds before."""

    def check(
        self,
        *,
        update: int,
        clip_fraction: float,
        kl_per_token: float,
        scores: Sequence[float],
        group_size: int | None,
        learning_rate: float,
        kl_coef: float,
    ) -> None:
        """Warn of what an update's figures show; updates are counted from 1.

        Args:
            update: Number of the update.
            clip_fraction: Share of tokens whose ratio left the clip range.
            kl_per_token: To the reference, nats.
            scores: Of the round's responses, in order; those of one prompt are neighbours.
            group_size: Responses to each prompt, where groups are compared.
            learning_rate: The update's.
            kl_coef: Likewise.
        """
        if update <= FIRST_UPDATES and clip_fraction > MAX_CLIP_FRACTION:
            self.warn(
                "clip",
                f"update {update}: {clip_fraction:.0%} of the ratios were clipped, the steps are "
                f"too large; lower learning_rate from {learning_rate:g}",
            )
        if kl_per_token > MAX_KL_PER_TOKEN:
            self.warn(
                "kl",
                f"update {update}: the policy is {kl_per_token:.1f} nats per token from its "
                f"reference, and its texts may have collapsed; lower learning_rate from "
                f"{learning_rate:g} or {'raise kl_coef' if kl_coef else 'set kl_coef above 0'}",
            )
        # Scores that do not differ: nothing is learned, or nothing is left to learn.
        if len(scores) < 2:
            return
        least, most = min(scores), max(scores)
        rose = most >= self._most and most > self._least  # no response was ever better, some worse
        self._least, self._most = min(least, self._least), max(most, self._most)
        if least == most and rose:
            self.warn(
                "solved",
                f"update {update}: all responses have the score {most:g}, the highest so far; "
                "where no higher one exists the prompts are solved: stop here, or take harder ones",
            )
            return
        size = group_size or len(scores)
        groups = [scores[i : i + size] for i in range(0, len(scores), size)]
        if all(min(group) == max(group) for group in groups):
            whose = "of all responses" if group_size is None else "within every group"
            self.warn(
                "ties",
                f"update {update}: the scores {whose} are equal, so that nothing is learned from "
                "them; take prompts that are sometimes solved, or a scorer with partial credit",
            )

    def warn(self, kind: str, text: str) -> None:
        """Warn of something unless that kind was warned of before."""
        if kind not in self._said:
            self._said.add(kind)
            logger.warning(text)
