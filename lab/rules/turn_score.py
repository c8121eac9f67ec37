"""A turn's score at its last token."""

import numpy as np
from numpy.typing import NDArray

from tokengym.envs.episode import Episode
from tokengym.envs.turns.turn import POLICY
from tokengym.rewards.credits.base import Credit, FloatArray, register_credit


@register_credit
class TurnScore(Credit):
    """Each turn earns, at its last token, the score that the partner gave it.

    r_{e_k} = s_k for turn k with last token e_k; the episode's last token also gets R - sum_k s_k

    Under the scorer "partner" the rest is 0: the rewards are the turns' scores. Under any other
    scorer the episode's own score comes on top, less what the turns were paid. A reply in which
    the partner gave no score pays nothing, and an episode of one turn is `sparse`.

    Example:
        >>> from tokengym.envs import Turn
        >>> turns = (Turn("assistant", "a", (0, 2), 0.25), Turn("user", "b", (2, 3)),
        ...          Turn("assistant", "c", (3, 5), 0.5))
        >>> episode = Episode(prompt="x", response="a b c", prompt_ids=[0],
        ...                   response_ids=[1, 2, 3, 4, 5], turns=turns)
        >>> TurnScore().spread(1.0, episode, None).tolist()
        [0.0, 0.25, 0.0, 0.0, 0.75]
    """

    name = "turn-score"
    reads_turns = True

    def spread(
        self, score: float, episode: Episode, attribution: FloatArray | None
    ) -> NDArray[np.floating]:
        """Return the turns' scores on their last tokens, the rest of the score on the last one."""
        rewards = np.zeros(len(episode.response_ids))
        for turn in episode.turns:
            if turn.role == POLICY and turn.score is not None:
                rewards[turn.span[1] - 1] += turn.score
        rewards[-1] += score - rewards.sum()
        return rewards
