"""Credit rules: how a score becomes token rewards."""

from tokengym.rewards.credits.attributed import ABC, DenseR3
from tokengym.rewards.credits.base import Credit
from tokengym.rewards.credits.causal import RED
from tokengym.rewards.credits.scar import SCAR
from tokengym.rewards.credits.signed import Attribution, SignedABC
from tokengym.rewards.credits.simple import Random, Recency, Sparse, Uniform

__all__ = [
    "ABC",
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
