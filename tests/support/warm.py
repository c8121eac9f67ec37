"""What every process that reads a model computes first, done once in the server that forks them.

Of transformers: a thousand regular expressions of the names of weights, half a second of CPU.
"""

import os

from transformers.conversion_mapping import get_checkpoint_conversion_mapping

os.environ.pop("PYTHONPATH", None)  # by which this was found
get_checkpoint_conversion_mapping("gpt2")
