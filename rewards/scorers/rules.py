"""Gold rules over the words of prompt and response as scorer."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tokengym.envs.episode import Episode
from tokengym.rewards.gold.base import Rules
from tokengym.rewards.gold.rules import load_rules
from tokengym.rewards.gold.sentiment_lexicon import split_words
from tokengym.rewards.scorers.base import Scorer, Scores, register_scorer


class RuleScorer(Scorer):
    """The gold score of a bundled dialogue, summary or continuation: the truth of its grammar.

    Args:
        rules: What is good, see `tokengym.rewards.gold`; their parts go to ``score_parts``.
    """

    attribution_kinds = frozenset()

    def __init__(self, rules: Rules) -> None:
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


register_scorer("rules", RuleScorer.from_file)
