# mypy: no-check-untyped-defs
"""Two episodes, one of them a conversation, and a scorer whose account of them is known."""

import numpy as np

from tests.support.rewards.common import make_episode
from tokengym.envs import Turn
from tokengym.rewards import Scorer, Scores

TALK = make_episode(
    prompt_ids=[5],
    response_ids=[3, 4, 6, 7, 8],
    response="a b d e f",
    turns=[
        Turn("assistant", "a b", (0, 2), 0.25),
        Turn("user", "d e", (2, 4)),
        Turn("assistant", "f", (4, 5)),
    ],
    written=[1, 1, 0, 0, 1],
    log_probs=[-1.0, -2.0, -3.0, -4.0, -5.0],
)
SHORT = make_episode(prompt_ids=[5, 9], response_ids=[3, 1], metadata={"level": 2})


class Known(Scorer):
    """Gives attributions 1, 2, 3, ... of any kind, and counts how often it is asked."""

    attribution_kinds = frozenset({"attention", "prefix", "relevance"})

    def __init__(self):
        self.asked = []

    def score(self, episodes, *, attribution=None):
        self.asked.append(attribution)
        rows = [np.arange(1.0, 1 + len(e.response_ids)) for e in episodes]
        values = [10.0 * len(row) for row in rows]
        return Scores(values, attributions=rows if attribution else None)
