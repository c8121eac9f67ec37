"""tokengym: Gymnasium environments for text generation."""

from tokengym.version import __version__

__all__ = ["__version__"]
