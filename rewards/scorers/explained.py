"""The values of one scorer, and the tokens they rest on by another."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tokengym.envs.episode import Episode
from tokengym.rewards.attribution.prefixes import PrefixReader
from tokengym.rewards.errors import ScorerError
from tokengym.rewards.scorers.base import Scorer, ScorerWrapper
from tokengym.rewards.scorers.scores import AnyScorer, Scores

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Explained(ScorerWrapper):
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

    def __init__(self, scorer: AnyScorer, explainer: Scorer) -> None:
        if not explainer.attribution_kinds:
            raise ScorerError(
                f"scorer {explainer.name!r} says nothing about tokens; explain by one "
                "that does, such as RewardModel"
            )
        super().__init__(scorer)
        self.explainer = explainer

    @property
    def attribution_kinds(self) -> frozenset[str] | None:  # type: ignore[override]
        """The explainer's kinds."""
        return self.explainer.attribution_kinds

    @property
    def reads_text(self) -> bool:  # type: ignore[override]
        """Whether either looks at texts."""
        return self.scorer.reads_text or self.explainer.reads_text

    @property
    def name(self) -> str:
        """Both names."""
        return f"Explained({self.scorer.name} by {self.explainer.name})"

    def bind(self, tokenizer: "PreTrainedTokenizerBase") -> "Explained":
        """Return the scorer with both bound to the policy's tokenizer."""
        return Explained(self.scorer.bind(tokenizer), self.explainer.bind(tokenizer))

    def score(self, episodes: Sequence[Episode], *, attribution: str | None = None) -> Scores:
        """Return the scorer's values and, if asked for, the explainer's attributions.

        Raises:
            ScorerError: if a score is not one finite number per episode.
        """
        scores = self.scorer.score(episodes)
        if attribution is None:
            return scores
        scores.check(episodes, self.scorer.name)
        account = self.explainer.score(episodes, attribution=attribution)
        return scores.with_attributions(
            account.attributions or (),
            signed=account.signed,
            parts={self.explainer.name: account.values},
        )

    def prefix_reader(self, *, every_prefix: bool = False) -> PrefixReader | None:
        """Return the explainer's reader; asked to score every prefix, the scorer itself does.

        Args:
            every_prefix: Whether the score itself is taken of every prefix (`RED`).
        """
        if not every_prefix:
            return self.explainer.prefix_reader()
        return self.scorer.prefix_reader(every_prefix=True)
