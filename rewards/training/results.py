"""What training leaves behind, and the folder that appears when it is whole."""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokengym.envs.files import replacing, write_json
from tokengym.rewards.errors import RewardError
from tokengym.rewards.models.loading import quiet
from tokengym.rewards.pairs import PreferencePair
from tokengym.rewards.training.measures import PairMetrics

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MEASURES = "measures.json"
"""The file beside the model with what was measured."""
_RECORD = "training.json"


@dataclass(frozen=True, kw_only=True)
class TrainedReward:
    """What training left behind."""

    path: Path
    """Folder of the model and its tokenizer, for ``from_pretrained`` of the scorer."""
    metrics: PairMetrics
    """On the held-out pairs."""
    train_loss: float
    """Mean over training, nats."""
    pairs: int
    """How many it was trained on."""
    skipped: Mapping[str, int]
    """How many rows were left out for what, of those to train on and those held out."""


class Workplace:
    """The folder beside the result in which it is made: checkpoints first, then the model.

    Args:
        output_dir: Where the result will be.
        record: What the training depends on; one that was stopped goes on only with the same.

    Raises:
        RewardError: if the result is there already, or another training is unfinished.
    """

    def __init__(self, output_dir: str | Path, record: Mapping[str, Any]) -> None:
        self.result = Path(output_dir)
        self.folder = self.result.with_name(f"{self.result.name}.unfinished")
        if self.result.exists() and (not self.result.is_dir() or any(self.result.iterdir())):
            raise RewardError(f"{self.result} is there already; name a new folder")
        self.record = json.loads(json.dumps(record, default=str))
        self._check_record()

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints are."""
        return self.folder / "checkpoints"

    def begin(self) -> None:
        """Make the folder, and note what the training depends on."""
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / _RECORD, self.record)

    def store(
        self,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        measured: Mapping[str, Any],
    ) -> None:
        """Write model, tokenizer and measures, move them into their place, and clean up.

        Args:
            model: What was trained.
            tokenizer: Its own.
            measured: For the file of measures.
        """
        with replacing(self.result) as made:
            with quiet():
                model.save_pretrained(made)
                tokenizer.save_pretrained(made)
            (made / MEASURES).write_text(json.dumps(measured, indent=1) + "\n")
        shutil.rmtree(self.folder)

    def _check_record(self) -> None:
        file = self.folder / _RECORD
        if not file.exists():
            return
        try:
            found = json.loads(file.read_text())
        except ValueError as error:
            raise RewardError(f"{file} is damaged ({error}); delete {self.folder}") from error
        names = [
            name for name in {**self.record, **found} if found.get(name) != self.record.get(name)
        ]
        if names:
            name = names[0]
            raise RewardError(
                f"{self.folder} holds an unfinished training with {name} = {found.get(name)!r}, "
                f"this one has {self.record.get(name)!r}; go on with the same, or delete it"
            )


def measured(
    metrics: PairMetrics, losses: Sequence[float], trained_on: int, skipped: Mapping[str, int]
) -> dict[str, Any]:
    """Return what the file of measures holds.

    Args:
        metrics: On the held-out pairs.
        losses: Of each step.
        trained_on: Pairs that were trained on.
        skipped: Rows that were left out, by kind.
    """
    return {
        "held_out": asdict(metrics),
        "trained_on": trained_on,
        "skipped": dict(skipped),
        "losses": list(losses),
    }


def fingerprint(pairs: Sequence[PreferencePair]) -> str:
    """Return a hash of the pairs, by which another data set is told.

    Args:
        pairs: In their order.
    """
    digest = hashlib.sha256()
    for pair in pairs:
        digest.update(repr((pair.prompt, pair.chosen, pair.rejected, pair.margin)).encode())
    return digest.hexdigest()[:16]
