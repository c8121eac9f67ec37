"""A turn's information gain: how much likelier it and its reply made the reference answer."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tokengym.envs import Episode
from tokengym.lab.rules.answer_gain import AnswerGain
from tokengym.lab.rules.turn_credit import policy_turns
from tokengym.rewards import Source


class TurnGain(AnswerGain):
    """Each turn but the last earns what it added to the probability of the reference answer.

    r_k = beta (pi(a | h_k) - pi(a | h_{k-1})) for k < K,  pi(a | h) = exp(mean_j log p(a_j | h))

    h_k is the conversation up to the reply to turn k, which is what the policy found out, and p a
    frozen language model. The last turn earns the episode's score: R minus the gains, so that all
    sum to R, or R alone as published. It is `answer-gain` per turn, in probability in place of
    nats. The answer is scored right after the conversation; ``cue`` is what stands between.

    Args:
        beta: Reward units per unit of probability.
        cue: See `AnswerGain`.
        reference: See `AnswerGain`. The paper reads the policy that learns, this a frozen one.
        published: Whether the last turn earns the whole score, and the rewards sum to more.

    Source: Wang et al. 2025, IGPO, arXiv:2510.14967. Its advantages are the rewards normalised over
    the group's turns and summed with a discount in turns: the learner's part.
    """

    name = "turn-gain"
    reads_turns = True
    reference_remedy = "write 'turn-gain:reference=PATH'"

    def __init__(
        self,
        beta: float = 1.0,
        cue: str = "",
        reference: Source | None = None,
        published: bool = False,
    ) -> None:
        super().__init__(beta=beta, cue=cue, reference=reference)
        self.published = published
        self.sum_preserving = not published

    def pieces(self, episodes: Sequence[Episode]) -> list[list[range]]:
        """Return each turn's tokens with those of the reply to it."""
        every = []
        for episode in episodes:
            turns = policy_turns(episode)
            stops = [*(turn.span[0] for turn in turns[1:]), len(episode.response_ids)]
            every.append([range(t.span[0], stop) for t, stop in zip(turns, stops, strict=True)])
        return every

    def known(self, log_probs: NDArray[np.floating]) -> float:
        """Return the geometric mean of the probabilities of an answer's tokens."""
        return float(np.exp(log_probs.mean()))

    def spread(
        self, score: float, episode: Episode, attribution: NDArray[np.float32] | None
    ) -> NDArray[np.floating]:
        """Return the gains at the turns' last tokens, and the score's part at the last turn's."""
        assert attribution is not None
        (pieces,) = self.pieces([episode])
        turns = policy_turns(episode)
        rewards = np.zeros(len(episode.response_ids))
        for turn, piece in zip(turns[:-1], pieces, strict=False):
            rewards[turn.span[1] - 1] = self.beta * float(attribution[piece.stop - 1])
        rewards[turns[-1].span[1] - 1] = score - (0.0 if self.published else rewards.sum())
        return rewards
