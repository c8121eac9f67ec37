"""GiGPO: the episode's group advantage, and that of turns that begin in the same state."""

from functools import partial

import torch
from torch import Tensor

from tokengym.agents import losses
from tokengym.agents.ppo import AdvantageEstimator, PPOSettings, RoundTensors
from tokengym.lab.estimators.turns import (
    State,
    centred,
    conversation_so_far,
    last_reply,
    states,
    turns_of,
)

OMEGA = 1.0
"""Weight of the turns' part; the paper's."""


def gigpo(played: RoundTensors, settings: PPOSettings, *, state: State) -> tuple[Tensor, Tensor]:
    """Return the advantages of GiGPO, without a deviation.

    A_k = R - mean of R over the group + omega (G_k - mean of G over turns that begin in its state)
    G_k = sum_{j >= k} gamma^{j-k} r_j,  gamma the learner's, here per turn

    A turn that begins in a state of its own has the episode's part alone. The same state may be
    there twice in one episode. The paper also has a form in which deviations divide both parts.

    Args:
        played: The round, with its episodes.
        settings: The learner's, with groups.
        state: Names the state in which a turn begins.

    Returns:
        The same (batch, time) twice, reward units.

    Source: Feng et al. 2025, arXiv:2505.10978, with F_norm = 1 and omega = 1; the paper's gamma is
        0.95.
    """
    assert settings.group_size is not None
    mask, size = played.response_mask, settings.group_size
    turns = turns_of(played.token_rewards, mask)
    groups = torch.arange(len(mask), device=mask.device) // size
    of_episode = centred(played.scores, groups, scale=False)
    returns = losses.rewards_to_go(turns.rewards, turns.mask, gamma=settings.gamma)
    own = torch.zeros_like(returns)
    own[turns.mask] = centred(returns[turns.mask], states(played, size, state), scale=False)
    advantages = turns.on_tokens(of_episode[:, None] + OMEGA * own, mask)
    return advantages, advantages


GIGPO = AdvantageEstimator(
    name="gigpo",
    estimate=partial(gigpo, state=last_reply),
    needs_critic=False,
    needs_groups=True,
    source="Feng et al. 2025, arXiv:2505.10978: a state is what the environment showed last",
)
GIGPO_PREFIX = AdvantageEstimator(
    name="gigpo-prefix",
    estimate=partial(gigpo, state=conversation_so_far),
    needs_critic=False,
    needs_groups=True,
    source="Feng et al. 2025, arXiv:2505.10978, where a state is the whole conversation so far",
)
