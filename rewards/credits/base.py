"""Which token earned it: the interface of a credit rule."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from tokengym.envs.episode import Episode
from tokengym.rewards.errors import CreditError
from tokengym.rewards.scorers.base import Scores

if TYPE_CHECKING:
    from tokengym.rewards.attribution.probe import Probe


class Credit(ABC):
    """Redistributes the score of each response over its tokens; the parts sum to the score."""

    name: ClassVar[str] = ""
    """The name in `make_reward`, messages and reports."""
    attribution: str | None = None
    """The kind of token attribution the scorer must return with its scores; None for none."""
    causal: bool = False
    """Whether token t's reward depends on tokens up to t only (and on the end being there), and is
    paid as it is earned; otherwise it is known in hindsight and paid when the episode ends. A
    causal rule also has ``step_reward(increment)``: what a token is paid at once that moved the
    score of the text so far by ``increment``. The last token gets the rest of the score."""

    def attribute(self, probe: "Probe", episodes: Sequence[Episode], scores: Scores) -> Scores:
        """Return the scores with attributions that the rule finds by scoring other texts.

        Args:
            probe: Scores prefixes and parts of the responses.
            episodes: The episodes that were scored.
            scores: Their scores; returned as they are unless the rule overrides this.
        """
        return scores

    @abstractmethod
    def assign(self, episodes: Sequence[Episode], scores: Scores) -> list[NDArray[np.float32]]:
        """Return the token rewards of each episode.

        Args:
            episodes: The episodes that were scored.
            scores: Their scores, with attributions if the rule asks for them.

        Returns:
            Per episode (len(response_ids),) float32, reward units, summing to its score.

        Raises:
            CreditError: if the scores lack the attributions that the rule needs.
        """


def attributions_of(
    credit: Credit, episodes: Sequence[Episode], scores: Scores
) -> Sequence[NDArray[np.float32]]:
    """Return the attributions of the scores, one array per episode.

    Args:
        credit: Who asks, for the message.
        episodes: The episodes that were scored.
        scores: Their scores.

    Raises:
        CreditError: if there are none, or not one per episode.
    """
    if scores.attributions is None:
        raise CreditError(
            f"credit {credit.name!r} needs {credit.attribution} attributions, but the scores have "
            "none; score with a scorer that gives them, or take credit 'uniform'"
        )
    if len(scores.attributions) != len(episodes):
        raise CreditError(
            f"credit {credit.name!r} got {len(scores.attributions)} attributions for "
            f"{len(episodes)} episodes; pass the scores of these episodes"
        )
    return scores.attributions


def as_float32(rewards: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return token rewards as stored."""
    return np.asarray(rewards, dtype=np.float32)
