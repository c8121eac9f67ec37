"""An agent that acts at random: the lowest baseline."""

from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from tokengym.agents.policy.sampling import row_uniforms
from tokengym.agents.policy_names import takes_no_policy_name
from tokengym.base.errors import ActionError

if TYPE_CHECKING:
    from tokengym.agents.policy.sampler import Sampler
    from tokengym.agents.policy.sampling import Draws
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
            return self._below(self.num_actions, shape), state
        counts = np.cumsum(np.asarray(action_masks) != 0, axis=-1)  # allowed tokens up to each
        if not counts[..., -1].all():
            raise ActionError("action_masks has a row that allows no token; allow at least one")
        picks = self._below(counts[..., -1], shape)  # the pick-th allowed token
        return np.argmax(counts > picks[..., None], axis=-1), state

    def sampler(self, draws: "Draws | None" = None) -> "Sampler":
        """Return what plays whole rounds; see `tokengym.agents.collect`.

        Args:
            draws: Source of the tokens; None continues the agent's own.
        """
        from tokengym.agents.rollouts.playing import PredictingSampler

        return PredictingSampler(self if draws is None else _Drawn(self, draws))

    def _below(self, counts: Any, shape: tuple[int, ...]) -> NDArray[np.int64]:
        """Return random numbers from 0, below ``counts``, of a shape."""
        return self.np_random.integers(counts, size=shape)


class _Drawn(RandomAgent):
    """A `RandomAgent` whose numbers come from a sampler's draws."""

    def __init__(self, agent: RandomAgent, draws: "Draws") -> None:
        self.num_actions, self._draws = agent.num_actions, draws

    def _below(self, counts: Any, shape: tuple[int, ...]) -> NDArray[np.int64]:
        uniforms = row_uniforms(shape[0], self._draws).double().numpy()
        return np.asarray(np.floor(uniforms * counts), dtype=np.int64)
