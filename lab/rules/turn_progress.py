"""Progress between scored turns, spread back over the turns that led to it."""

import numpy as np
from numpy.typing import NDArray

from tokengym.base.settings import check_number
from tokengym.envs.episode import Episode
from tokengym.envs.turns.turn import POLICY
from tokengym.rewards.credits.base import Credit, FloatArray, register_credit
from tokengym.rewards.errors import CreditError


@register_credit
class TurnProgress(Credit):
    """Each turn earns a share of the progress that it and the turns after it made.

    d_k = s_k - s_j,  s_k the score of turn k and s_j that of the last scored turn before it (0)
    r_k = sum_{l >= k} d_l gamma^{l-k} / sum_{m=1..l} gamma^{l-m}

    The shares of d_l over the turns 1 to l sum to 1, and the d_l to the last score. A turn without
    a score makes no progress of its own, and passes it on. A turn's reward stands at its last
    token; the last token of the episode gets the rest of its score, which is 0 under the scorer
    "partner:of=last".

    Args:
        gamma: Weight of a turn before, in [0, 1]: 0 pays the turn that made the progress alone, 1
            all turns up to it alike.

    Raises:
        CreditError: if ``gamma`` is outside [0, 1].

    Source: the formulas of prime-rl's turn credit (pull request 3282, 2026) as noted for this
    project; the group's advantage beside it is the learner's.

    Example:
        >>> TurnProgress(gamma=0.5).by_turn([0.0, 3.0]).tolist()
        [1.0, 2.0]
    """

    name = "turn-progress"
    reads_turns = True

    def __init__(self, gamma: float = 0.5) -> None:
        self.gamma = gamma
        check_number(self, "gamma", least=0.0, most=1.0, error=CreditError)

    def by_turn(self, scores: list[float | None]) -> NDArray[np.float64]:
        """Return the reward of each turn, from the scores after them; None where there is none."""
        rewards, before = np.zeros(len(scores)), 0.0
        for turn, score in enumerate(scores):
            if score is None:
                continue
            weights = self.gamma ** np.arange(turn, -1, -1.0)  # 0 ** 0 is 1
            rewards[: turn + 1] += (score - before) * weights / weights.sum()
            before = score
        return rewards

    def spread(
        self, score: float, episode: Episode, attribution: FloatArray | None
    ) -> NDArray[np.floating]:
        """Return the turns' shares on their last tokens, the rest of the score on the last one."""
        own = [turn for turn in episode.turns if turn.role == POLICY]
        rewards = np.zeros(len(episode.response_ids))
        for turn, reward in zip(own, self.by_turn([t.score for t in own]), strict=True):
            rewards[turn.span[1] - 1] += reward
        rewards[-1] += score - rewards.sum()
        return rewards
