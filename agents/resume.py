"""Where a run goes on from: what decides the next round, as it was before that round began."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from tokengym.agents.rollouts.environments import environment_state
from tokengym.agents.sb3 import GymVecEnv

if TYPE_CHECKING:
    from tokengym.agents.algorithm import EpisodicAlgorithm

COUNTERS = ("num_timesteps", "_n_updates", "_total_timesteps", "_current_progress_remaining")


@dataclass(frozen=True, kw_only=True)
class RoundStart:
    """The state before a round; weights and optimiser do not change while one is played.

    A checkpoint that a callback writes in the middle of a round holds this: the resumed run plays
    the round again, token for token, from its beginning.
    """

    counters: dict[str, Any]
    """`COUNTERS` by name."""
    sampling: Tensor
    """State of the generator that tokens are drawn with."""
    environment: dict[str, Any] | None
    """See `environment_state`; None: it had not begun, and its seed is all there is."""

    @classmethod
    def now(
        cls,
        agent: "EpisodicAlgorithm",
        before_learning: dict[str, Any] | None = None,
        *,
        resets_again: bool = False,
    ) -> "RoundStart":
        """Return the agent's present state.

        Args:
            agent: Between two rounds.
            before_learning: The environment's state before ``learn`` reset it, where it did.
            resets_again: Whether the round begins with a reset of its own all the same.
        """
        is_reset = isinstance(agent.env, GymVecEnv) and agent.env.is_fresh
        environment = before_learning
        if not is_reset or resets_again:
            environment = None if agent.env is None else environment_state(agent.env)
        return cls(
            counters={name: getattr(agent, name) for name in COUNTERS},
            sampling=agent.policy.generator.get_state(),
            environment=environment,
        )
