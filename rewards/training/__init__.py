"""Training reward and preference models from pairs, and measuring them on held-out pairs."""

from tokengym.rewards.training.fitting import RewardTraining
from tokengym.rewards.training.pipeline import train_preference_model, train_reward_model
from tokengym.rewards.training.results import PairMetrics, TrainedReward

__all__ = [
    "PairMetrics",
    "RewardTraining",
    "TrainedReward",
    "train_preference_model",
    "train_reward_model",
]
