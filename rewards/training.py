"""Training a reward model from preference pairs: Bradley-Terry, by ``transformers.Trainer``."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tokengym.envs.text import encode
from tokengym.rewards.batching import PaddedBatch, padded_batches
from tokengym.rewards.errors import RewardError
from tokengym.rewards.pair_files import read_pairs
from tokengym.rewards.pairs import PreferencePair, split_pairs
from tokengym.rewards.preference_losses import (
    bradley_terry_loss,
    calibration_error,
    length_correlation,
    pair_accuracy,
)
from tokengym.rewards.scorers.classifier import Classifier
from tokengym.rewards.scorers.models import evaluating, load_tokenizer

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RewardTraining:
    """How a reward model is trained. Defaults: Dong et al. 2024, arXiv:2405.07863."""

    learning_rate: float = 2e-6
    """Peak rate; cosine decay. Tiny models and adapters want 1e-4 to 1e-3."""
    epochs: float = 1.0
    """Passes over the pairs; more than one overfits in the paper."""
    batch_size: int = 512
    """Pairs per optimiser step."""
    micro_batch_size: int = 16
    """Pairs per forward pass; the rest of a batch is accumulated."""
    warmup: float = 0.03
    """Share of the steps with a rising rate."""
    weight_decay: float = 0.0
    """Of AdamW."""
    max_tokens: int = 512
    """Longest text; longer ones lose their beginning."""
    append_eos: bool = True
    """Whether texts end with EOS, as responses that were finished do."""
    seed: int = 0
    """Of the new head, the order of pairs and dropout."""

    def __post_init__(self) -> None:
        for name in ("learning_rate", "epochs", "batch_size", "micro_batch_size", "max_tokens"):
            if not getattr(self, name) > 0:
                raise RewardError(f"{name} must be > 0, got {getattr(self, name)}")
        if not 0.0 <= self.warmup < 1.0:
            raise RewardError(f"warmup must be a share of the steps in [0, 1), got {self.warmup}")


@dataclass(frozen=True, kw_only=True)
class PairMetrics:
    """What a reward model does with pairs it was not trained on."""

    pairs: int
    """How many."""
    accuracy: float
    """Share in the right order."""
    loss: float
    """Mean Bradley-Terry loss without margins, nats; log 2 for a model that knows nothing."""
    calibration_error: float
    """Expected calibration error of the implied preferences."""
    length_correlation: float
    """How far the longer response gets the higher score, in [-1, 1]."""


@dataclass(frozen=True, kw_only=True)
class TrainedReward:
    """What training left behind."""

    path: Path
    """Folder of the model and its tokenizer, for ``RewardModel.from_pretrained``."""
    metrics: PairMetrics
    """On the held-out pairs."""
    train_loss: float
    """Mean over training, nats."""


def train_reward_model(
    model: "str | Path | PreTrainedModel",
    pairs: Any,
    *,
    output_dir: str | Path,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    held_out: Any = 0.1,
    lora: "LoraConfig | None" = None,
    training: RewardTraining | None = None,
) -> TrainedReward:
    """Train a reward model on preference pairs, store it, and measure it on held-out pairs.

    loss = -log sigmoid(R(x, y_w) - R(x, y_l) - margin), R the one logit at the text's last token

    Args:
        model: Where it starts from: the folder or hub name of a causal language model or a
            classifier, or a classifier with one logit. A missing head is initialised.
        pairs: As for `read_pairs`: columns chosen and rejected, and maybe prompt and margin.
        output_dir: Where the model and its tokenizer are stored.
        tokenizer: The model's; None loads the one beside it.
        held_out: Share of the pairs that is held out, or other pairs.
        lora: Trains adapters of this configuration and the head, and merges them before storing.
        training: How; see `RewardTraining`.

    Raises:
        RewardError: if there is no tokenizer, or the loss is no longer finite.
        ScorerError: if the model has no head for one score.
        DatasetError: if the pairs cannot be read.
    """
    training = training or RewardTraining()
    everything = read_pairs(pairs)
    train_pairs: Sequence[PreferencePair] = everything
    if isinstance(held_out, float):
        sides = split_pairs(everything, held_out)
        train_pairs, test_pairs = ([everything[place] for place in side] for side in sides)
    else:
        test_pairs = list(read_pairs(held_out))
    network = _load(model, training.seed)
    tokenizer = tokenizer or (load_tokenizer(model) if isinstance(model, (str, Path)) else None)
    if tokenizer is None:
        raise RewardError("the reward model needs its tokenizer; pass tokenizer=")
    classifier = Classifier(network, None)
    adapted: Any = network
    if lora is not None:
        from peft import get_peft_model

        # The layers are replaced inside the network, so the classifier reads the adapters too.
        adapted = get_peft_model(network, lora)
        classifier = Classifier(adapted.get_base_model(), None)
    else:
        network.requires_grad_(True)
    train_loss = _fit(adapted, classifier, encode_pairs(train_pairs, tokenizer, training), training)
    if lora is not None:
        network = adapted.merge_and_unload()
        classifier = Classifier(network, None)
    metrics = measure_pairs(classifier, test_pairs, tokenizer, training)
    folder = Path(output_dir)
    if network.config.pad_token_id is None:
        network.config.pad_token_id = tokenizer.pad_token_id
    network.eval()
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _LOG.info("reward model in %s: %s", folder, asdict(metrics))
    return TrainedReward(path=folder, metrics=metrics, train_loss=train_loss)


def encode_pairs(
    pairs: Sequence[PreferencePair], tokenizer: "PreTrainedTokenizerBase", training: RewardTraining
) -> list[dict[str, Any]]:
    """Return the pairs as ids: "chosen", "rejected" and "margin".

    Args:
        pairs: What is encoded.
        tokenizer: By which tokenizer.
        training: Says how long texts may be, and whether EOS ends them.
    """
    texts = [pair.prompt + text for pair in pairs for text in (pair.chosen, pair.rejected)]
    end = [tokenizer.eos_token_id] if training.append_eos else []
    room = training.max_tokens - len(end)
    ids = [[*tokens[-room:], *end] for tokens in encode(tokenizer, texts)]
    return [
        {"chosen": ids[2 * row], "rejected": ids[2 * row + 1], "margin": pair.margin or 0.0}
        for row, pair in enumerate(pairs)
    ]


def measure_pairs(
    classifier: Classifier,
    pairs: Sequence[PreferencePair],
    tokenizer: "PreTrainedTokenizerBase",
    training: RewardTraining,
) -> PairMetrics:
    """Return what the model does with pairs.

    Args:
        classifier: The model.
        pairs: Held-out pairs.
        tokenizer: Its tokenizer.
        training: As in training.
    """
    rows = encode_pairs(pairs, tokenizer, training)
    sequences = [row[side] for row in rows for side in ("chosen", "rejected")]
    scores = np.zeros(len(sequences))
    with evaluating(classifier.model), torch.no_grad():
        for batch in padded_batches(sequences, batch_size=2 * training.micro_batch_size):
            inputs = classifier.inputs(batch, batch.attention_mask.sum(axis=1) - 1)
            hidden = classifier.hidden(inputs.tokens, inputs.others)
            scores[batch.indices] = classifier.end_scores(hidden, inputs.ends).cpu().numpy()
    differences = scores[::2] - scores[1::2]
    lengths = [len(pair.chosen) - len(pair.rejected) for pair in pairs]
    chosen, rejected = torch.from_numpy(scores[::2]), torch.from_numpy(scores[1::2])
    return PairMetrics(
        pairs=len(pairs),
        accuracy=pair_accuracy(differences),
        loss=float(bradley_terry_loss(chosen, rejected).mean()),
        calibration_error=calibration_error(differences),
        length_correlation=length_correlation(differences, lengths),
    )


class _PairLoss(torch.nn.Module):
    """What the trainer trains: a batch of pairs in, the loss out.

    Args:
        network: Holds the parameters.
        classifier: Reads the scores off it.
    """

    def __init__(self, network: torch.nn.Module, classifier: Classifier) -> None:
        super().__init__()
        self.network = network
        self._read = [classifier]  # in a list, so that it is not a second owner of the parameters

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        margin: Tensor,
    ) -> dict[str, Tensor]:
        """Return the loss of rows chosen, chosen, ..., rejected, rejected, ..."""
        (classifier,) = self._read
        others = {"attention_mask": attention_mask}
        if classifier.takes_positions:
            others["position_ids"] = position_ids
        hidden = classifier.hidden({"input_ids": input_ids}, others)
        scores = classifier.end_scores(hidden, attention_mask.sum(dim=1) - 1)
        chosen, rejected = scores.chunk(2)
        loss = bradley_terry_loss(chosen, rejected, margin).mean()
        if not torch.isfinite(loss):
            raise RewardError(
                f"the Bradley-Terry loss is {loss.item()}; lower learning_rate, or train in float32"
            )
        return {"loss": loss, "scores": scores.detach()}


def _collate(rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """Return the rows as one padded batch, all chosen before all rejected."""
    sequences = [row[side] for side in ("chosen", "rejected") for row in rows]
    (batch,) = padded_batches(sequences, batch_size=len(sequences))
    back = np.argsort(batch.indices)
    arrays = {name: torch.from_numpy(getattr(batch, name)[back]) for name in _COLUMNS}
    return {**arrays, "margin": torch.tensor([row["margin"] for row in rows])}


_COLUMNS = tuple(name for name in PaddedBatch._fields if name not in ("indices", "starts"))


def _fit(
    adapted: torch.nn.Module,
    classifier: Classifier,
    rows: list[dict[str, Any]],
    training: RewardTraining,
) -> float:
    """Train in place and return the mean loss."""
    import tempfile

    from transformers import PrinterCallback, Trainer, TrainingArguments

    micro = min(training.micro_batch_size, training.batch_size, len(rows))
    with tempfile.TemporaryDirectory() as scratch:
        arguments = TrainingArguments(
            output_dir=scratch,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=max(round(training.batch_size / micro), 1),
            num_train_epochs=training.epochs,
            learning_rate=training.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=training.warmup,
            weight_decay=training.weight_decay,
            seed=training.seed,
            use_cpu=classifier.model.device.type == "cpu",
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
            label_names=["margin"],
        )
        trainer = Trainer(
            model=_PairLoss(adapted, classifier),
            args=arguments,
            train_dataset=rows,
            data_collator=_collate,
        )
        trainer.remove_callback(PrinterCallback)
        return float(trainer.train().training_loss)


def _load(model: "str | Path | PreTrainedModel", seed: int) -> "PreTrainedModel":
    """Return a classifier with one logit; a missing head is drawn from the seed."""
    if not isinstance(model, (str, Path)):
        return model
    from transformers import AutoModelForSequenceClassification

    from tokengym.rewards.scorers.models import quiet, select_device

    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(seed)
        try:
            network = AutoModelForSequenceClassification.from_pretrained(
                str(model), num_labels=1, dtype="float32"
            )
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).strip().split("\n")[0]
            raise RewardError(
                f"cannot load {model} ({reason}); pass the folder or hub name of a causal language "
                "model"
            ) from error
    return network.to(select_device("auto"))
