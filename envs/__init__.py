"""Token generation as a finite-horizon MDP."""

from tokengym.envs.episode import Episode

__all__ = ["Episode"]
