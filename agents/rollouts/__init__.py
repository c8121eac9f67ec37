"""Rounds of one episode per row, for any agent and any environment.

Its names serve learners and tools of other packages; each is imported when it is first used.
"""

from typing import TYPE_CHECKING

from tokengym.base.plugins import lazily

if TYPE_CHECKING:
    from tokengym.agents.policy.sampler import SampledTokens as SampledTokens
    from tokengym.agents.rollouts.given import GivenPrompts as GivenPrompts
    from tokengym.agents.rollouts.playing import Agent as Agent
    from tokengym.agents.rollouts.playing import RolloutBatch as RolloutBatch
    from tokengym.agents.rollouts.playing import Sampler as Sampler
    from tokengym.agents.rollouts.playing import as_sampler as as_sampler
    from tokengym.agents.rollouts.rounds import Environments as Environments
    from tokengym.agents.rollouts.rounds import Observation as Observation

__getattr__, __dir__, __all__ = lazily(__name__)
