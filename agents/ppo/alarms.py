"""What goes wrong while a policy learns, said once each, with the remedy."""

import logging
from collections.abc import Sequence

logger = logging.getLogger(__name__)

MOST_CLIPPED = 0.4
"""Largest clip fraction of one of the first updates that says nothing."""
FIRST_UPDATES = 5
MOST_NATS = 1.0
"""Largest KL to the reference per token, nats, that says nothing."""


class Alarms:
    """Warnings about the updates of one agent; each kind is said once."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def check(
        self,
        *,
        update: int,
        clip_fraction: float,
        kl_per_token: float,
        scores: Sequence[float],
        group_size: int | None,
        learning_rate: float,
    ) -> None:
        """Warn of what an update's figures show.

        Args:
            update: Number of the update, from 1.
            clip_fraction: Share of tokens whose ratio left the clip range.
            kl_per_token: To the reference, nats.
            scores: Of the round's responses, in order; those of one prompt are neighbours.
            group_size: Responses to each prompt, where groups are compared.
            learning_rate: The update's.
        """
        if update <= FIRST_UPDATES and clip_fraction > MOST_CLIPPED:
            self._warn(
                "clip",
                f"update {update}: {clip_fraction:.0%} of the ratios were clipped, the steps are "
                f"too large; lower learning_rate from {learning_rate:g}",
            )
        if kl_per_token > MOST_NATS:
            self._warn(
                "kl",
                f"update {update}: the policy is {kl_per_token:.1f} nats per token from its "
                f"reference, and its texts may have collapsed; lower learning_rate from "
                f"{learning_rate:g} or raise kl_coef",
            )
        size = group_size or len(scores)
        groups = [scores[i : i + size] for i in range(0, len(scores), size)]
        if len(scores) > 1 and all(min(group) == max(group) for group in groups):
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
