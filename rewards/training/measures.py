"""What a model does with pairs that it was not trained on."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from tokengym.rewards.maths.pairwise import (
    ReliabilityBin,
    calibration_error,
    length_correlation,
    pair_accuracy,
    reliability,
    sigmoid,
    wilson_interval,
)
from tokengym.rewards.models.batching import padded_batches
from tokengym.rewards.models.loading import evaluating
from tokengym.rewards.pairs import PreferencePair
from tokengym.rewards.training.readers import PairReader, PreferenceReader, Sequences


@dataclass(frozen=True, kw_only=True)
class PairMetrics:
    """What a model does with pairs it was not trained on."""

    pairs: int
    """How many."""
    accuracy: float
    """Share in the right order; a tie counts as half."""
    accuracy_interval: tuple[float, float]
    """Wilson's 95 % interval of the accuracy, over pairs; not over trainings."""
    loss: float
    """Mean -log P(chosen is better), nats; log 2 for a model that knows nothing."""
    calibration_error: float
    """Expected calibration error of the implied preferences."""
    length_correlation: float
    """How far the longer response is preferred, in [-1, 1]."""
    longer_accuracy: float
    """Accuracy of preferring the longer response, whatever it says: what a model must beat."""
    position_bias: float | None
    """Mean P(A is better) - 1/2 over both orders; None for a reward model, which has no order."""
    reliability: tuple[ReliabilityBin, ...]
    """Confidence against accuracy, bin by bin."""


def measure_pairs(
    reader: PairReader,
    pairs: Sequence[PreferencePair],
    sequences: Sequence[Sequences],
    *,
    batch_size: int,
) -> PairMetrics:
    """Return what the model does with pairs.

    Args:
        reader: The model, and how it reads.
        pairs: Held-out pairs.
        sequences: Their ids.
        batch_size: Pairs per forward pass.
    """
    values = _values(reader, sequences, 2 * batch_size)
    differences = reader.log_odds(values[::2], values[1::2])
    lengths = [len(pair.chosen) - len(pair.rejected) for pair in pairs]
    accuracy = pair_accuracy(differences)
    bias = None
    if isinstance(reader, PreferenceReader):
        bias = float(sigmoid(values).mean() - 0.5)
    return PairMetrics(
        pairs=len(pairs),
        accuracy=accuracy,
        accuracy_interval=wilson_interval(accuracy, len(pairs)),
        loss=float(np.logaddexp(0.0, -differences).mean()),
        calibration_error=calibration_error(differences),
        length_correlation=length_correlation(differences, lengths),
        longer_accuracy=pair_accuracy(lengths),
        position_bias=bias,
        reliability=reliability(differences),
    )


def _values(
    reader: PairReader, sequences: Sequence[Sequences], batch_size: int
) -> NDArray[np.float64]:
    """Return the number of each sequence, (2 * pairs,), first and second of each pair in turn."""
    flat = [ids for pair in sequences for ids in pair]
    values = np.zeros(len(flat))
    device = reader.model.device
    with evaluating(reader.model), torch.no_grad():
        for batch in padded_batches(flat, batch_size=batch_size, padding_side=reader.padding_side):
            arrays = (batch.input_ids, batch.attention_mask, batch.position_ids)
            tensors = [torch.from_numpy(array).to(device) for array in arrays]
            values[batch.indices] = reader.values(*tensors).double().cpu().numpy()
    return values
