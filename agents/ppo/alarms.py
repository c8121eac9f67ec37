"""Figures of a round and an update of PPO, and the warnings that they give rise to."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from tokengym.agents import losses
from tokengym.agents.ppo.settings import GAE_LAMBDA, MAX_LEAP, MAX_LEAP_SHARE, Objective
from tokengym.agents.rollouts.experience import Experience
from tokengym.envs import Episode

logger = logging.getLogger(__name__)

MAX_CLIP_FRACTION = 0.4
"""Largest clip fraction of one of the first updates that gives no warning."""
MIN_CLIP_RANGE = 0.05
"""Smallest clip range under which many clipped ratios say that steps are large."""
FIRST_UPDATES = 5
MAX_KL_PER_TOKEN = 1.0
"""Largest KL to the reference per token, nats, that gives no warning."""
Figures: TypeAlias = dict[str, float]
"""Figures of a minibatch, or of a part of one, as `UpdateStats` names them."""
OF_LOSS = "loss/"
"""Before the names of figures that the policy loss reports."""
FigureTensors: TypeAlias = dict[str, Tensor]
"""The same on the device, () each."""


@dataclass(frozen=True, kw_only=True)
class RoundStats:
    """Figures of one round, of the policy that played it."""

    scores: Sequence[float]
    """The scorer's own, in order, of the responses that have one."""
    kl: float
    """Mean KL of a response to the reference, as it is paid for, nats."""
    kl_error: float
    """Standard error of that mean; nan of a single response."""
    num_finished: int
    """Responses that no partner's failure has lost."""
    tokens_per_row: float
    """Mean tokens of these."""


@dataclass(frozen=True, kw_only=True)
class UpdateStats:
    """Figures of one update, means over its minibatches."""

    loss: float
    policy_loss: float
    value_loss: float
    approx_kl: float
    clip_fraction: float
    kl: float
    """KL of a response to the reference, nats, where the loss has a price for it."""
    ratio_error: float
    """Largest |ratio - 1| before the first gradient step: rollout and update agree when it is 0."""
    log_prob_gap: float
    """Largest |log_probs - old_log_probs| then, nats."""
    num_minibatches: int
    of_loss: Figures
    """What the policy loss reports, by name."""

    @classmethod
    def of(cls, minibatches: Sequence[Sequence[Figures]]) -> "UpdateStats":
        """Return an update's figures, given those of the parts of each minibatch."""
        names = ("loss", "policy_loss", "value_loss", "approx_kl", "clip_fraction", "kl")
        figures = [part for parts in minibatches for part in parts]
        means = {n: sum(part.get(n, 0.0) for part in figures) / len(minibatches) for n in names}
        reported = {n: 0.0 for part in figures for n in part if n.startswith(OF_LOSS)}
        for name in reported:
            reported[name] = sum(part.get(name, 0.0) for part in figures) / len(minibatches)
        first = minibatches[0]  # before a step was taken
        return cls(
            **means,
            of_loss={n.removeprefix(OF_LOSS): value for n, value in reported.items()},
            ratio_error=max(part["ratio_error"] for part in first),
            log_prob_gap=max(part["log_prob_gap"] for part in first),
            num_minibatches=len(minibatches),
        )


@torch.no_grad()
def movement(
    log_probs: Tensor, kl: Tensor | None, part: Experience, goal: Objective, count: int, rows: int
) -> FigureTensors:
    """Return how far the policy has moved from the one that sampled, and from the reference.

    Args:
        log_probs: (batch, time), nats, of the policy now.
        kl: (batch, time), nats, to the reference; None where the loss has none.
        part: Part of a minibatch; of several processes some have parts without tokens.
        goal: The loss.
        count: Tokens of the whole minibatch.
        rows: Its responses.
    """
    mask, (low, high) = part.response_mask, goal.clip_range
    log_ratio = (log_probs - part.old_log_probs).masked_fill(~mask, 0.0)
    move = log_ratio.expm1()  # of the probability ratio
    is_clipped = ((move > high) | (move < -low)).float()
    # KL(old || new) from the old policy's samples: k3 of old against new.
    moved = losses.kl_estimate(-log_ratio, torch.zeros_like(log_ratio), estimator="k3")
    figures = {
        "approx_kl": losses.masked_mean(moved, mask, count=count),
        "clip_fraction": losses.masked_mean(is_clipped, mask, count=count),
        "ratio_error": move.abs().max(),
        "log_prob_gap": log_ratio.abs().max(),
    }
    if kl is not None:
        figures["kl"] = losses.masked_mean(kl, mask, count=rows)
    return figures


class TrainingAlarms:
    """Warnings about one agent's training; each kind is said once."""

    def __init__(self) -> None:
        self._logged: set[str] = set()
        self._least = math.inf
        """Least score of the rounds before."""
        self._most = -math.inf
        """Greatest score of the rounds before."""
        self._kl_before = math.nan, math.nan
        """KL of the round before, and its standard error; not known of an agent that was loaded."""

    def check_lambda(self, declared: float, credit: str, episodes: Sequence[Episode]) -> None:
        """Warn of a low lambda that a rule declares, where most responses end by themselves."""
        ended = sum(e.finish_reason in ("eos", "stop") for e in episodes) / len(episodes)
        if declared < GAE_LAMBDA and ended > 0.5:
            self.warn(
                "lambda",
                f"credit {credit!r} declares gae_lambda={declared:g}, which was measured on "
                f"responses of a fixed length; {ended:.0%} of these ended by themselves: compare "
                f"with gae_lambda={GAE_LAMBDA:g}, and pass the one that you mean",
            )

    def check(
        self,
        *,
        update: int,
        played: RoundStats,
        clip_fraction: float,
        clip_range: float,
        group_size: int | None,
        learning_rate: float,
        kl_coef: float,
        has_critic: bool,
    ) -> None:
        """Warn of what the figures of an update, counted from 1, and of its round show."""
        lower = f"lower learning_rate from {learning_rate:g}"
        moves = learning_rate > 0.0  # at the end of a schedule the clip range may be 0 as well
        if update <= FIRST_UPDATES and clip_fraction > MAX_CLIP_FRACTION and moves:
            cause = f"the steps are too large; {lower}"
            if clip_range < MIN_CLIP_RANGE:
                remedy = "raise it or its schedule's end, 0.2 is usual"
                cause = f"clip_range is {clip_range:.2g} here; {remedy}"
            self.warn(
                "clip", f"update {update}: {clip_fraction:.0%} of the ratios were clipped, {cause}"
            )
        kl_per_token = played.kl / played.tokens_per_row
        if kl_per_token > MAX_KL_PER_TOKEN:
            remedy = "raise kl_coef" if kl_coef else "set kl_coef above 0"
            self.warn(
                "kl",
                f"update {update}: the policy is {kl_per_token:.1f} nats per token from its "
                f"reference, and its texts may have collapsed; {lower} or {remedy}",
            )
        # moved > max(MAX_LEAP, MAX_LEAP_SHARE * kl) + 2 * standard error: the policies between the
        # two were not measured, and beyond the limits the gold score tends to end lower.
        kl, (kl_before, error_before) = played.kl, self._kl_before
        self._kl_before = kl, played.kl_error
        noise = 2.0 * math.hypot(played.kl_error, error_before)
        if kl - kl_before > max(MAX_LEAP, MAX_LEAP_SHARE * kl) + noise:  # never, if one is nan
            self.warn(
                "leap",
                f"update {update - 1} moved the policy from {kl_before:.2f} to {kl:.2f} nats per "
                f"response of its reference at once; {lower}, or set n_warmup_updates or target_kl",
            )
        if len(played.scores) > 1:
            self._check_ties(update, played.scores, group_size, has_critic=has_critic)

    def _check_ties(
        self, update: int, scores: Sequence[float], group_size: int | None, *, has_critic: bool
    ) -> None:
        """Warn of scores that do not differ: nothing is learned, or nothing is left to learn."""
        least, most = min(scores), max(scores)
        rose = most >= self._most and most > self._least  # no response was ever better, some worse
        self._least, self._most = min(least, self._least), max(most, self._most)
        if least == most and rose:
            self.warn(
                "solved",
                f"update {update}: all responses have the score {most:g}, the highest so far; "
                "where no higher one exists the prompts are solved: stop here, or take harder ones",
                level=logging.INFO,
            )
            return
        size = group_size or len(scores)
        groups = [scores[i : i + size] for i in range(0, len(scores), size)]
        if all(min(group) == max(group) for group in groups):
            whose = "of all responses" if group_size is None else "within every group"
            learned = "nothing is learned from them"
            if has_critic and group_size is None:
                learned = "the updates follow the errors of the values and the KL's price"
            self.warn(
                "ties",
                f"update {update}: the scores {whose} are equal, so that {learned}; take prompts "
                "that are sometimes solved, or a scorer with partial credit",
            )

    def warn(self, kind: str, text: str, *, level: int = logging.WARNING) -> None:
        """Log something at a level unless that kind was logged before."""
        if kind not in self._logged:
            self._logged.add(kind)
            logger.log(level, text)
