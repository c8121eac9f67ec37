"""Gold rules over the words of prompt and response as scorer."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tokengym.envs.episode import Episode
from tokengym.rewards.attribution.alignment import continued_spans, spread_by_overlap
from tokengym.rewards.gold.base import Rules
from tokengym.rewards.gold.rules import GOLD, load_rules
from tokengym.rewards.gold.sentiment_lexicon import split_words
from tokengym.rewards.scorers.base import Scorer, Scores, register_scorer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class RuleScorer(Scorer):
    """The gold score of a bundled dialogue, summary or continuation: the truth of its grammar.

    Args:
        rules: What is good, see `tokengym.rewards.gold`; their parts go to ``score_parts``.

    Raises:
        TypeError: if they are no rules.
    """

    attribution_kinds = frozenset()

    def __init__(self, rules: Rules) -> None:
        if not isinstance(rules, Rules):
            kinds = ", ".join(cls.__name__ for cls in GOLD.values())
            raise TypeError(f"rules must be one of {kinds}, got {type(rules).__name__}")
        self.rules = rules
        self._name = f"RuleScorer({rules.kind})"

    @property
    def title(self) -> str:
        """What the rules measure, where that has a word."""
        return "grammaticality" if self.rules.kind == "grammar" else self.name

    @classmethod
    def from_file(cls, path: str | Path) -> "RuleScorer":
        """Return the scorer of stored rules; a ValueError is raised if the file holds none."""
        return cls(load_rules(path))

    def score(self, episodes: Sequence[Episode], *, attribution: str | None = None) -> Scores:
        """Return the gold score of each episode, and its parts, which sum to it."""
        self.check_attribution(attribution)
        rows = [
            self.rules.parts(split_words(e.prompt)[0], split_words(e.response)[0]) for e in episodes
        ]
        parts = {name: np.array([row[name] for row in rows]) for name in (rows[0] if rows else {})}
        return Scores(values=np.array([sum(row.values()) for row in rows]), parts=parts)

    def token_worth(
        self, episodes: Sequence[Episode], tokenizer: "PreTrainedTokenizerBase"
    ) -> list[NDArray[np.float64]] | None:
        """Return what tokens add, (n,) each; None unless the score rests on single words."""
        return words_on_tokens(self.rules.contributions, episodes, tokenizer)


def words_on_tokens(
    contributions: Callable[[Sequence[str]], NDArray[np.float64] | None],
    episodes: Sequence[Episode],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    reads_prompt: bool = False,
) -> list[NDArray[np.float64]] | None:
    """Return what words contribute on the response's tokens, (n,), by the characters they share.

    Args:
        contributions: Function of the words: (words,) what each adds to the score, or None.
        episodes: Finished responses.
        tokenizer: The policy's.
        reads_prompt: Whether the words are those of prompt and response; the prompt's own
            contributions are no one's credit.
    """
    rows = []
    for episode in episodes:
        text, tokens = continued_spans(tokenizer, [], episode.response_ids)
        words, spans = split_words(text)
        before = split_words(episode.prompt)[0] if reads_prompt else []
        worth = contributions([*before, *words])
        if worth is None:
            return None
        spread = spread_by_overlap(worth[len(before) :], spans, tokens) if words else 0.0
        rows.append(np.zeros(len(tokens)) + spread)
    return rows


register_scorer("rules", RuleScorer.from_file)
