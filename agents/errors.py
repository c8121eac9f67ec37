"""Errors of learners: one line each, which names the fault and the remedy."""

from tokengym.base.errors import CheckpointError, TokenGymError

__all__ = ["CheckpointError", "ModelError", "NonFiniteError", "ProcessError"]


class ModelError(TokenGymError):
    """A language model that cannot serve as a policy here."""


class NonFiniteError(TokenGymError):
    """NaN or Inf in a reward, a loss or a gradient."""


class ProcessError(ConnectionError):
    """Another process of the same training is gone; a resumed run may find it back."""
