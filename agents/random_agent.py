"""An agent that acts at random: the lowest baseline."""

from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from tokengym.agents.policy_names import takes_no_policy_name
from tokengym.base.errors import ActionError

if TYPE_CHECKING:
    from tokengym.agents.rollouts.rounds import Environments


class RandomAgent:
    """Draws every token uniformly from those allowed.

    Args:
        envs: The environment it plays, or its action space.
        seed: Seed of its own generator; global random state is not touched.

    Raises:
        TypeError: if the actions are not discrete.
    """

    @takes_no_policy_name("(envs): it has no policy")
    def __init__(self, envs: "Environments | gym.Space[Any]", *, seed: int | None = None) -> None:
        space = envs
        if not isinstance(envs, gym.Space):
            space = getattr(envs, "single_action_space", None) or envs.action_space
        if not isinstance(space, gym.spaces.Discrete):
            raise TypeError(f"RandomAgent needs a Discrete action space, got {space}")
        self.num_actions = int(space.n)
        self.np_random = np.random.default_rng(seed)

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
        action_masks: NDArray[np.generic] | None = None,
    ) -> tuple[NDArray[np.int64], Any]:
        """Return random tokens for one observation or a batch.

        Args:
            observation: Only its shape is read.
            state: Returned as it came.
            episode_start: Not needed.
            deterministic: Not possible, so ignored.
            action_masks: (vocab,) or (batch, vocab), non-zero where allowed; None allows all.

        Returns:
            Token ids, () or (batch,), and ``state``.

        Raises:
            ActionError: if a mask allows no token.
        """
        del episode_start, deterministic
        shape = np.shape(observation["input_ids"])[:-1]  # () or (batch,)
        if action_masks is None:
            return self.np_random.integers(self.num_actions, size=shape), state
        counts = np.cumsum(np.asarray(action_masks) != 0, axis=-1)  # allowed tokens up to each
        if not counts[..., -1].all():
            raise ActionError("action_masks has a row that allows no token; allow at least one")
        picks = self.np_random.integers(counts[..., -1])  # the pick-th allowed token
        return np.argmax(counts > picks[..., None], axis=-1), state
