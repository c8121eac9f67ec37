# mypy: no-check-untyped-defs
"""Tokenizers of every kind that policies have, trained here on a few texts."""

from functools import cache

from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

TEXTS = ["the film is good and bad", "a long day in the sun", "numbers 1 2 3", "café </s> end"] * 6
SPECIAL = ["<pad>", "</s>", "<s>", "[SEP]", "<|im_start|>", "<|im_end|>"]


def _made(backend, trainer, **tokens):
    backend.train_from_iterator(TEXTS, trainer)
    return _wrapped(backend, **tokens)


def _wrapped(backend, **tokens):
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        eos_token="</s>",
        bos_token="<s>",
        additional_special_tokens=SPECIAL[3:],
        **tokens,
    )


def byte_level(prefix=False, normalizer=None):
    backend = Tokenizer(models.BPE())
    backend.normalizer = normalizer
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return _made(
        backend,
        trainers.BpeTrainer(vocab_size=300, special_tokens=SPECIAL, initial_alphabet=alphabet),
    )


def llama_like():
    """A space before every text, by the normalizer; BOS before it; merges that write "</s>"."""
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=["<unk>", *SPECIAL])
    made = _made(backend, trainer, unk_token="<unk>")
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", made.bos_token_id)]
    )
    return made


def pieces_and_bytes():
    """Pieces of words and, for other characters, bytes, a row of which is text only as a whole."""
    names = ["<unk>", *SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))]
    names += ["▁", "▁the", "▁café", "s", "'", "▁'", ".", "中"]
    vocabulary = {name: index for index, name in enumerate(names)}
    backend = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return _wrapped(backend, unk_token="<unk>")


def tidied():
    """Word pieces whose decoder and tokenizer both take the spaces before punctuation away."""
    names = ["<unk>", *SPECIAL, "the", "cat", "##s", "'", ".", "?", "n't", "'s", "m", "do"]
    vocabulary = {name: index for index, name in enumerate(names)}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(cleanup=True)
    return _wrapped(backend, unk_token="<unk>", clean_up_tokenization_spaces=True)


def metaspace(scheme="always"):
    """Unigram pieces, the control tokens among them, behind a normalizer of widths."""
    backend = Tokenizer(models.Unigram())
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    backend.decoder = decoders.Metaspace(prepend_scheme=scheme)
    trainer = trainers.UnigramTrainer(
        vocab_size=60, special_tokens=["<unk>", *SPECIAL], unk_token="<unk>"
    )
    return _made(backend, trainer, unk_token="<unk>")


def word_pieces():
    backend = Tokenizer(models.WordPiece(unk_token="<unk>"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(cleanup=False)
    trainer = trainers.WordPieceTrainer(vocab_size=150, special_tokens=["<unk>", *SPECIAL])
    return _made(backend, trainer, unk_token="<unk>")


def words():
    """Whole words between blanks, as the bundled tokenizers have."""
    backend = Tokenizer(models.WordLevel(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.WordLevelTrainer(vocab_size=60, special_tokens=["<unk>", *SPECIAL])
    return _made(backend, trainer, unk_token="<unk>")


def words_with_ends():
    """Return BPE over characters, ends of words marked."""
    backend = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.BPEDecoder(suffix="</w>")
    trainer = trainers.BpeTrainer(
        vocab_size=90, special_tokens=["<unk>", *SPECIAL], end_of_word_suffix="</w>"
    )
    return _made(backend, trainer, unk_token="<unk>")


KINDS = {
    "bytes": byte_level,
    "bytes with a prefix": lambda: byte_level(prefix=True),
    "bytes in NFC": lambda: byte_level(normalizer=normalizers.NFC()),
    "llama": llama_like,
    "metaspace": metaspace,
    "metaspace once": lambda: metaspace("first"),
    "word pieces": word_pieces,
    "words": words,
}
"""Kinds that keep what contents say."""
DECODED = {**KINDS, "ends": words_with_ends}
GROWING = {**DECODED, "pieces and bytes": pieces_and_bytes, "tidied": tidied}


@cache
def made(kind):
    return GROWING[kind]()
