"""One scorer's values with another one's account of the tokens."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tokengym.envs.episode import Episode
from tokengym.rewards.attribution.prefixes import PrefixReader, RescoringReader
from tokengym.rewards.errors import ScorerError
from tokengym.rewards.scorers.base import Scorer, Scores, SupportsScore, scorer_name

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Explained(Scorer):
    """The values of one scorer; which tokens they rest on is said by another.

    Where the true score is a function that knows no tokens, a model that learnt it can still lend
    its attention, its gradients or its scores of prefixes. Every credit then redistributes the
    same score, and only the account of the tokens is learnt. Signed attributions stay in the
    explainer's units: what they leave of the score is the credit's to place (RED's last token).

    ``score_parts`` holds the explainer's own value under its name, so that its error shows.

    Args:
        scorer: What a response is worth.
        explainer: What says which tokens that rests on, such as a `RewardModel`.

    Raises:
        ScorerError: if the explainer has no attributions.
    """

    def __init__(self, scorer: SupportsScore, explainer: Scorer) -> None:
        if not explainer.attribution_kinds:
            raise ScorerError(
                f"scorer {scorer_name(explainer)!r} says nothing about tokens; explain by one "
                "that does, such as RewardModel"
            )
        self.scorer = scorer
        self.explainer = explainer
        self.attribution_kinds = explainer.attribution_kinds
        self.reads_text = bool(getattr(scorer, "reads_text", True)) or explainer.reads_text

    @property
    def name(self) -> str:
        """Both names."""
        return f"Explained({scorer_name(self.scorer)} by {self.explainer.name})"

    def bind(self, tokenizer: "PreTrainedTokenizerBase") -> "Explained":
        """Return the scorer with both bound to the policy's tokenizer."""
        bind = getattr(self.scorer, "bind", None)
        scorer = self.scorer if bind is None else bind(tokenizer)
        return Explained(scorer, self.explainer.bind(tokenizer))

    def score(self, episodes: Sequence[Episode], *, attribution: str | None = None) -> Scores:
        """Return the scorer's values and, if asked for, the explainer's attributions.

        Args:
            episodes: What to score.
            attribution: A kind that the explainer has.

        Raises:
            ScorerError: if a score is not one finite number per episode.
        """
        scores = self.scorer.score(episodes)
        if attribution is None:
            return scores
        scores.check(episodes, scorer_name(self.scorer))
        account = self.explainer.score(episodes, attribution=attribution)
        return scores.with_attributions(
            account.attributions or (),
            signed=account.signed,
            parts={self.explainer.name: account.values},
        )

    def peek(self, episodes: Sequence[Episode]) -> NDArray[np.floating]:
        """Return what the scorer says of texts that nobody played."""
        peek = getattr(self.scorer, "peek", None)
        return peek(episodes) if peek is not None else self.scorer.score(episodes).values

    def prefix_reader(self, *, every_prefix: bool = False) -> PrefixReader | None:
        """Return the explainer's reader; asked to score every prefix, the scorer itself does.

        Args:
            every_prefix: Whether the score itself is taken of every prefix (`RED`).
        """
        if not every_prefix:
            return self.explainer.prefix_reader()
        make = getattr(self.scorer, "prefix_reader", None)
        return RescoringReader(self.scorer) if make is None else make(every_prefix=True)

    def state_dict(self) -> dict[str, Any]:
        """Return the scorer's state."""
        return getattr(self.scorer, "state_dict", dict)()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the scorer's state."""
        if state:
            self.scorer.load_state_dict(state)  # type: ignore[attr-defined]
