"""tokengym: Gymnasium environments for text generation.

Importing it registers ``tokengym/MovieReview-v0``, ``tokengym/QuestionAnswer-v0``,
``tokengym/Dialogue-v0``, ``tokengym/Detox-v0``, ``tokengym/Summarize-v0``,
``tokengym/TokenGeneration-v0`` and ``tokengym/Oracle-v0`` with Gymnasium.
"""

from tokengym.registration import register_envs
from tokengym.version import __version__

__all__ = ["__version__"]

register_envs()
