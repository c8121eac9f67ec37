"""Errors of learners: one line each, which names the fault and the remedy."""

from tokengym.envs.errors import CheckpointError, TokenGymError

__all__ = ["CheckpointError", "ModelError", "NonFiniteError"]


class ModelError(TokenGymError):
    """A language model that cannot serve as a policy here."""


class NonFiniteError(TokenGymError):
    """NaN or Inf in a reward, a loss or a gradient."""
