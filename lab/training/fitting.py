"""Fitting reward, preference and process models by ``transformers.Trainer``; stopped and resumed.

It is no `OfflineTrainer`: that one trains a policy, which plays, has a reference and is weighed per
token. Here a batch is a set of scored sequences, checkpoints hold the trained weights alone, and
they are made by the clock.
"""

import logging
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_callback import TrainerControl, TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from tokengym.agents.offline import FiniteTrainer
from tokengym.base import (
    check_count,
    check_learning,
    check_number,
    content_hash,
    read_hashed,
    use_device,
    write_hashed,
    writing,
)
from tokengym.envs import TextSettings
from tokengym.rewards import RewardError

Report = Callable[[int, int, float], None]
"""Called after each optimiser step with the steps done, all of them, and the batch's loss, nats."""

T = TypeVar("T")
_LOG = logging.getLogger(__name__)
WEIGHTS = "trained.safetensors"


@dataclass(frozen=True, kw_only=True)
class RewardTraining(TextSettings):
    """Training of a reward or preference model. Defaults: Dong et al. 2024, arXiv:2405.07863.

    Pairs that stay too long without a prompt are left out under ``overlong="left"`` as well. In the
    chat template a written-out dialogue is taken apart into its turns.

    Raises:
        SettingsError: if a value is out of range.
    """

    learning_rate: float = 2e-6
    """Peak learning rate of AdamW; cosine decay. Tiny models and adapters want 1e-4 to 1e-3."""
    epochs: float = 1.0
    """Passes over the pairs; more than one overfits in the paper."""
    batch_size: int = 512
    """Pairs per optimiser step, to the nearest number of whole forward passes."""
    micro_batch_size: int = 16
    """Pairs per forward pass; the rest of a batch is accumulated."""
    warmup: float = 0.03
    """Share of the steps with a rising learning rate."""
    weight_decay: float = 0.0
    """Weight decay of AdamW."""
    label_smoothing: float = 0.0
    """Share of the pairs taken to be in the wrong order, in [0, 0.5); keeps a model that has seen
    few pairs, or noisy ones, from growing too sure."""
    max_tokens: int = 512
    """Longest text, prompt included; less where the model reads less."""
    append_eos: bool = True
    """Whether a reward model's texts end with EOS, as responses that were finished do."""
    head_only: bool = False
    """Whether the linear layer of a reward or process model learns alone, the body frozen."""
    heads: int = 1
    """Linear layers of a reward model on one body, each with a bootstrap of the pairs of its own.
    The score is their mean; how far they disagree says how little is known of a response."""
    seed: int = 0
    """Seed of new weights, the order of pairs, and dropout."""
    checkpoint_seconds: float = 60.0
    """Seconds between checkpoints: the most work that an interruption loses."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "learning_rate", "epochs", above=0.0)
        check_number(self, "learning_rate", "epochs", finite=True, hint="lower it")
        check_count(self, "batch_size", "micro_batch_size", "max_tokens", "heads")
        check_number(self, "warmup", least=0.0, below=1.0, hint="it is a share of the steps")
        check_number(self, "label_smoothing", least=0.0, below=0.5)
        check_number(self, "weight_decay", least=0.0, finite=True)
        check_number(self, "checkpoint_seconds", least=0.0)

    def refuse(self, *names: str, because: str) -> None:
        """Raise unless settings that have no effect have their defaults.

        Raises:
            RewardError: if one has not.
        """
        for name in names:
            if (value := getattr(self, name)) != getattr(RewardTraining(), name):
                raise RewardError(f"{name}={value!r} {because}; leave it out")

    def what_counts(self) -> dict[str, Any]:
        """Return the settings that the result depends on."""
        return {name: value for name, value in asdict(self).items() if name != "checkpoint_seconds"}


def let_learn(model: PreTrainedModel, training: RewardTraining) -> None:
    """Let a classifier's weights learn: all of them, or those of its head alone."""
    body = f"{model.base_model_prefix}."
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not (training.head_only and name.startswith(body)))


def fit(
    module: torch.nn.Module,
    rows: Sequence[T],
    collate: Callable[[Sequence[T]], dict[str, Tensor]],
    training: RewardTraining,
    *,
    device: torch.device,
    folder: Path,
    report: Report | None = None,
) -> list[float]:
    """Train in place and return the loss of each step, nats.

    Args:
        module: Returns the ``loss`` of a batch; what of it learns is stored.
        rows: The rows to learn from.
        collate: Makes the module's arguments of some of the rows.
        training: The settings.
        device: Device that trains, where the module is.
        folder: Folder of checkpoints; training resumes from the last complete one in it.
        report: Called after each step.
    """
    micro = min(training.micro_batch_size, training.batch_size, len(rows))
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=max(round(training.batch_size / micro), 1),
        num_train_epochs=training.epochs,
        learning_rate=training.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=training.warmup,
        weight_decay=training.weight_decay,
        seed=training.seed,
        use_cpu=device.type == "cpu",
        save_strategy="no",  # the callback below says when
        save_total_limit=2,
        logging_strategy="steps",
        logging_steps=1,
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    use_device(arguments, device)
    trainer = _RewardTrainer(
        model=module,
        args=arguments,
        train_dataset=list(rows),
        data_collator=collate,
        callbacks=[_Progress(training.checkpoint_seconds, report)],
    )
    trainer.remove_callback(PrinterCallback)
    check_learning(module.parameters())
    last = _last_checkpoint(folder)
    trainer.train(resume_from_checkpoint=None if last is None else str(last))
    return [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]


def padded(
    sequences: Sequence[Sequence[int]], padding_side: Literal["left", "right"] = "right"
) -> dict[str, Tensor]:
    """Return ids, attention mask and positions of sequences as one batch, in their order."""
    ids = [torch.tensor(row) for row in sequences]
    rows = {
        "input_ids": ids,
        "attention_mask": [torch.ones_like(row) for row in ids],
        "position_ids": [torch.arange(len(row)) for row in ids],
    }
    together = partial(pad_sequence, batch_first=True, padding_side=padding_side)
    return {name: together(tensors) for name, tensors in rows.items()}


def _last_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint that is as it was written; None if there is none."""
    by_step = {int(path.stem.rpartition("-")[2]): path for path in folder.glob("checkpoint-*.json")}
    for _, path in sorted(by_step.items(), reverse=True):
        with suppress(ValueError, OSError):
            if read_hashed(path)["contents"] == content_hash(path.with_suffix("")):
                return path.with_suffix("")
    return None


class _RewardTrainer(FiniteTrainer):
    """Saves only the trained weights: adapters without their base, tied weights once.

    Training continues without a checkpoint that cannot be written.
    """

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(str(self.args.output_dir))
        made = folder / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        try:
            with writing(folder):
                super()._save_checkpoint(model, trial)
                write_hashed(made.with_suffix(".json"), {"contents": content_hash(made)})
        except OSError as error:
            _LOG.warning("no checkpoint at step %d: %s", self.state.global_step, error)
            shutil.rmtree(made, ignore_errors=True)

    def _save(
        self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None
    ) -> None:
        del state_dict
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: value.detach().cpu() for name, value in self._trained().items()}
        save_file(weights, folder / WEIGHTS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        del model
        stored = load_file(Path(resume_from_checkpoint) / WEIGHTS)
        with torch.no_grad():
            for name, parameter in self._trained().items():
                parameter.copy_(stored[name])

    def _trained(self) -> dict[str, torch.nn.Parameter]:
        module = self.accelerator.unwrap_model(self.model)
        return {name: value for name, value in module.named_parameters() if value.requires_grad}


class _Progress(TrainerCallback):
    """Reports progress, and asks for checkpoints by the clock."""

    def __init__(self, seconds: float, report: Report | None) -> None:
        self.seconds = seconds
        self.report = report
        self.saved = time.monotonic()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if time.monotonic() - self.saved >= self.seconds:
            control.should_save = True

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if self.report is not None and logs is not None and "loss" in logs:
            self.report(state.global_step, state.max_steps, float(logs["loss"]))

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.saved = time.monotonic()
