"""A tiny reward model that learns from pairs of good and bad."""

# mypy: no-check-untyped-defs
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, GPT2LMHeadModel, PreTrainedTokenizerFast

from tests.support.rewards.common import make_classifier
from tokengym.rewards import train_reward_model
from tokengym.rewards.pairs import PreferencePair


def good_and_bad(count, seed=0):
    """Return pairs of which the chosen one has an "a" where the other has a "b"."""
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(count):
        words = rng.choice(list("cdefgh"), size=5)
        place = rng.integers(5)
        texts = []
        for word in "ab":
            words[place] = word
            texts.append(" " + " ".join(words))
        prompt = " ".join(rng.choice(list("cdefgh"), size=3))
        pairs.append(PreferencePair(prompt=prompt, chosen=texts[0], rejected=texts[1]))
    return pairs


def learned(count, start, out, *, train=train_reward_model, **options):
    """Train on so many pairs, and hold out 40 others."""
    others = good_and_bad(40, seed=1)
    return train(start, good_and_bad(count), output_dir=out, held_out=others, **options)


@pytest.fixture(scope="module")
def language_model(tmp_path_factory, tokenizer):
    folder = tmp_path_factory.mktemp("models") / "lm"
    torch.manual_seed(0)
    GPT2LMHeadModel(make_classifier().config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(params=["causal", "encoder"])
def start(request, language_model, encoder):
    return language_model if request.param == "causal" else encoder[0]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """Return the folder of a tiny BERT without a head, and its tokenizer."""
    words = {word: i for i, word in enumerate(["[PAD]", "[CLS]", "[SEP]", "[UNK]", *"abcdefgh"])}
    backend = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    special = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    own = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", **special)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(vocab_size=12, intermediate_size=32, max_position_embeddings=16, **sizes)
    folder = tmp_path_factory.mktemp("models") / "encoder"
    BertModel(config).save_pretrained(folder)
    own.save_pretrained(folder)
    return folder, own
