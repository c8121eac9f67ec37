"""Tokenizers trained on a corpus: whole words for the grammars, byte-level BPE for real text."""

from collections import Counter
from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tokengym.lab.makers.building.options import BuildError

PAD, EOS, UNK = "<pad>", "<eos>", "<unk>"
ROLES = ("user", "assistant")
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role not in ['user', 'assistant'] %}"
    "{{ raise_exception('roles are user and assistant, got ' + message.role) }}{% endif %}"
    "<{{ message.role }}> {{ message.content }} {% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
"""A role token before each message: "<user> hello <assistant>"."""


def word_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Return a tokenizer whose tokens are the texts' words and punctuation marks.

    Decoding joins words by single spaces, which gives back exactly a text written that way.

    Args:
        texts: Lower-case texts; every word in them gets an id, the most frequent the lowest.
    """
    counts = Counter(word for text in texts for word in text.split())
    words = sorted(counts, key=lambda word: (-counts[word], word))
    vocabulary = {word: index for index, word in enumerate([PAD, EOS, UNK, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNK))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("isolated")]
    )
    return _wrap(tokenizer, unk_token=UNK)


def words_by_id(tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """Return the word of each token id, "" for a special token."""
    special = set(tokenizer.all_special_ids)
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    return ["" if index in special else token for index, token in enumerate(tokens)]


def add_roles(tokenizer: PreTrainedTokenizerFast) -> None:
    """Give a tokenizer a token for each role of a dialogue, and the chat template with them."""
    tokenizer.add_special_tokens({"extra_special_tokens": [f"<{role}>" for role in ROLES]})
    tokenizer.chat_template = CHAT_TEMPLATE


def byte_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer, which has a token for every text.

    Args:
        texts: What its merges are learnt from.
        vocab_size: Tokens in all, special ones included; at least 258.
    """
    if vocab_size < 258:
        raise BuildError(f"vocab_size must be >= 258 (256 bytes, pad, eos), got {vocab_size}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _wrap(tokenizer)


def _wrap(tokenizer: Tokenizer, unk_token: str | None = None) -> PreTrainedTokenizerFast:
    # Cleaning up spaces would turn "fine ." into "fine." and lose the round trip.
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=unk_token,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
