"""Training a small causal language model, and sampling texts from it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from tokengym.lab.makers.building.options import BuildError
from tokengym.lab.makers.building.training import (
    choose,
    new_model,
    pad_batch,
    progress,
    train,
)

_MATCHING_GAIN = 2.0**0.5
"""Gain of queries and keys alike: a word then outweighs some fifty others."""


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """Shape of a GPT-2."""

    layers: int = 2
    """Transformer blocks. Three lose the alignment of the reward model's attention."""
    width: int = 96
    """Hidden size."""
    heads: int = 4
    """Attention heads, a divisor of the width."""
    positions: int = 256
    """Longest text in tokens."""
    initializer_range: float = 0.02
    """Deviation of the initial weights. GPT-2's is for wide models: at width 96 attention begins
    all but uniform; words are copied from a prompt after some 450 steps, with 0.08 after 100."""
    matching_heads: int = 0
    """Heads of the first block whose queries begin equal to their keys, so that a word looks for
    itself earlier in the text: for a reward model that compares a response with its prompt."""

    def __post_init__(self) -> None:
        if min(self.layers, self.width, self.heads, self.positions) < 1 or self.width % self.heads:
            raise BuildError(
                "a model's layers, width, heads and positions must be >= 1 and heads must divide "
                f"width, got {self.layers}, {self.width}, {self.heads}, {self.positions}"
            )
        if not self.initializer_range > 0 or not 0 <= self.matching_heads <= self.heads:
            raise BuildError(
                f"initializer_range must be > 0 and matching_heads from 0 to heads={self.heads}, "
                f"got {self.initializer_range} and {self.matching_heads}"
            )


def new_language_model(
    tokenizer: PreTrainedTokenizerFast, size: ModelSize, *, seed: int
) -> GPT2LMHeadModel:
    """Return an untrained GPT-2 without dropout."""
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=size.positions,
        n_embd=size.width,
        n_layer=size.layers,
        n_head=size.heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        summary_first_dropout=0.0,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=size.initializer_range,
    )
    model = new_model(GPT2LMHeadModel, config, seed=seed)
    if size.matching_heads:
        block: Any = model.transformer.h[0]
        weight = block.attn.c_attn.weight  # (width, queries | keys | values)
        columns = size.matching_heads * (size.width // size.heads)
        keys = slice(size.width, size.width + columns)
        with torch.no_grad():  # the first block's matching heads ask for what they hold
            weight[:, keys] *= _MATCHING_GAIN
            weight[:, :columns] = weight[:, keys]
            model.transformer.wpe.weight *= 0.5  # less of a word is where it stands
    return model


def train_language_model(
    model: PreTrainedModel,
    sequences: Sequence[Sequence[int]],
    *,
    steps: int,
    generator: torch.Generator,
    learning_rate: float = 3e-3,
    batch_size: int = 32,
    dropout: float = 0.0,
    starts: Sequence[int] | None = None,
) -> float:
    """Train on next-token prediction in place; return the late training loss in nats per token.

    Args:
        model: The model to train.
        sequences: Token ids of texts, the EOS included.
        steps: Optimiser steps.
        generator: Draws the batches.
        learning_rate: Peak rate.
        batch_size: Texts per step.
        dropout: In force during training only.
        starts: Tokens at each text's beginning that are only read, a prompt; None learns all.
    """

    def loss_of_step() -> Tensor:
        chosen = choose(len(sequences), batch_size, generator)
        read = None if starts is None else [starts[i] for i in chosen]
        return language_model_loss(model, [sequences[i] for i in chosen], read)

    return train(
        model,
        loss_of_step,
        steps=steps,
        learning_rate=learning_rate,
        dropout=dropout,
        dropout_seed=generator.initial_seed(),
        label="language model",
    )


def language_model_loss(
    model: PreTrainedModel,
    sequences: Sequence[Sequence[int]],
    starts: Sequence[int] | None = None,
) -> Tensor:
    """Return the mean negative log-probability of the texts' tokens, in nats.

    Args:
        model: The model.
        sequences: Token ids of texts.
        starts: Tokens at each text's beginning that do not count; None leaves out the first.
    """
    ids, mask = pad_batch(sequences, model.config.pad_token_id)
    logits = model(ids, attention_mask=mask).logits[:, :-1]
    targets = ids[:, 1:].masked_fill(mask[:, 1:] == 0, -100)
    for row, start in enumerate(starts or ()):
        targets[row, : max(0, start - 1)] = -100
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)


@torch.inference_mode()
def held_out_nats(
    model: GPT2LMHeadModel, sequences: Sequence[Sequence[int]], batch_size: int = 64
) -> float:
    """Return the mean nats per token over all the texts."""
    total, count = 0.0, 0
    for start in range(0, len(sequences), batch_size):
        batch = sequences[start : start + batch_size]
        tokens = sum(len(sequence) - 1 for sequence in batch)
        total += language_model_loss(model, batch).item() * tokens
        count += tokens
    return total / count


@torch.inference_mode()
def sample_texts(
    model: GPT2LMHeadModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_tokens: int,
    max_new_tokens: int | None = None,
    temperature: float,
    generator: torch.Generator,
    batch_size: int = 256,
    label: str = "samples",
) -> list[list[int]]:
    """Return each prompt with a sampled continuation, cut after the first EOS.

    Args:
        model: Samples from its full softmax, the padding token left out.
        prompts: Token ids, at least one each.
        max_tokens: Length of prompt and continuation together.
        max_new_tokens: Length of the continuation alone; None leaves only the other limit.
        temperature: Divides the logits.
        generator: Draws the tokens.
        batch_size: Rows sampled together.
        label: Shown beside the progress bar.
    """
    # Rows of one prompt length need no padding, so they are sampled together.
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    groups: list[list[int]] = []
    for index in order:
        last = groups[-1] if groups else []
        if last and len(last) < batch_size and len(prompts[last[0]]) == len(prompts[index]):
            last.append(index)
        else:
            groups.append([index])
    texts: list[list[int]] = [[]] * len(prompts)
    for group in progress(groups, label):
        ids = torch.tensor([list(prompts[index]) for index in group])
        longest = max_tokens
        if max_new_tokens is not None:
            longest = min(max_tokens, ids.shape[1] + max_new_tokens)
        rows = _sample_batch(model, ids, longest, temperature, generator)
        for index, row in zip(group, rows, strict=True):
            texts[index] = row
    return texts


def _sample_batch(
    model: GPT2LMHeadModel,
    ids: Tensor,
    max_tokens: int,
    temperature: float,
    generator: torch.Generator,
) -> list[list[int]]:
    start, eos = ids.shape[1], model.config.eos_token_id
    finished = torch.zeros(len(ids), dtype=torch.bool)
    output = model(ids, use_cache=True)
    while ids.shape[1] < max_tokens and not finished.all():
        logits = output.logits[:, -1] / temperature
        logits[:, model.config.pad_token_id] = -torch.inf  # never trained on, and no word of a text
        probabilities = torch.softmax(logits, dim=-1)
        token = torch.multinomial(probabilities, 1, generator=generator)  # (rows, 1)
        finished |= token[:, 0] == eos
        ids = torch.cat([ids, token], dim=1)
        output = model(token, past_key_values=output.past_key_values, use_cache=True)
    rows = ids.tolist()
    return [row[: row.index(eos, start) + 1] if eos in row[start:] else row for row in rows]
