"""What every process that reads a model computes first, done once in the server that forks them.

Of transformers: a thousand regular expressions of the names of weights, half a second of CPU. And
no test loses its power: what a process writes need not be on the disk, for which it would wait.
"""

import os

from transformers.conversion_mapping import get_checkpoint_conversion_mapping

setattr(os, "fsync", lambda descriptor: None)  # noqa: B010
os.environ.pop("PYTHONPATH", None)  # by which this was found
get_checkpoint_conversion_mapping("gpt2")
