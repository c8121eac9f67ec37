"""Models by name, which installed packages declare, and any GGUF file.

`located` says where a word's model is stored; whoever reads models asks it.
"""

from tokengym.base.models.gguf import dequantised
from tokengym.base.models.model import (
    BASE,
    MODELS,
    StoredModel,
    find_model,
    located,
    named_base,
    named_folder,
    title_of,
)
