"""The true worth of each token, where a bundle's gold score says which words it rests on.

Credit rules are held to it, and nothing trains on it. The Oracle's truth is another one, the exact
advantages of a policy (`tokengym.lab.envs.oracle.env`).
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tokengym.envs import Episode
from tokengym.rewards import Product, RuleScorer, Sentiment, continued_spans, spread_by_overlap
from tokengym.rewards.gold import ToxicityRules, split_words

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WordTruth = Callable[[Sequence[str], int], NDArray[np.float64]]
"""(words of prompt and response, how many are the prompt's) -> (words,) signed worth."""


def gold_token_credit(
    gold: Any | None,
    episodes: Sequence[Episode],
    tokenizer: "PreTrainedTokenizerBase",
) -> list[NDArray[np.float64]] | None:
    """Return what each response token is truly worth, 0 for those that the gold score ignores.

    - `Sentiment`: the opinion's share of the polarity ratio, signed, after intensifiers and
      negations (`Lexicon.contributions`). The modifiers themselves get 0.
    - `RuleScorer` of `ToxicityRules`: -1 / words for a rude word.
    - `Product`: that of its first factor. Grammaticality, the other, belongs to sentences.

    Words are cut from the text, and their worth goes to tokens by the characters they share.

    Returns:
        Per episode (len(response_ids),) in units of the gold score, or None if the gold score
        cannot be told apart by words.
    """
    if isinstance(gold, Product):
        return gold_token_credit(gold.terms[0], episodes, tokenizer)
    word_truth = _word_truth(gold)
    if word_truth is None:
        return None
    reads_prompt = isinstance(gold, Sentiment) and gold.include_prompt
    return [
        _token_truth(episode, tokenizer, word_truth, reads_prompt=reads_prompt)
        for episode in episodes
    ]


def _word_truth(gold: Any | None) -> WordTruth | None:
    """Return what a gold scorer's words are worth, None where it does not rest on single words."""
    if isinstance(gold, Sentiment):
        lexicon = gold.lexicon
        return lambda words, start: lexicon.contributions(words)[start:]
    if isinstance(gold, RuleScorer) and isinstance(gold.rules, ToxicityRules):
        rude = frozenset(gold.rules.rude)
        return lambda words, start: _rudeness(words[start:], rude)
    return None


def _rudeness(words: Sequence[str], rude: frozenset[str]) -> NDArray[np.float64]:
    count = sum(word[:1].isalnum() for word in words)
    return np.array([-(word in rude) / max(1, count) for word in words], dtype=np.float64)


def _token_truth(
    episode: Episode,
    tokenizer: "PreTrainedTokenizerBase",
    word_truth: WordTruth,
    *,
    reads_prompt: bool,
) -> NDArray[np.float64]:
    """Return one episode's truth, (len(response_ids),)."""
    size = len(episode.response_ids)
    text, tokens = continued_spans(tokenizer, [], episode.response_ids)
    words, spans = split_words(text)
    if not words:
        return np.zeros(size)
    before = split_words(episode.prompt)[0] if reads_prompt else []
    worth = word_truth([*before, *words], len(before))
    return spread_by_overlap(worth, spans, tokens)
