"""Models by name: ``smollm2`` and ``minilm`` of packages from the registry, and any GGUF file.

`located` says where a word's model is stored; whoever reads models asks it.
"""

from tokengym.base.models import minilm, smollm2
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
