"""Rounds of one episode per row, for any agent and any environment.

Its names serve learners and tools of other packages; each is imported when it is first used.
"""

from typing import TYPE_CHECKING

from tokengym.base.plugins import lazily

if TYPE_CHECKING:
    from tokengym.agents.policy.sampler import SampledTokens
    from tokengym.agents.rollouts.given import GivenPrompts, at_temperature
    from tokengym.agents.rollouts.playing import (
        Agent,
        RolloutBatch,
        Sampler,
        as_sampler,
    )
    from tokengym.agents.rollouts.rounds import Environments, Observation

__getattr__, __dir__, __all__ = lazily(__name__)
