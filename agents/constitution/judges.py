"""Judges, which score how well a response follows the principles."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tokengym.agents.constitution.critics import OffenceRules
from tokengym.agents.constitution.principles import Principle
from tokengym.envs import Episode
from tokengym.rewards import Judge, Scorer, ScorerError, Scores


class RuleJudge(Scorer):
    """Minus the number of different offending words of each response: no model judges here.

    Args:
        rules: Rules of offence.
    """

    attribution_kinds = frozenset()

    def __init__(self, rules: OffenceRules) -> None:
        self.rules = rules

    @property
    def name(self) -> str:
        """Name that says that rules judge."""
        return "rule-based judge (no model)"

    def score(self, episodes: Sequence[Episode], *, attribution: str | None = None) -> Scores:
        """Return minus the offences of each episode.

        Args:
            episodes: Episodes to score.
            attribution: None; rules say nothing about tokens.

        Raises:
            ScorerError: if an attribution is asked for.
        """
        if attribution is not None:
            raise ScorerError(f"scorer {self.name!r} has no attribution {attribution!r}")
        counts = [len(self.rules.offences(e.prompt, e.response)) for e in episodes]
        return Scores(-np.array(counts, dtype=np.float64))


def model_judge(path: str | Path, principles: Sequence[Principle]) -> Scorer:
    """Return the scorer that asks a chat model for a rating by each principle: their mean.

    The paper draws one principle per pair; all of them cost more and are less noisy.

    Args:
        path: Folder or hub name of a chat model.
        principles: At least one.

    Raises:
        ScorerError: if there is no such model.
    """
    judges = [Judge.from_pretrained(path, principle.text) for principle in principles]
    total: Scorer = judges[0]
    for judge in judges[1:]:
        total = total + judge
    return total * (1.0 / len(judges))
