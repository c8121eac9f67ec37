"""Figures of an update of PPO, and the warnings that they give rise to."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

logger = logging.getLogger(__name__)

MAX_CLIP_FRACTION = 0.4
"""Largest clip fraction of one of the first updates that gives no warning."""
FIRST_UPDATES = 5
MAX_KL_PER_TOKEN = 1.0
"""Largest KL to the reference per token, nats, that gives no warning."""
MAX_LEAP, MAX_LEAP_SHARE = 4.0, 0.25
"""Largest move of one update, nats per response and as a share of the KL to the reference after it,
that gives no warning. Of the published runs on questions, dialogues and summaries
(docs/results/tasks/runs.csv), 146 whose largest move was 1 to 4 nats ended with a gold score 0.03
below that of the best learning rate of their arm, 127 that moved less 0.02, and 74 that moved more
0.17. On Detox and film reviews leaps cost no gold."""
SOLVED = (
    "update {}: all responses have the score {:g}, the highest so far; where no higher one exists "
    "the prompts are solved: stop here, or take harder ones"
)
TIES = (
    "update {}: the scores {} are equal, so that nothing is learned from them; take prompts that "
    "are sometimes solved, or a scorer with partial credit"
)
TIES_OF_CRITIC = (
    "update {}: the scores of all responses are equal, so that the updates follow the errors of "
    "the values and the KL's price, and nothing that was scored; take prompts that are sometimes "
    "solved, or a scorer with partial credit"
)
LEAP = (
    "update {} moved the policy from {:.2f} to {:.2f} nats per response of its reference at once; "
    "lower learning_rate from {:g}, or set n_warmup_updates or target_kl"
)


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


class TrainingAlarms:
    """Warnings about one agent's training; each kind is said once."""

    def __init__(self) -> None:
        self._said: set[str] = set()
        self._least = math.inf
        """Least score of the rounds before."""
        self._most = -math.inf
        """Greatest score of the rounds before."""
        self._kl_before = math.nan, math.nan
        """KL of the round before, and its standard error; not known of an agent that was loaded."""

    def check(
        self,
        *,
        update: int,
        clip_fraction: float,
        kl: float,
        kl_error: float,
        kl_per_token: float,
        scores: Sequence[float],
        group_size: int | None,
        learning_rate: float,
        kl_coef: float,
        has_critic: bool,
    ) -> None:
        """Warn of what an update's figures show; updates are counted from 1.

        Args:
            update: Number of the update.
            clip_fraction: Share of tokens whose ratio left the clip range.
            kl: Of the round's responses to the reference, nats, before the update.
            kl_error: Standard error of its mean; nan of a single response.
            kl_per_token: To the reference, nats.
            scores: Of the round's responses, in order; those of one prompt are neighbours.
            group_size: Responses to each prompt, where groups are compared.
            learning_rate: The update's.
            kl_coef: Likewise.
            has_critic: Whether values are subtracted, which equal scores do not make equal.
        """
        if update <= FIRST_UPDATES and clip_fraction > MAX_CLIP_FRACTION:
            self._warn_of_clipping(update, clip_fraction, learning_rate)
        if kl_per_token > MAX_KL_PER_TOKEN:
            self._warn_of_collapse(update, kl_per_token, learning_rate, kl_coef)
        self._check_leap(update, kl, kl_error, learning_rate)
        if len(scores) > 1:
            self._check_ties(update, scores, group_size, has_critic=has_critic)

    def _check_ties(
        self, update: int, scores: Sequence[float], group_size: int | None, *, has_critic: bool
    ) -> None:
        """Warn of scores that do not differ: nothing is learned, or nothing is left to learn."""
        least, most = min(scores), max(scores)
        rose = most >= self._most and most > self._least  # no response was ever better, some worse
        self._least, self._most = min(least, self._least), max(most, self._most)
        if least == most and rose:
            self.tell(logging.INFO, "solved", SOLVED.format(update, most))
            return
        size = group_size or len(scores)
        groups = [scores[i : i + size] for i in range(0, len(scores), size)]
        if all(min(group) == max(group) for group in groups):
            whose = "of all responses" if group_size is None else "within every group"
            of_critic = has_critic and group_size is None
            self.warn("ties", (TIES_OF_CRITIC if of_critic else TIES).format(update, whose))

    def _warn_of_clipping(self, update: int, clip_fraction: float, learning_rate: float) -> None:
        self.warn(
            "clip",
            f"update {update}: {clip_fraction:.0%} of the ratios were clipped, the steps are "
            f"too large; lower learning_rate from {learning_rate:g}",
        )

    def _warn_of_collapse(
        self, update: int, kl_per_token: float, learning_rate: float, kl_coef: float
    ) -> None:
        self.warn(
            "kl",
            f"update {update}: the policy is {kl_per_token:.1f} nats per token from its "
            f"reference, and its texts may have collapsed; lower learning_rate from "
            f"{learning_rate:g} or {'raise kl_coef' if kl_coef else 'set kl_coef above 0'}",
        )

    def _check_leap(self, update: int, kl: float, kl_error: float, learning_rate: float) -> None:
        """Warn of an update that moved the policy far at once.

        moved > max(MAX_LEAP, MAX_LEAP_SHARE * kl) + 2 * standard error;  moved = kl - kl before

        The policies between the two were not measured, and beyond the limits the gold score tends
        to end lower.
        """
        before, error_before = self._kl_before
        self._kl_before = kl, kl_error
        noise = 2.0 * math.hypot(kl_error, error_before)
        if kl - before > max(MAX_LEAP, MAX_LEAP_SHARE * kl) + noise:  # never, if one is nan
            self.warn("leap", LEAP.format(update - 1, before, kl, learning_rate))

    def warn(self, kind: str, text: str) -> None:
        """Warn of something unless that kind was warned of before."""
        self.tell(logging.WARNING, kind, text)

    def tell(self, level: int, kind: str, text: str) -> None:
        """Log something at a level unless that kind was told before."""
        if kind not in self._said:
            self._said.add(kind)
            logger.log(level, text)
