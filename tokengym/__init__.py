"""tokengym: Gymnasium environments for text generation.

Importing it registers the bundled tasks with Gymnasium: ``tokengym/MovieReview-v0``,
``tokengym/QuestionAnswer-v0``, ``tokengym/Dialogue-v0``, ``tokengym/Detox-v0``,
``tokengym/Summarize-v0``, ``tokengym/TokenGeneration-v0`` and ``tokengym/Oracle-v0``.
"""

import os
import sys

import tokengym.envs.tasks  # noqa: F401  registers the tasks
from tokengym.version import __version__

__all__ = ["__version__"]


def _use_one_thread() -> None:
    """Have a forked child compute with one thread, where its parent has imported torch.

    The threads of the parent's OpenMP pool do not exist in the child, which would wait for them for
    ever: in the workers of an ``AsyncVectorEnv``, once the parent has scored a text.
    """
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_use_one_thread)
