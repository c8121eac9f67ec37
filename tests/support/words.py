"""A word-level stub tokenizer, small enough to work traces by hand."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

WORDS = ("<pad>", "<eos>", "<unk>", "a", "b", "c", "d", "e")
PROMPTS = ("a b", "c", "d e a", "b b b", "e")


def make_word_tokenizer(words: Sequence[str] = WORDS) -> PreTrainedTokenizerFast:
    """Return a tokenizer whose ids are the words' positions: pad 0, eos 1, unk 2."""
    vocabulary = {word: position for position, word in enumerate(words)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )


@pytest.fixture(scope="session")
def build_tokenizer() -> Callable[[Sequence[str]], PreTrainedTokenizerFast]:
    return make_word_tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return make_word_tokenizer()


@pytest.fixture
def make_env(tokenizer: PreTrainedTokenizerFast) -> Callable[..., Any]:
    """Return a builder of single environments over the stub, 4 new tokens unless told."""
    from tokengym.envs import TokenGenerationEnv

    def build(**settings: Any) -> TokenGenerationEnv:
        defaults: dict[str, Any] = {"tokenizer": tokenizer, "prompts": PROMPTS, "max_new_tokens": 4}
        return TokenGenerationEnv(**defaults | settings)

    return build


@pytest.fixture
def make_envs(tokenizer: PreTrainedTokenizerFast) -> Callable[..., Any]:
    """Return a builder of batched environments over the stub, 3 rows and 4 new tokens."""
    from tokengym.envs import TokenGenerationVectorEnv

    def build(**settings: Any) -> TokenGenerationVectorEnv:
        defaults: dict[str, Any] = {"num_envs": 3, "max_new_tokens": 4}
        defaults |= {"tokenizer": tokenizer, "prompts": PROMPTS}
        return TokenGenerationVectorEnv(**defaults | settings)

    return build
