"""Models by name: ``smollm2`` and ``minilm`` of packages from the registry, and any GGUF file.

`located` says where a word's model is stored; whoever reads models asks it.
"""

from tokengym.envs.models import minilm, smollm2
from tokengym.envs.models.model import MODELS, StoredModel, find_model, located, title_of

__all__ = ["MODELS", "StoredModel", "find_model", "located", "minilm", "smollm2", "title_of"]
