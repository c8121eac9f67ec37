"""Training of the makers' models: padded batches, untrained models, and one loop for all.

The loop is not ``transformers.Trainer``: batches are drawn from grammars, without a data set, and
every draw from the makers' own generators decides the bytes of what is written.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import PretrainedConfig, PreTrainedModel

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
