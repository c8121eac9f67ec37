"""PPO's loss of a part of a minibatch, composed from `losses`; an update's figures and alarms."""

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from tokengym.agents import losses
from tokengym.agents.policy.policy import CausalLMPolicy
from tokengym.agents.policy.responses import Evaluation
from tokengym.agents.policy.sequences import ActionMasks, Sequences
from tokengym.agents.ppo.settings import PPOSettings

logger = logging.getLogger(__name__)

MAX_CLIP_FRACTION = 0.4
"""Largest clip fraction of one of the first updates that says nothing."""
FIRST_UPDATES = 5
MAX_KL_PER_TOKEN = 1.0
"""Largest KL to the reference per token, nats, that says nothing."""


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
                is_largest = name in ("ratio_error", "log_prob_gap")
                known[name] = max(known[name], value) if is_largest else known[name] + value
        self.num_minibatches += 1

    def mean(self, name: str) -> float:
        """Return a figure's mean over the minibatches."""
        return getattr(self, name) / max(self.num_minibatches, 1)


@dataclass(frozen=True, kw_only=True)
class Objective:
    """Loss that one gradient step minimises.

    loss = L_policy + vf_coef * L_value - ent_coef * H + kl_coef / advantage_scale * KL

    each a mean over the tokens of the whole minibatch; L_policy and KL take ``loss_mean``. The
    advantages of L_policy are divided by advantage_scale where they are whitened, and so is the
    price of the KL: its unit stays that of the rewards.
    """

    settings: PPOSettings
    clip_range: float
    """The settings' at this point of the training, as the next two."""
    clip_range_vf: float | None
    kl_coef: float
    """0 where the loss has no KL."""
    loss_mean: str
    """See `PPOSettings.loss_mean`, without "auto"."""
    horizon: int
    """Longest response, tokens; what "constant" divides by, 0 elsewhere."""
    value_head_only: bool
    """Warm-up: loss = vf_coef * L_value, and gradients reach the value head alone."""

    def terms(
        self, policy: CausalLMPolicy, part: Experience, count: int, rows: int
    ) -> Iterator[tuple[Tensor, dict[str, float], Tensor]]:
        """Yield the terms of the loss of some of a minibatch's sequences that share no weights.

        Where the value has a network of its own it is read when its term is asked for. A caller
        that takes the gradient of the first term before that never holds both networks' states.

        Args:
            policy: The policy as it is now.
            part: The sequences.
            count: Tokens of the whole minibatch, so that the losses of its parts add up to its own.
            rows: Responses of the whole minibatch.

        Yields:
            The term, a scalar; its figures as `UpdateStats` names them; log ratios (batch, time),
            nats.
        """
        settings, mask = self.settings, part.response_mask  # (batch, time)
        has_terms = policy.critic is not None and policy.critic.network is not None
        has_terms &= not self.value_head_only  # where the value's is the one term
        now = policy.evaluate(
            part.sequences,
            part.action_masks,
            with_entropy=settings.ent_coef != 0.0,
            with_kl=self.kl_coef != 0.0 and settings.kl_estimator == "exact",
            with_values=not has_terms,
            ref_states=part.ref_states,
            value_head_only=self.value_head_only,
        )
        weights = None  # (batch, time), 1 / count each; None leaves that to `masked_mean`
        if self.loss_mean != "token":
            weights = losses.loss_weights(mask, self.loss_mean, rows=rows, horizon=self.horizon)
        policy_loss = losses.policy_loss(
            now.log_probs,
            part.old_log_probs,
            part.advantages,
            mask,
            clip_range=self.clip_range,
            clip_range_high=settings.clip_range_high,
            count=count,
            weights=weights,
        )
        figures, loss = {"policy_loss": policy_loss.item()}, policy_loss.new_zeros(())
        if now.values is not None:
            value_loss = self._value_loss(now.values, part, count)
            figures["value_loss"] = value_loss.item()
            loss = settings.vf_coef * value_loss
        if not self.value_head_only:
            loss = loss + policy_loss + self._regularisation(now, part, count, weights)
        with torch.no_grad():
            log_ratio = now.log_probs - part.old_log_probs  # (batch, time), nats
            move, high = log_ratio.expm1(), settings.clip_range_high  # of the ratio
            high = self.clip_range if high is None else high
            is_clipped = ((move > high) | (move < -self.clip_range)).float()
            # KL(old || new) from the old policy's samples: k3 of old against new.
            moved = losses.kl_estimate(-log_ratio, torch.zeros_like(log_ratio), estimator="k3")
            figures["approx_kl"] = losses.masked_mean(moved, mask, count=count).item()
            figures["clip_fraction"] = losses.masked_mean(is_clipped, mask, count=count).item()
        yield loss, figures, log_ratio
        if has_terms:
            value_loss = self._value_loss(policy.values(part.sequences), part, count)
            yield settings.vf_coef * value_loss, {"value_loss": value_loss.item()}, log_ratio

    def _value_loss(self, values: Tensor, part: Experience, count: int) -> Tensor:
        """Return the clipped squared error of the values."""
        assert part.old_values is not None
        assert part.returns is not None
        return losses.value_loss(
            values,
            part.old_values,
            part.returns,
            part.response_mask,
            clip_range_vf=self.clip_range_vf,
            count=count,
        )

    def _regularisation(
        self, now: Evaluation, part: Experience, count: int, weights: Tensor | None
    ) -> Tensor:
        """Return the entropy bonus and the price of the KL, as a part of the loss."""
        mask = part.response_mask
        added = now.log_probs.new_zeros(())
        if now.entropy is not None:
            added = added - self.settings.ent_coef * losses.masked_mean(
                now.entropy, mask, count=count
            )
        if self.kl_coef != 0.0:
            kl = now.kl
            if kl is None:
                assert part.ref_log_probs is not None
                kl = losses.kl_estimate(
                    now.log_probs, part.ref_log_probs, estimator=self.settings.kl_estimator
                )
            mean = (
                losses.masked_mean(kl, mask, count=count)
                if weights is None
                else (kl.masked_fill(~mask, 0.0) * weights).sum()
            )
            added = added + self.kl_coef / part.advantage_scale * mean
        return added


class Alarms:
    """Warnings about the updates of one agent; each kind is said once."""

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
            self._warn(
                "clip",
                f"update {update}: {clip_fraction:.0%} of the ratios were clipped, the steps are "
                f"too large; lower learning_rate from {learning_rate:g}",
            )
        if kl_per_token > MAX_KL_PER_TOKEN:
            self._warn(
                "kl",
                f"update {update}: the policy is {kl_per_token:.1f} nats per token from its "
                f"reference, and its texts may have collapsed; lower learning_rate from "
                f"{learning_rate:g} or {'raise kl_coef' if kl_coef else 'set kl_coef above 0'}",
            )
        self._check_ties(update, scores, group_size)

    def _check_ties(self, update: int, scores: Sequence[float], group_size: int | None) -> None:
        """Warn where scores do not differ: nothing is learned, or nothing is left to learn."""
        if len(scores) < 2:
            return
        least, most = min(scores), max(scores)
        rose = most >= self._most and most > self._least  # no response was ever better, some worse
        self._least, self._most = min(least, self._least), max(most, self._most)
        if least == most and rose:
            self._warn(
                "solved",
                f"update {update}: all responses have the score {most:g}, the highest so far; "
                "where no higher one exists the prompts are solved: stop here, or take harder ones",
            )
            return
        size = group_size or len(scores)
        groups = [scores[i : i + size] for i in range(0, len(scores), size)]
        if all(min(group) == max(group) for group in groups):
            whose = "of all responses" if group_size is None else "within every group"
            self._warn(
                "ties",
                f"update {update}: the scores {whose} are equal, so that nothing is learned from "
                "them; take prompts that are sometimes solved, or a scorer with partial credit",
            )

    def _warn(self, kind: str, text: str) -> None:
        if kind not in self._said:
            self._said.add(kind)
            logger.warning(text)
