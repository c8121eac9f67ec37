"""Credit rules: how a score becomes token rewards."""

from tokengym.rewards.credits.attributed import ABC, DenseR3
from tokengym.rewards.credits.base import Credit
from tokengym.rewards.credits.causal import RED
from tokengym.rewards.credits.policy import ABCD, ABCD2
from tokengym.rewards.credits.scar import SCAR
from tokengym.rewards.credits.signed import Attribution, SignedABC
from tokengym.rewards.credits.simple import Random, Recency, Sparse, Uniform

__all__ = [
    "ABC",
    "ABCD",
    "ABCD2",
    "RED",
    "SCAR",
    "Attribution",
    "Credit",
    "DenseR3",
    "Random",
    "Recency",
    "SignedABC",
    "Sparse",
    "Uniform",
]
