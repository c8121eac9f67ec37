"""Monte Carlo credit: what each token changed in the score that the policy goes on to reach."""

from collections.abc import Sequence

import numpy as np

from tokengym.base import check_count, check_memory
from tokengym.envs import Episode
from tokengym.rewards import CreditError, Cut, Probe, Scores, SegmentedCredit

MAX_K = 1_024
"""Most continuations of one prefix."""
CONTINUATION_BYTES = 1_024
"""Least memory that a continuation takes, bytes."""


class MonteCarlo(SegmentedCredit):
    """Each token earns what it added to the score that is to come, found by finishing texts anew.

    r_0 = V(y_<=0);   r_t = V(y_<=t) - V(y_<t)

    V of a prefix is the mean score of k continuations by the policy that learns; V of the whole
    response is its score, so the rewards sum to it. In expectation r_t is the token's advantage.
    The first token's also contains the value of the prompt: this is the baseline of the reward to
    go, equal for all responses to a prompt, and paid there it reaches no later token. It needs no
    continuations from the prompt, which would be the longest. The paper's estimator of advantages
    from these rewards is ``PPO(advantage="vineppo")``, which takes the batch's mean off the first.

    A response of n tokens costs k * (n - 1) continuations, or k * (segments - 1). Learners of this
    package bind their policy at the start of every round and count the continuations as sampled
    tokens.

    Args:
        k: Continuations of each prefix, at most `MAX_K`; the paper uses 9.
        segments: Pieces whose values are estimated, each paid on its last token; None takes every
            token. The paper's are the steps of a reasoning.
        cut: Where the pieces begin, see `SegmentedCredit`.

    Source: Kazemnejad et al. 2024, "VinePPO: Refining Credit Assignment in RL Training of LLMs",
    arXiv:2410.01679.
    """

    name = "mc"
    needs_policy = True

    def __init__(self, k: int = 9, segments: int | None = None, cut: Cut = "even") -> None:
        super().__init__(segments, cut)
        self.k = k
        check_count(self, "k", most=MAX_K, hint="the paper uses 9", error=CreditError)
        self.gae_lambda = 0.0 if segments is None else None  # a segment is paid on its last token

    def attribute(self, probe: Probe, episodes: Sequence[Episode], scores: Scores) -> Scores:
        """Return the scores with each token's change of the estimated value."""
        pieces = self.pieces(episodes)
        count = self.k * sum(len(parts) - 1 for parts in pieces)
        check_memory("mc's continuations", count, bytes_each=CONTINUATION_BYTES)
        prefixes = [
            prefix
            for episode, parts in zip(episodes, pieces, strict=True)
            for part in parts[:-1]
            for prefix in [probe.restrict(episode, range(part.stop))] * self.k
        ]
        values = probe.values(probe.finish(prefixes)).reshape(-1, self.k).mean(axis=1)
        known = np.split(values, np.cumsum([len(parts) - 1 for parts in pieces])[:-1])
        gains = [
            np.diff([0.0, *estimates, float(score)])
            for estimates, score in zip(known, scores.values, strict=True)
        ]
        return scores.with_attributions(gains, signed=True, pieces=pieces)
