"""A turn's own reward beside the episode's advantage."""

from torch import Tensor

from tokengym.agents import losses
from tokengym.agents.ppo import AdvantageEstimator, PPOSettings, RoundTensors
from tokengym.lab.estimators.turns import turns_of

WEIGHT = 1.0
"""Weight of a turn's own reward, in advantages per reward unit; 0 is `grpo`."""


def turn_auxiliary(played: RoundTensors, settings: PPOSettings) -> tuple[Tensor, Tensor]:
    """Return the advantage of `grpo` plus the reward of each token's own turn.

    A_k = (R - mean R) / (std R + epsilon) + weight r_k

    The second part has no baseline and no future: a turn with a reward of its own is made likelier
    whatever the episode came to.

    Args:
        played: The round.
        settings: The learner's, with groups.

    Returns:
        The same (batch, time) twice.

    Source: NeMo-RL's pull request 3543, 2026, with immediate credit and a weight of 1.
    """
    assert settings.group_size is not None
    mask = played.response_mask
    turns = turns_of(played.token_rewards, mask)
    of_episode = losses.grpo(played.scores, settings.group_size, std_floor=settings.std_floor)
    advantages = turns.on_tokens(of_episode[:, None] + WEIGHT * turns.rewards, mask)
    return advantages, advantages


TURN_AUXILIARY = AdvantageEstimator(
    name="turn-auxiliary",
    estimate=turn_auxiliary,
    needs_critic=False,
    needs_groups=True,
    source="NeMo-RL, pull request 3543, 2026",
)
