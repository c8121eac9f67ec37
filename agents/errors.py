"""What goes wrong while learning: one line that names the thing and the remedy."""

from tokengym.envs.errors import TokenGymError


class ModelError(TokenGymError):
    """A language model that cannot serve as a policy here."""


class NonFiniteError(TokenGymError):
    """NaN or Inf in a reward, a loss or a gradient."""


class CheckpointError(TokenGymError):
    """A checkpoint that is damaged, of another format, or not of this environment."""
