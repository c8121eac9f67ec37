"""A tokenizer of characters, and a reward model that reads by it."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from tests.support.rewards.alignment import byte_tokenizer
from tests.support.rewards.common import make_classifier

TEXT = "naïve 😀 and 漢字, and é"


def character_tokenizer(bos=False):
    """Return a tokenizer of single characters: pad, eos, bos, unk, then all that the tests use."""
    characters = sorted(set("abcdefghijklmnopqrst ,.!?x0123456789" + TEXT))
    vocabulary = {word: i for i, word in enumerate(["<pad>", "</s>", "<s>", "<unk>", *characters])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.decoder = decoders.Fuse()
    if bos:
        backend.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 1)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        eos_token="</s>",
        bos_token="<s>",
        unk_token="<unk>",
    )


def model_of(tokenizer, seed=0):
    return make_classifier(vocab_size=len(tokenizer), seed=seed)


PAIRS = [(byte_tokenizer, character_tokenizer), (character_tokenizer, byte_tokenizer)]
