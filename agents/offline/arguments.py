"""Options that offline learners share, and the Trainer's arguments made of them."""

import copy
import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments

from tokengym.agents.offline.encoding import TextEncoding
from tokengym.rewards.models.loading import select_device
from tokengym.rewards.training.fitting import use_device

_QUIET: dict[str, Any] = {
    "logging_steps": 10,
    "save_strategy": "no",
    "report_to": [],
    "disable_tqdm": True,
    "weight_decay": 0.0,
    "dataloader_pin_memory": torch.cuda.is_available(),  # without a GPU it only warns
}


@dataclass(frozen=True, kw_only=True)
class OfflineOptions:
    """Keyword arguments that `DPO` and `SFT` share."""

    tokenizer: PreTrainedTokenizerBase | None = None
    """The model's tokenizer; None takes the environment's or the one beside the path."""
    ref_model: str | Path | PreTrainedModel | None = None
    """The reference; None takes the model as it is now, or with ``lora`` the model with its
    adapters off."""
    encoding: TextEncoding | None = None
    """Lengths, EOS, and the treatment of rows that cannot be learned from."""
    lora: Any | None = None
    """A ``peft.LoraConfig`` to train adapters only."""
    dtype: str = "auto"
    """Precision of the weights, see `agents.policy.language_model.load_causal_lm`."""
    disable_dropout: bool = True
    """Keep dropout off while learning."""
    temperature: float = 1.0
    """Temperature of sampling; learning uses the model's own distribution."""
    learning_rate: float | None = None
    """Learning rate of AdamW; this and the next six have the names they have in ``args``."""
    num_train_epochs: float | None = None
    """Passes over the data."""
    max_steps: int | None = None
    """Optimiser steps, overruling the epochs."""
    per_device_train_batch_size: int | None = None
    """Pairs, or texts, per forward and process."""
    gradient_accumulation_steps: int | None = None
    """Forwards per optimiser step."""
    lr_scheduler_type: str | None = None
    """Schedule of the learning rate: "cosine", "linear", "constant", ..."""
    output_dir: str | Path | None = None
    """Folder of the Trainer's checkpoints, one per epoch; None keeps none."""
    args: TrainingArguments | None = None
    """All of the Trainer's arguments, instead of the seven above and the seed."""
    seed: int | None = None
    """Seed of the order of the data, the adapters' first weights, and sampling."""
    device: str = "auto"
    """Device that trains: "auto", "cpu", "cuda" or "cuda:N". Under a launcher, which gives each
    process its GPU, "auto" or "cpu"."""
    callbacks: Sequence[Any] | None = None
    """Callbacks of the Trainer."""


_SHORTCUTS = (
    "learning_rate",
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "lr_scheduler_type",
    "output_dir",
    "seed",
)


def training_arguments(
    options: OfflineOptions, *, defaults: Mapping[str, Any], scratch: str
) -> TrainingArguments:
    """Return the Trainer's arguments.

    Args:
        options: The caller's; with ``args``, these are complete.
        defaults: The learner's own, for those that are not given.
        scratch: Folder for a run that stores nothing.

    Raises:
        ValueError: if ``args`` and a shortcut are both given, or there is no such device.
    """
    named = None if options.device == "auto" else select_device(options.device)
    given = {name: getattr(options, name) for name in _SHORTCUTS}
    given = {name: value for name, value in given.items() if value is not None}
    if "output_dir" in given:
        given["output_dir"] = str(given["output_dir"])
    if named is not None and named.type == "cpu":
        given["use_cpu"] = True
    args = options.args
    if args is None:
        settings = {"output_dir": scratch, "seed": 0, **_QUIET, **defaults, **given}
        if "output_dir" in given:
            settings["save_strategy"] = "epoch"
        args = TrainingArguments(**settings)
    elif given:
        raise ValueError(
            f"{', '.join(given)} and args= were both given; set "
            f"{'it' if len(given) == 1 else 'them'} in args"
        )
    args = copy.copy(args)
    if named is not None:
        use_device(args, named)
    args.remove_unused_columns = False  # the columns are ids of responses, not the model's inputs
    if args.ddp_find_unused_parameters is None:
        args.ddp_find_unused_parameters = False
    return args


def scratch_folder(agent: Any) -> str:
    """Return a folder that is removed with the agent, for a Trainer that stores nothing."""
    agent._scratch = tempfile.TemporaryDirectory(prefix="tokengym-")
    return agent._scratch.name


@contextmanager
def isolated_random_state() -> Iterator[None]:
    """Restore the global random state afterwards: the Trainer seeds it."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
