"""Training reward and preference models from pairs, and measuring them on held-out pairs."""

from tokengym.rewards.training.fitting import RewardTraining
from tokengym.rewards.training.pipeline import train_preference_model, train_reward_model
from tokengym.rewards.training.process import (
    ProcessMetrics,
    TrainedProcess,
    read_steps,
    rows_of_forks,
    train_process_model,
)
from tokengym.rewards.training.results import PairMetrics, TrainedReward

__all__ = [
    "PairMetrics",
    "ProcessMetrics",
    "RewardTraining",
    "TrainedProcess",
    "TrainedReward",
    "read_steps",
    "rows_of_forks",
    "train_preference_model",
    "train_process_model",
    "train_reward_model",
]
