"""The Trainer's arguments: the caller's, or a few shortcuts over quiet defaults."""

import copy
import random
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from transformers import TrainingArguments

_QUIET: dict[str, Any] = {
    "logging_steps": 10,
    "save_strategy": "no",
    "report_to": [],
    "disable_tqdm": True,
    "weight_decay": 0.0,
    "dataloader_pin_memory": torch.cuda.is_available(),  # without a GPU it only warns
}


def training_arguments(
    args: TrainingArguments | None,
    shortcuts: Mapping[str, Any],
    *,
    defaults: Mapping[str, Any],
    scratch: str,
    seed: int | None,
    device: str,
) -> TrainingArguments:
    """Return the arguments of a run.

    Args:
        args: The caller's own, which are then complete, or None.
        shortcuts: Single arguments by name, None where not given.
        defaults: Of the learner, for what is not given.
        scratch: Folder for a run that stores nothing.
        seed: Of the order of the data.
        device: "auto" or "cpu".

    Raises:
        ValueError: if ``args`` and a shortcut are both given, or the device is unknown.
    """
    if device not in ("auto", "cpu"):
        raise ValueError(
            f"device must be 'auto' or 'cpu', got {device!r}; the launcher chooses among GPUs "
            "(CUDA_VISIBLE_DEVICES)"
        )
    given = {name: value for name, value in shortcuts.items() if value is not None}
    given |= {} if seed is None else {"seed": seed}
    given |= {"use_cpu": True} if device == "cpu" else {}
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
    """Give the global random state back as it was: the Trainer seeds it."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
