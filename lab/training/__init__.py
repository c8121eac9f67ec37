"""Training reward and preference models from pairs, and measuring them on held-out pairs."""

from tokengym.lab.training.fitting import RewardTraining
from tokengym.lab.training.pipeline import train_preference_model, train_reward_model
from tokengym.lab.training.process import (
    ProcessMetrics,
    TrainedProcess,
    read_steps,
    rows_of_forks,
    train_process_model,
)
from tokengym.lab.training.results import PairMetrics, TrainedReward

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
