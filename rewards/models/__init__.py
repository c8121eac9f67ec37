"""Loading, batching and reading of the models behind scorers.

Its names serve scorers of other packages; each is imported when it is first used.
"""

from typing import TYPE_CHECKING

from tokengym.base.plugins import lazily

if TYPE_CHECKING:
    from tokengym.rewards.models.forward import Classifier, reading
    from tokengym.rewards.models.loading import load_tokenizer, longest_input, quiet

__getattr__, __dir__, __all__ = lazily(__name__)
