"""The bridge to stock Stable-Baselines3."""

from tokengym.agents.sb3.hindsight import (
    HindsightReplayBuffer,
    HindsightRolloutBuffer,
    StepRewards,
    TokenFeatures,
    hindsight_correction,
)
from tokengym.agents.sb3.vec_env import (
    GymVecEnv,
    NoEnvironment,
    as_vec_env,
)

__all__ = [
    "GymVecEnv",
    "HindsightReplayBuffer",
    "HindsightRolloutBuffer",
    "NoEnvironment",
    "StepRewards",
    "TokenFeatures",
    "as_vec_env",
    "hindsight_correction",
]
