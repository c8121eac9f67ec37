"""Shared by environments whose every response can be enumerated: words as tokens, and an error."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tokengym.envs import SettingsError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class PolicyError(SettingsError):
    """Invalid probabilities of a policy, or probability given to an illegal token."""


def word_tokenizer(vocabulary: Sequence[str]) -> "PreTrainedTokenizerFast":
    """Return a tokenizer with one token per word, built in memory.

    Args:
        vocabulary: Words in the order of their ids, "<pad>", "<eos>" and "<unk>" among them.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    ids = {word: position for position, word in enumerate(vocabulary)}
    backend = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        padding_side="left",
    )
