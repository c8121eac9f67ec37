"""Loading, batching and reading of the models behind scorers.

Its names serve scorers of other packages; each is imported when it is first used.
"""

from typing import TYPE_CHECKING

from tokengym.base.plugins import lazily

if TYPE_CHECKING:
    from tokengym.rewards.models.forward import Classifier as Classifier
    from tokengym.rewards.models.forward import reading as reading
    from tokengym.rewards.models.loading import load_tokenizer as load_tokenizer
    from tokengym.rewards.models.loading import longest_input as longest_input
    from tokengym.rewards.models.loading import quiet as quiet

__getattr__, __dir__, __all__ = lazily(__name__)
