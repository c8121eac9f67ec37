"""The polarity of a film review by a lexicon as scorer."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tokengym.base.bundle import Bundle, bundled
from tokengym.envs.episode import Episode
from tokengym.envs.prompts.tokenization import unknown_share
from tokengym.rewards.gold.rules import load_lexicon
from tokengym.rewards.gold.sentiment_lexicon import Lexicon, split_words
from tokengym.rewards.scorers.base import Scorer, Scores, register_scorer


class Sentiment(Scorer):
    """The polarity ratio of a review by a lexicon: what the bundled reward model learnt.

    The gold score of the bundled reviews is its product with their grammaticality
    (`tokengym.rewards.gold.grammar`).

    Args:
        lexicon: Words and rules, see `sentiment_lexicon`.
        include_prompt: Whether the review is prompt + response, as the reward model reads it, or
            the response alone.
    """

    attribution_kinds = frozenset()

    def __init__(self, lexicon: Lexicon, *, include_prompt: bool = True) -> None:
        self.lexicon = lexicon
        self.include_prompt = include_prompt
        self._bundle: Bundle | None = None
        """Bundle whose words the lexicon was written for; None where that is not known."""

    @classmethod
    def from_file(
        cls, path: str | Path | None = None, *, include_prompt: bool = True
    ) -> "Sentiment":
        """Return the scorer of a stored lexicon.

        Args:
            path: A file that `Lexicon.save` wrote; None takes that of MovieReview.
            include_prompt: As for the class.
        """
        lexicon = bundled("movie_review").lexicon if path is None else Path(path)
        scorer = cls(load_lexicon(lexicon), include_prompt=include_prompt)
        if (lexicon.parent / "bundle.json").is_file():
            scorer._bundle = Bundle(lexicon.parent)
        return scorer

    def score(self, episodes: Sequence[Episode], *, attribution: str | None = None) -> Scores:
        """Return the polarity of each episode, in (-1, 1)."""
        self.check_attribution(attribution)
        values = []
        for episode in episodes:
            prompt = f"{episode.prompt} " if self.include_prompt else ""
            words, _ = split_words(f"{prompt}{episode.response}")
            values.append(self.lexicon.score(words))
        return Scores(values=np.array(values, dtype=np.float32))

    def oov_fraction(self, episodes: Sequence[Episode]) -> NDArray[np.float64]:
        """Return the share of each text's words that are not those of its bundle, (batch,)."""
        if self._bundle is None or not self._bundle.has("tokenizer"):
            return np.zeros(len(episodes))
        texts = [f"{episode.prompt} {episode.response}" for episode in episodes]
        return unknown_share(self._bundle.tokenizer, texts)


register_scorer("sentiment", Sentiment.from_file)
