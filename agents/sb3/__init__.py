"""The bridge to stock Stable-Baselines3."""

from typing import TYPE_CHECKING

from tokengym.base.plugins import lazily

if TYPE_CHECKING:
    from tokengym.agents.sb3.hindsight import HindsightReplayBuffer as HindsightReplayBuffer
    from tokengym.agents.sb3.hindsight import HindsightRolloutBuffer as HindsightRolloutBuffer
    from tokengym.agents.sb3.hindsight import TokenFeatures as TokenFeatures
    from tokengym.agents.sb3.hindsight import hindsight_correction as hindsight_correction
    from tokengym.agents.sb3.vec_env import GymVecEnv as GymVecEnv
    from tokengym.agents.sb3.vec_env import NoEnvironment as NoEnvironment
    from tokengym.agents.sb3.vec_env import as_vec_env as as_vec_env

__getattr__, __dir__, __all__ = lazily(__name__)
