"""Credit rules: how a score becomes token rewards."""

from tokengym.rewards.credits.attributed import ABC, DenseR3
from tokengym.rewards.credits.base import Credit
from tokengym.rewards.credits.simple import Random, Recency, Sparse, Uniform

__all__ = ["ABC", "Credit", "DenseR3", "Random", "Recency", "Sparse", "Uniform"]
