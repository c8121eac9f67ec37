"""Results of a training: measurements on held-out pairs, and the model's folder."""

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit

from tokengym.base import behind_link, locked, read_json, replacing, write_json
from tokengym.lab.tables import wilson_interval
from tokengym.lab.training.pairwise import (
    ReliabilityBin,
    calibration_error,
    length_correlation,
    pair_accuracy,
    reliability,
)
from tokengym.lab.training.readers import PairReader, PreferenceReader, Sequences
from tokengym.rewards import FORM_FILE, FORM_KEY, PreferencePair, RewardError
from tokengym.rewards.models import quiet, reading

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MEASURES = "measures.json"
"""Name of the file of measurements beside the model."""
UNDERTRAINED = 0.7
"""Accuracy on the training pairs below which a model has not learned them; chance is 0.5."""
READ_AGAIN = 512
"""Most training pairs by which that is measured."""
_RECORD = "training.json"


@dataclass(frozen=True, kw_only=True)
class PairMetrics:
    """Measurements of a model on pairs that it was not trained on."""

    pairs: int
    """Number of pairs."""
    accuracy: float
    """Share in the right order; a tie counts as half."""
    accuracy_interval: tuple[float, float]
    """Wilson's interval of the accuracy, over pairs; not over trainings."""
    loss: float
    """Mean -log P(chosen is better), nats; log 2 for a model that knows nothing."""
    calibration_error: float
    """Expected calibration error of the implied preferences."""
    length_correlation: float
    """Preference for the longer response, in [-1, 1]."""
    longer_accuracy: float
    """Accuracy of preferring the longer response, whatever it says: what a model must beat."""
    position_bias: float | None
    """Mean P(A is better) - 1/2 over both orders; None for a reward model, which has no order."""
    good_share: float | None
    """Share of good ones among labelled texts; None for pairs. Lengths mean nothing then."""
    reliability: tuple[ReliabilityBin, ...]
    """Confidence against accuracy, bin by bin."""


def measure_pairs(
    reader: PairReader,
    pairs: Sequence[PreferencePair],
    sequences: Sequence[Sequences],
    *,
    batch_size: int,
) -> PairMetrics:
    """Return the measurements of a model on pairs."""
    values = _values(reader, sequences, 2 * batch_size)
    differences = reader.log_odds(values[::2], values[1::2])
    labelled = not all(pair.chosen and pair.rejected for pair in pairs)
    lengths = [len(pair.chosen) - len(pair.rejected) for pair in pairs]
    accuracy = pair_accuracy(differences)
    bias = None
    if isinstance(reader, PreferenceReader):
        bias = float(expit(values).mean() - 0.5)
    return PairMetrics(
        pairs=len(pairs),
        accuracy=accuracy,
        accuracy_interval=wilson_interval(accuracy, len(pairs)),
        loss=float(np.logaddexp(0.0, -differences).mean()),
        calibration_error=calibration_error(differences),
        length_correlation=length_correlation(differences, lengths),
        longer_accuracy=pair_accuracy(lengths),
        position_bias=bias,
        good_share=pair_accuracy(lengths) if labelled else None,
        reliability=reliability(differences),
    )


def accuracy_again(reader: PairReader, sequences: Sequence[Sequences], *, batch_size: int) -> float:
    """Return the accuracy on pairs that a model was trained on.

    Args:
        reader: The model, and how it reads.
        sequences: Their ids; of more than `READ_AGAIN`, that many at equal distances are read.
        batch_size: Pairs per forward pass.
    """
    count = min(len(sequences), READ_AGAIN)
    some = [sequences[index * len(sequences) // count] for index in range(count)]
    values = _values(reader, some, 2 * batch_size)
    return pair_accuracy(reader.log_odds(values[::2], values[1::2]))


def _values(
    reader: PairReader, sequences: Sequence[Sequences], batch_size: int
) -> NDArray[np.float64]:
    """Return the number of each sequence, (2 * pairs,), first and second of each pair in turn.

    An empty sequence's is 0.
    """
    everything = [ids for pair in sequences for ids in pair]
    values = np.zeros(len(everything))
    with reading(
        reader.model,
        everything,
        batch_size=batch_size,
        padding_side=reader.padding_side,
        positions=True,
    ) as batches:
        for batch in batches:
            numbers = reader.values(**batch.tensors)
            values[batch.indices] = numbers.double().cpu().numpy()
    return values


# --- on disk --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class TrainedReward:
    """A trained model on disk, with its measurements."""

    path: Path
    """Folder of the model and its tokenizer, for ``from_pretrained`` of the scorer."""
    metrics: PairMetrics
    """On the held-out pairs."""
    train_loss: float
    """Mean over the optimiser steps, nats."""
    train_accuracy: float
    """Share in the right order of (at most 512 of) the pairs it was trained on."""
    pairs: int
    """Number of pairs it was trained on."""
    skipped: Mapping[str, int]
    """Number of rows left out, by reason, of those to train on and those held out."""

    @property
    def undertrained(self) -> bool:
        """Whether the model orders too few of even its training pairs rightly."""
        return self.train_accuracy < UNDERTRAINED


class TrainerPaths:
    """The folder beside the result in which it is made: checkpoints first, then the model.

    Args:
        output_dir: Where the result will be.
        record: Everything that the training depends on; it is resumed only with the same.
    """

    def __init__(self, output_dir: str | Path, record: Mapping[str, Any]) -> None:
        self.result = behind_link(output_dir)
        self.folder = self.result.with_name(f"{self.result.name}.unfinished")
        self.record = json.loads(json.dumps(record, default=str))

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.folder / "checkpoints"

    @contextmanager
    def begun(self) -> Iterator[None]:
        """Make the folder and keep other processes out of it while the block runs."""
        with locked(self.folder):
            if self.result.exists() and (not self.result.is_dir() or any(self.result.iterdir())):
                raise RewardError(f"{self.result} already exists; name a new folder")
            self._check_record()
            self.checkpoints.mkdir(exist_ok=True)
            write_json(self.folder / _RECORD, self.record)
            yield

    def store(
        self,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        measured: Mapping[str, Any],
    ) -> None:
        """Write model, tokenizer and measures, move them into their place, and clean up."""
        with replacing(self.result) as made:
            with quiet():
                model.save_pretrained(made)
                tokenizer.save_pretrained(made)
            form = getattr(model.config, FORM_KEY, None)
            if form is not None and not (made / "config.json").exists():  # of adapters
                (made / FORM_FILE).write_text(json.dumps({FORM_KEY: form}) + "\n")
            (made / MEASURES).write_text(json.dumps(measured, indent=1) + "\n")
        shutil.rmtree(self.folder)

    def _check_record(self) -> None:
        file = self.folder / _RECORD
        if not file.exists():
            return
        try:
            stored = read_json(file)
        except ValueError as error:
            raise RewardError(f"{file} is damaged ({error}); delete {self.folder}") from error
        names = [
            name for name in {**self.record, **stored} if stored.get(name) != self.record.get(name)
        ]
        if names:
            name = names[0]
            raise RewardError(
                f"{self.folder} holds an unfinished training with {name} = {stored.get(name)!r}, "
                f"this one has {self.record.get(name)!r}; resume with the same, or delete it"
            )


def fingerprint(rows: Iterable[object]) -> str:
    """Return a hash of rows, as they are written, by which another data set is told."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(repr(row).encode())
    return digest.hexdigest()[:16]


def hash_weights(model: torch.nn.Module) -> str:
    """Return a hash of a model's weights, by which another one is told."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        # A scalar cannot be viewed as bytes.
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
