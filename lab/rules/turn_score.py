"""A turn's score at its last token."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tokengym.envs import Turn
from tokengym.lab.rules.turn_credit import TurnCredit


class TurnScore(TurnCredit):
    """Each turn earns, at its last token, the score that the partner gave it.

    r_{e_k} = s_k for turn k with last token e_k; the episode's last token also gets R - sum_k s_k

    Under the scorer "partner" the rest is 0: the rewards are the turns' scores. Under any other
    scorer the episode's own score comes on top, minus what the turns were paid. A reply in which
    the partner gave no score pays nothing, and an episode of one turn is `sparse`.

    Example:
        >>> from tokengym.envs import Episode
        >>> turns = (Turn("assistant", "a", (0, 2), 0.25), Turn("user", "b", (2, 3)),
        ...          Turn("assistant", "c", (3, 5), 0.5))
        >>> episode = Episode(prompt="x", response="a b c", prompt_ids=[0],
        ...                   response_ids=[1, 2, 3, 4, 5], turns=turns)
        >>> TurnScore().spread(1.0, episode, None).tolist()
        [0.0, 0.25, 0.0, 0.0, 0.75]
    """

    name = "turn-score"

    def by_turn(self, score: float, turns: Sequence[Turn]) -> NDArray[np.float64]:
        """Return the turns' scores, 0 where there is none."""
        del score
        return np.array([0.0 if turn.score is None else turn.score for turn in turns])
