"""The sentiment of a text by VADER's lexicon and rules: a judge that no model of ours resembles."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from tokengym.envs import Episode
from tokengym.rewards import Scorer, ScorerError, Scores, Shared


class Vader(Shared, Scorer):
    """VADER's compound sentiment, in (-1, 1), of prompt and response.

    Args:
        include_prompt: Whether the prompt is read too.

    Source: Hutto and Gilbert 2014, "VADER: A parsimonious rule-based model for sentiment analysis
    of social media text".
    """

    attribution_kinds = frozenset()

    def __init__(self, include_prompt: bool = True) -> None:
        self.include_prompt = include_prompt
        self._analyzer = _analyzer()

    def score(self, episodes: Sequence[Episode], *, attribution: str | None = None) -> Scores:
        """Return the compound sentiment of each episode, (batch,)."""
        self.check_attribution(attribution)
        texts = [
            f"{e.prompt} {e.response}" if self.include_prompt else e.response for e in episodes
        ]
        polarities = [self._analyzer.polarity_scores(text)["compound"] for text in texts]
        return Scores(values=np.array(polarities, dtype=np.float32))


@cache
def _analyzer() -> Any:
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError:
        raise ScorerError(
            "scorer 'vader' needs the package vaderSentiment; run pip install 'tokengym[smollm2]'"
        ) from None
    return SentimentIntensityAnalyzer()
