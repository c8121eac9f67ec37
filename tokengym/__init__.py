"""tokengym: Gymnasium environments for text generation.

Importing it registers the bundled tasks with Gymnasium: ``tokengym/MovieReview-v0``,
``tokengym/QuestionAnswer-v0``, ``tokengym/Dialogue-v0``, ``tokengym/Detox-v0``,
``tokengym/Summarize-v0``, ``tokengym/TokenGeneration-v0`` and ``tokengym/Oracle-v0``.
"""

import tokengym.envs.tasks  # noqa: F401  registers the tasks
from tokengym.version import __version__

__all__ = ["__version__"]
