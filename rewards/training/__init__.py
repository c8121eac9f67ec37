"""Training reward and preference models from pairs, and measuring them on held-out pairs."""

from tokengym.rewards.training.preference_model import train_preference_model
from tokengym.rewards.training.results import PairMetrics, TrainedReward
from tokengym.rewards.training.reward_model import train_reward_model
from tokengym.rewards.training.settings import RewardTraining

__all__ = [
    "PairMetrics",
    "RewardTraining",
    "TrainedReward",
    "train_preference_model",
    "train_reward_model",
]
