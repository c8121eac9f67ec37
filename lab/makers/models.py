"""Training of small models from nothing: a GPT-2 of texts, and reward models that begin from it.

The loop is not ``transformers.Trainer``: every draw from the makers' own generators decides the
bytes of what is written.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm.auto import tqdm
from transformers import (
    AutoModelForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from tokengym.lab.makers.options import BuildError

Model = TypeVar("Model", bound=PreTrainedModel)


def new_model(make: Callable[[Any], Model], config: PretrainedConfig, *, seed: int) -> Model:
    """Return an untrained model for evaluation; the global random state stays as it was.

    Args:
        make: Class of the model, or another function of its configuration.
        config: The configuration.
        seed: Seed of the weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make(config).eval()


def pad_batch(
    sequences: Sequence[Sequence[int]], pad_token_id: int | None
) -> tuple[Tensor, Tensor]:
    """Return right-padded ids and their mask, both (batch, longest) int64."""
    assert pad_token_id is not None, "the builder's models are made with one"
    longest = max(map(len, sequences))
    ids = torch.full((len(sequences), longest), pad_token_id)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.tensor(sequence, dtype=torch.long)
        mask[row, : len(sequence)] = 1
    return ids, mask


def train(
    model: nn.Module,
    loss_of_step: Callable[[], Tensor],
    *,
    steps: int,
    learning_rate: float,
    label: str,
    dropout: float = 0.0,
    dropout_seed: int = 0,
    weight_decay: float = 0.01,
    warm_up: float = 0.1,
) -> float:
    """Minimise a loss by AdamW under a linear warm-up and decay; return its late mean.

    Args:
        model: Its parameters are trained in place; left in evaluation mode.
        loss_of_step: Draws a batch and returns its loss, a scalar.
        steps: Optimiser steps.
        learning_rate: The peak of the schedule.
        label: Shown beside the progress bar.
        dropout: In force during training only; the model is left with none.
        dropout_seed: Seed of dropout; the global random state stays as it was.
        weight_decay: Decoupled, as in AdamW.
        warm_up: Fraction of the steps before the peak.

    Returns:
        The mean loss of the last tenth of the steps.

    Raises:
        FloatingPointError: if the loss is not finite.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    rise = max(1, round(warm_up * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / rise, (steps - step) / max(1, steps - rise))
    )
    losses: list[float] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(dropout_seed)
        _set_dropout(model.train(), dropout)
        for step in progress(range(steps), label):
            loss = loss_of_step()
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                raise FloatingPointError(
                    f"{label}: the loss of step {step} is {losses[-1]}; lower learning_rate "
                    f"(now {learning_rate})"
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    _set_dropout(model.eval(), 0.0)
    late = losses[-max(1, steps // 10) :]
    return sum(late) / len(late)


def progress(items: Iterable, label: str) -> Iterable:
    """Return the items behind a progress bar."""
    return tqdm(items, desc=f"{label:<22}", mininterval=1.0)


def choose(count: int, size: int, generator: torch.Generator) -> list[int]:
    """Return ``size`` indices below ``count``, drawn with replacement."""
    return torch.randint(count, (size,), generator=generator).tolist()


def _set_dropout(model: nn.Module, probability: float) -> None:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = probability


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """Shape of a GPT-2."""

    layers: int = 2
    """Transformer blocks."""
    width: int = 96
    """Hidden size."""
    heads: int = 4
    """Attention heads, a divisor of the width."""
    positions: int = 256
    """Longest text in tokens."""

    def __post_init__(self) -> None:
        if min(self.layers, self.width, self.heads, self.positions) < 1 or self.width % self.heads:
            raise BuildError(
                "a model's layers, width, heads and positions must be >= 1 and heads must divide "
                f"width, got {self.layers}, {self.width}, {self.heads}, {self.positions}"
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
    )
    return new_model(GPT2LMHeadModel, config, seed=seed)


def train_language_model(
    model: PreTrainedModel,
    sequences: Sequence[Sequence[int]],
    *,
    steps: int,
    generator: torch.Generator,
    learning_rate: float = 3e-3,
    batch_size: int = 32,
    dropout: float = 0.0,
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
    """

    def loss_of_step() -> Tensor:
        chosen = choose(len(sequences), batch_size, generator)
        return language_model_loss(model, [sequences[i] for i in chosen])

    return train(
        model,
        loss_of_step,
        steps=steps,
        learning_rate=learning_rate,
        dropout=dropout,
        dropout_seed=generator.initial_seed(),
        label="language model",
    )


def language_model_loss(model: PreTrainedModel, sequences: Sequence[Sequence[int]]) -> Tensor:
    """Return the mean negative log-probability of the texts' tokens but the first, in nats."""
    ids, mask = pad_batch(sequences, model.config.pad_token_id)
    logits = model(ids, attention_mask=mask).logits[:, :-1]
    targets = ids[:, 1:].masked_fill(mask[:, 1:] == 0, -100)
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
        rows = _sample_batch(model, ids, max_tokens, temperature, generator)
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


DrawBatch = Callable[[], tuple[list[list[int]], Tensor]]
"""Draws token ids of texts and their labels (batch,), 1 or 0."""


def reward_model_from(language_model: PreTrainedModel, *, seed: int) -> Any:
    """Return a one-logit classifier of its architecture on the language model's trunk.

    Started from scratch instead, its attention finds no opinion words (correlation about 0).
    """
    config = type(language_model.config).from_dict(language_model.config.to_dict())
    config.num_labels = 1
    model = new_model(AutoModelForSequenceClassification.from_config, config, seed=seed)
    model.base_model.load_state_dict(language_model.base_model.state_dict())
    return model


def train_reward_model(
    model: PreTrainedModel,
    draw_batch: DrawBatch,
    *,
    steps: int,
    learning_rate: float = 1e-3,
    dropout: float = 0.0,
    dropout_seed: int = 0,
    label: str = "reward model",
) -> float:
    """Train in place on the pairs of each batch; return the late training loss.

    Args:
        model: The model to train.
        draw_batch: Draws texts and their labels.
        steps: Optimiser steps.
        learning_rate: Peak rate.
        dropout: In force during training only.
        dropout_seed: Seed of dropout.
        label: Shown beside the progress bar.
    """

    def loss_of_step() -> Tensor:
        sequences, labels = draw_batch()
        ids, mask = pad_batch(sequences, model.config.pad_token_id)
        return bradley_terry_loss(model(ids, attention_mask=mask).logits[:, 0], labels)

    return train(
        model,
        loss_of_step,
        steps=steps,
        learning_rate=learning_rate,
        dropout=dropout,
        dropout_seed=dropout_seed,
        label=label,
    )


def bradley_terry_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of the model's preferences, over all pairs of unlike labels.

    P(i over j) = sigmoid(r_i - r_j)

    Args:
        logits: (batch,) the model's rewards r.
        labels: (batch,) what each text is worth; equal ones say nothing about a pair.
    """
    first, second = torch.triu_indices(len(logits), len(logits), offset=1)
    difference = labels[first] - labels[second]
    first, second, difference = (x[difference != 0] for x in (first, second, difference))
    preference = (difference > 0).to(logits.dtype)
    return functional.binary_cross_entropy_with_logits(logits[first] - logits[second], preference)


@torch.inference_mode()
def reward_logits(
    model: PreTrainedModel, sequences: Sequence[Sequence[int]], batch_size: int = 128
) -> Tensor:
    """Return the reward of each text, (len(sequences),)."""
    logits = []
    for start in range(0, len(sequences), batch_size):
        ids, mask = pad_batch(sequences[start : start + batch_size], model.config.pad_token_id)
        logits.append(model(ids, attention_mask=mask).logits[:, 0])
    return torch.cat(logits)
