"""A scorer that counts its calls."""

from tests.support.rewards.common import LengthScorer


class Counting(LengthScorer):
    def __init__(self):
        self.batches = []

    def score(self, episodes, *, attribution=None):
        self.batches.append(len(episodes))
        return super().score(episodes)
