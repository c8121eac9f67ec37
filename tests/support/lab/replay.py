"""Replays of one response by hand."""

from collections.abc import Mapping, Sequence

import numpy as np

from tokengym.envs import Episode
from tokengym.lab.replay.replay import Replay, Scored


def replay_of(
    episode: Episode, tokens: Sequence[str], credits: Mapping[str, Sequence[float]], score: float
) -> Replay:
    """Return a replay of one response without a truth."""
    scores = dict.fromkeys(credits, np.array([score]))
    return Replay(
        env="tokengym/MovieReview-v0",
        source="<b>there</b>",
        episodes=(episode,),
        tokens=(tuple(tokens),),
        credits={name: (np.array(row),) for name, row in credits.items()},
        scores=scores,
        scorers=dict.fromkeys(credits, "<s>"),
        truth=None,
        agreements={},
        read=Scored(episodes=(episode,), scores=scores, stored=np.array([np.nan])),
        numbers=(0,),
    )
