"""What each token truly adds to a gold score that rests on single words."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tokengym.envs import Episode
from tokengym.rewards import (
    Product,
    RuleScorer,
    Scorer,
    Sentiment,
    continued_spans,
    spread_by_overlap,
)
from tokengym.rewards.gold import split_words

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def token_worth(
    gold: Scorer, episodes: Sequence[Episode], tokenizer: "PreTrainedTokenizerBase"
) -> list[NDArray[np.float64]] | None:
    """Return what each response token truly adds to the score, where the score is of words.

    Of a review's polarity it is the opinions' shares, after their modifiers, which get 0
    themselves. Of a product it is that of the first factor: a bundle's other one, grammaticality,
    is of sentences. A word's worth is spread over its tokens by the characters that they share; the
    prompt's own words are no one's credit.

    Args:
        gold: What a bundle holds as truth.
        episodes: Finished responses.
        tokenizer: The policy's, which made every ``response_ids``.

    Returns:
        Per episode (len(response_ids),) in the score's units, 0 for tokens that the score ignores;
        None where it cannot be told apart by words, as most cannot.
    """
    if isinstance(gold, Product):
        worth = token_worth(gold.terms[0], episodes, tokenizer)
        return None if worth is None else [gold.number * row for row in worth]
    contributions: Callable[[Sequence[str]], NDArray[np.float64] | None]
    if isinstance(gold, Sentiment):
        contributions, reads_prompt = gold.lexicon.contributions, gold.include_prompt
    elif isinstance(gold, RuleScorer):
        contributions, reads_prompt = gold.rules.contributions, False
    else:
        return None
    rows = []
    for episode in episodes:
        text, tokens = continued_spans(tokenizer, [], episode.response_ids)
        words, spans = split_words(text)
        before = split_words(episode.prompt)[0] if reads_prompt else []
        added = contributions([*before, *words])
        if added is None:
            return None
        spread = spread_by_overlap(added[len(before) :], spans, tokens) if words else 0.0
        rows.append(np.zeros(len(tokens)) + spread)
    return rows
