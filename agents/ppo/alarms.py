"""Warnings about PPO's updates during training."""

import logging
import math
from collections.abc import Sequence

logger = logging.getLogger(__name__)

MAX_CLIP_FRACTION = 0.4
"""Largest clip fraction of one of the first updates that gives no warning."""
FIRST_UPDATES = 5
MAX_KL_PER_TOKEN = 1.0
"""Largest KL to the reference per token, nats, that gives no warning."""


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
        self._check_ties(update, scores, group_size)

    def _check_ties(self, update: int, scores: Sequence[float], group_size: int | None) -> None:
        """Warn where scores do not differ: nothing is learned, or nothing is left to learn."""
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
