"""What goes wrong while learning: one line that names the thing and the remedy."""

from tokengym.envs.errors import CheckpointError, TokenGymError

__all__ = ["CheckpointError", "ModelError", "NonFiniteError"]


class ModelError(TokenGymError):
    """A language model that cannot serve as a policy here."""


class NonFiniteError(TokenGymError):
    """NaN or Inf in a reward, a loss or a gradient."""
