"""Truth by executed forks: continuations of every prefix by the policy, on any task."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tokengym.base import Registry
from tokengym.envs import Episode
from tokengym.lab.replay.agreement import (
    ExecutedWorth,
    chance_correlation,
    executed_worth,
    split_half_ceiling,
)
from tokengym.rewards import Probe

DEFAULT_K = 32
FORM = "forks:k=32"


@dataclass(frozen=True, kw_only=True)
class Forks:
    """Settings of an executed truth."""

    k: int = DEFAULT_K
    """Continuations of each prefix; half of them make the split-half ceiling."""

    def __post_init__(self) -> None:
        if not isinstance(self.k, int) or self.k < 2 or self.k % 2:
            raise ValueError(
                f"truth 'forks:k={self.k}' needs an even number of continuations, at least 2; "
                f"{FORM} is usual"
            )


TRUTHS: Registry[type[Forks]] = Registry("truth")
"""Ways to measure the worth of every token, by the name that `replay --truth` takes."""
TRUTHS.register("forks", Forks)


@dataclass(frozen=True, kw_only=True)
class ExecutedTruth:
    """Result of executed forks for some responses."""

    forks: Forks
    """Settings of the execution."""
    worths: tuple[ExecutedWorth, ...]
    """Per episode, of the tokens that the policy wrote."""
    ceiling: float
    """Mean rank correlation of the true advantages with these estimates, from two halves."""
    chance: float
    """Mean rank correlation that 95 of 100 random orders stay below."""
    tokens: int
    """Response tokens that the continuations cost."""

    @property
    def share(self) -> float:
        """Share of the tokens whose interval leaves out 0; by chance at most 7 % do."""
        return float(np.mean(np.concatenate([w.low * w.high > 0 for w in self.worths])))


def written_places(episode: Episode) -> list[int]:
    """Return the places of the tokens that the policy wrote."""
    if episode.written is None:
        return [*range(len(episode.response_ids))]
    return [int(place) for place in np.flatnonzero(episode.written)]


def executed_truth(probe: Probe, episodes: Sequence[Episode], forks: Forks) -> ExecutedTruth:
    """Return the worth of every token by continuations of every prefix.

    All prefixes of all episodes are continued in batches, as `mc` continues them. A response of n
    tokens costs k * n continuations.

    Args:
        probe: The scorer, the policy's tokenizer and its continuations.
        episodes: Finished responses with their scores.
        forks: How many.
    """
    prefixes = [
        prefix
        for episode in episodes
        for end in written_places(episode)
        for prefix in [probe.restrict(episode, range(end))] * forks.k
    ]
    ended = probe.finish(prefixes, [[number] for number in range(len(prefixes))])
    scores = probe.values(ended).reshape(-1, forks.k)
    finals = probe.values(episodes)
    lengths = [len(written_places(episode)) for episode in episodes]
    draws = np.split(scores, np.cumsum(lengths)[:-1])
    bounds = (float(min(scores.min(), finals.min())), float(max(scores.max(), finals.max())))
    worths = tuple(
        executed_worth(rows, float(score), bounds=bounds)
        for rows, score in zip(draws, finals, strict=True)
    )
    told = [worth for worth in worths if np.ptp(worth.worth) > 0]
    return ExecutedTruth(
        forks=forks,
        worths=worths,
        ceiling=split_half_ceiling([worth.halves for worth in told]) if told else 0.0,
        chance=chance_correlation([worth.worth for worth in told], rng=0) if told else 0.0,
        tokens=sum(e.num_written for e in ended) - sum(p.num_written for p in prefixes),
    )
