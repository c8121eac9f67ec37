"""Tiny random models with tokenizers of the kinds that the hub's have, for tests and recipes."""

from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForSequenceClassification,
)

TEXTS = (
    "I thought this film would be a bore, but the cast is wonderful and the music moved me.",
    "What a waste of two hours: the plot makes no sense and the acting is dreadful.",
    "Explain in two sentences why the sky is blue, then name a book about light.",
    "Write a short poem about rain. Dear neighbour, it rained again; I love it!",
)
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def trained(
    backend: Tokenizer, trainer: Any, pre_tokenizer: Any, decoder: Any, **names: Any
) -> PreTrainedTokenizerFast:
    """Return a tokenizer trained on `TEXTS`."""
    backend.pre_tokenizer, backend.decoder = pre_tokenizer, decoder
    backend.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


def byte_level(special: list[str], **names: str) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer, as GPT-2 and Qwen have it."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=340, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    bytes_of = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return trained(Tokenizer(models.BPE()), trainer, bytes_of, decoders.ByteLevel(), **names)


@cache  # training breaks ties as it likes
def gpt2_tokenizer() -> PreTrainedTokenizerFast:
    """Return GPT-2's kind: one special token, no padding token."""
    end = "<|endoftext|>"
    return byte_level([end], eos_token=end, bos_token=end, unk_token=end)


@cache
def qwen_tokenizer(*more: str) -> PreTrainedTokenizerFast:
    """Return Qwen's kind: ChatML, whose end of a turn is EOS."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *more]
    made = byte_level(special, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    made.chat_template = CHATML
    return made


BERT_NAMES = {"pad_token": "[PAD]", "unk_token": "[UNK]", "mask_token": "[MASK]"}
BERT_NAMES |= {"cls_token": "[CLS]", "sep_token": "[SEP]"}


@cache
def wordpiece_tokenizer() -> PreTrainedTokenizerFast:
    """Return BERT's kind: lower case, pieces of words, [CLS] and [SEP] around a text."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    trainer = trainers.WordPieceTrainer(vocab_size=150, special_tokens=special, show_progress=False)
    words, pieces = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    inputs = {"model_input_names": ["input_ids", "attention_mask"]}
    return trained(backend, trainer, words, pieces, **BERT_NAMES, **inputs)


@cache
def sentencepiece_tokenizer() -> PreTrainedTokenizerFast:
    """Return DeBERTa-v3's kind: Unigram over words that begin with their space."""
    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
    backend = Tokenizer(models.Unigram())
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    trainer = trainers.UnigramTrainer(
        vocab_size=150, special_tokens=special, unk_token="[UNK]", show_progress=False
    )
    spaces, ends = pre_tokenizers.Metaspace(), {"bos_token": "[CLS]", "eos_token": "[SEP]"}
    return trained(backend, trainer, spaces, decoders.Metaspace(), **BERT_NAMES, **ends)


def _small(tokenizer: PreTrainedTokenizerFast, **more: Any) -> dict[str, Any]:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    pad = tokenizer.pad_token_id
    return (
        {"vocab_size": len(tokenizer), "intermediate_size": 32, "pad_token_id": pad} | sizes | more
    )


def make(kind: str, *, seed: int = 0) -> tuple[Any, PreTrainedTokenizerFast]:
    """Return a tiny random model and its tokenizer.

    Args:
        kind: "gpt2", "qwen2" (policies), "distilbert" (two classes), "deberta" or "qwen3" (one
            logit).
        seed: Seed of the weights.
    """
    torch.manual_seed(seed)
    if kind == "gpt2":
        tokenizer = gpt2_tokenizer()
        sizes: dict[str, Any] = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 128}
        return GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **sizes)), tokenizer
    if kind == "qwen2":
        tokenizer = qwen_tokenizer()
        own = _small(tokenizer, num_key_value_heads=1, tie_word_embeddings=True)
        own |= {"vocab_size": len(tokenizer) + 2, "eos_token_id": tokenizer.eos_token_id}
        return Qwen2ForCausalLM(Qwen2Config(**own)), tokenizer
    if kind == "qwen3":
        tokenizer = qwen_tokenizer("<think>", "</think>")
        own = _small(tokenizer, num_key_value_heads=1, head_dim=8, num_labels=1)
        model: Any = Qwen3ForSequenceClassification(Qwen3Config(**own))
    elif kind == "distilbert":
        tokenizer = wordpiece_tokenizer()
        own = {"vocab_size": len(tokenizer), "dim": 16, "n_layers": 2, "n_heads": 2}
        own |= {"hidden_dim": 32, "max_position_embeddings": 128}
        own |= {"id2label": {0: "NEGATIVE", 1: "POSITIVE"}}
        own |= {"label2id": {"NEGATIVE": 0, "POSITIVE": 1}}
        model = DistilBertForSequenceClassification(DistilBertConfig(**own))
    else:
        tokenizer = sentencepiece_tokenizer()
        own = _small(tokenizer, num_labels=1, relative_attention=True, type_vocab_size=0)
        own |= {"pos_att_type": ["p2c", "c2p"], "share_att_key": True, "position_buckets": 8}
        own |= {"position_biased_input": False, "norm_rel_ebd": "layer_norm"}
        model = DebertaV2ForSequenceClassification(DebertaV2Config(**own))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(15.0 if parameter.ndim > 1 else 1.0)  # no two texts score alike
    return model.eval(), tokenizer


def save(kind: str, folder: Path) -> str:
    """Store a model and its tokenizer in a folder; return its path."""
    model, tokenizer = make(kind)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
