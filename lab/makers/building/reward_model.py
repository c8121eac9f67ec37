"""Training a reward model from a language model's weights, on pairs or on graded single texts."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import (
    AutoModelForSequenceClassification,
    GPT2ForSequenceClassification,
    PreTrainedModel,
)

from tokengym.lab.makers.building.training import new_model, pad_batch, train

DrawPrefixes = Callable[[], tuple[list[list[int]], list[list[float]]]]
"""Draws token ids of texts, and for each token the gold score of the text up to it; NaN where there
is none to learn, as in a prompt."""

DrawBatch = Callable[[], tuple[list[list[int]], Tensor]]
"""Draws token ids of texts and their gold scores (batch,)."""


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
    temperature: float = 4.0,
    middle: float | None = None,
    learning_rate: float = 1e-3,
    dropout: float = 0.0,
    dropout_seed: int = 0,
    label: str = "reward model",
) -> float:
    """Train in place on each batch's pairs, or on its texts; return the late training loss.

    Args:
        model: The model to train.
        draw_batch: Draws texts and their gold scores.
        steps: Optimiser steps.
        temperature: Scale of a gold difference in logits, see `bradley_terry_loss`.
        middle: Gold score of logit 0: each text is classified, see `classification_loss`. None
            compares pairs.
        learning_rate: Peak rate; 2e-3 halves the alignment of the bundled model's attention.
        dropout: In force during training only.
        dropout_seed: Seed of dropout.
        label: Shown beside the progress bar.
    """

    def loss_of_step() -> Tensor:
        sequences, gold = draw_batch()
        ids, mask = pad_batch(sequences, model.config.pad_token_id)
        logits = model(ids, attention_mask=mask).logits[:, 0]
        if middle is not None:
            return classification_loss(logits, gold, temperature=temperature, middle=middle)
        return bradley_terry_loss(logits, gold, temperature=temperature)

    return train(
        model,
        loss_of_step,
        steps=steps,
        learning_rate=learning_rate,
        dropout=dropout,
        dropout_seed=dropout_seed,
        label=label,
    )


def train_on_prefixes(
    model: GPT2ForSequenceClassification,
    draw_prefixes: DrawPrefixes,
    *,
    steps: int,
    temperature: float = 1.0,
    learning_rate: float = 1e-3,
) -> float:
    """Train in place to tell the gold score at every token; return the late training loss.

    A score at the end of a text is one number to find out what every token did; this says it
    token by token, so that much smaller models learn scores that depend on context.

    Args:
        model: The model to train.
        draw_prefixes: Draws texts with the gold scores of their prefixes.
        steps: Optimiser steps.
        temperature: A gold difference of 1 in logits.
        learning_rate: Peak rate.
    """

    def loss_of_step() -> Tensor:
        sequences, gold = draw_prefixes()
        ids, mask = pad_batch(sequences, model.config.pad_token_id)
        targets = torch.full(ids.shape, torch.nan)
        for row, scores in enumerate(gold):
            targets[row, : len(scores)] = torch.tensor(scores)
        hidden = model.transformer(ids, attention_mask=mask).last_hidden_state
        return prefix_loss(model.score(hidden)[..., 0], targets, temperature=temperature)

    return train(
        model, loss_of_step, steps=steps, learning_rate=learning_rate, label="reward model"
    )


def prefix_loss(logits: Tensor, gold: Tensor, *, temperature: float) -> Tensor:
    """Return the mean squared error at all tokens with a gold score, in units of the gold score.

    mean_{i, t: gold known} (r_it / temperature - gold_it)^2

    Args:
        logits: (batch, time) the model's reward of each text up to each token.
        gold: (batch, time) gold scores, NaN where there is none.
        temperature: A gold difference of 1 is a logit difference of this.
    """
    known = ~gold.isnan()
    return (logits[known] / temperature - gold[known]).square().mean()


def bradley_terry_loss(logits: Tensor, gold: Tensor, *, temperature: float) -> Tensor:
    """Return the cross-entropy of the model's preferences against the gold ones, over all pairs.

    P_gold(i over j) = sigmoid(temperature * (gold_i - gold_j));  P(i over j) = sigmoid(r_i - r_j)

    Args:
        logits: (batch,) the model's rewards r.
        gold: (batch,) gold scores.
        temperature: A gold difference of 1 is a logit difference of this; infinity for labels.
    """
    first, second = torch.triu_indices(len(logits), len(logits), offset=1)
    difference = gold[first] - gold[second]
    if temperature == float("inf"):  # labels: equal ones say nothing about a pair
        first, second, difference = (x[difference != 0] for x in (first, second, difference))
        preference = (difference > 0).to(logits.dtype)
    else:
        preference = torch.sigmoid(temperature * difference)
    return functional.binary_cross_entropy_with_logits(logits[first] - logits[second], preference)


def classification_loss(
    logits: Tensor, gold: Tensor, *, temperature: float, middle: float
) -> Tensor:
    """Return the cross-entropy of a classifier of good texts against graded gold labels.

    P_gold(i) = sigmoid(temperature * (gold_i - middle));  P(i) = sigmoid(r_i)

    Args:
        logits: (batch,) the model's logits r of a good text.
        gold: (batch,) gold scores.
        temperature: A gold difference of 1 is a logit difference of this.
        middle: Gold score of a text that is as good as bad.
    """
    labels = torch.sigmoid(temperature * (gold - middle))
    return functional.binary_cross_entropy_with_logits(logits, labels)


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
