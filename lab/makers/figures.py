"""Measurements of a reward model: its accuracy, and what its attention rests on."""

from collections.abc import Mapping, Sequence
from typing import SupportsFloat

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from tokengym.lab.makers.models import pad_batch


def rounded(values: Mapping[str, SupportsFloat]) -> dict[str, float]:
    """Return figures as a bundle stores them, with three digits after the point."""
    return {name: round(float(value), 3) for name, value in values.items()}


def pair_accuracy(scores: NDArray, gold: NDArray) -> float:
    """Return how many pairs of different gold score the model orders rightly, in [0, 1]."""
    gold_sign = np.sign(np.subtract.outer(gold, gold))
    score_sign = np.sign(np.subtract.outer(scores, scores))
    differ = gold_sign != 0
    return float(((gold_sign == score_sign) & differ).sum() / differ.sum())


@torch.inference_mode()
def attention_rows(
    model: PreTrainedModel,
    sequences: Sequence[Sequence[int]],
    prompt_lengths: Sequence[int],
) -> list[NDArray[np.float64]]:
    """Return ABC's weights of each response: what the reward's position attends to.

    Last layer, mean over heads, the row of the last token, restricted to the response's tokens and
    renormalised to sum 1.

    Source: Chan et al. 2024, arXiv:2402.00782.
    """
    ids, mask = pad_batch(sequences, model.config.pad_token_id)
    implementation = model.config._attn_implementation
    model.set_attn_implementation("eager")  # the only one that returns its weights
    attention = model(ids, attention_mask=mask, output_attentions=True).attentions[-1].mean(1)
    model.set_attn_implementation(implementation)
    rows = []
    for row, (sequence, start) in enumerate(zip(sequences, prompt_lengths, strict=True)):
        weights = attention[row, len(sequence) - 1, start : len(sequence)].double().numpy()
        rows.append(weights / weights.sum())
    return rows


def relative_entropy(rows: Sequence[NDArray]) -> float:
    """Return the rows' mean entropy over that of uniform rows: 1 is uniform, 0 is one token."""
    return float(
        np.mean(
            [-(w * np.log(np.maximum(w, 1e-12))).sum() / np.log(len(w)) for w in rows if len(w) > 1]
        )
    )
