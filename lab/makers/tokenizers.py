"""Byte-level BPE, trained on a corpus."""

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tokengym.lab.makers.options import BuildError

PAD, EOS = "<pad>", "<eos>"


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
    # Cleaning up spaces would turn "fine ." into "fine." and lose the round trip.
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=None,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
