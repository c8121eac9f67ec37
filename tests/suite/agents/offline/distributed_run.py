"""What test_distributed does in two processes, and by itself in one."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from tests.suite.agents.conftest import make_model, make_tokenizer
from tests.suite.agents.offline.test_dpo import PAIRS
from tokengym.agents import DPO, SFT

SHARDED: dict[str, Any] = {
    "fsdp": True,
    "fsdp_config": {
        "version": 2,
        "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "state_dict_type": "FULL_STATE_DICT",
        "cpu_ram_efficient_loading": False,
    },
}


def make_args(folder: Path, batch_size: int, **settings: Any) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(folder / "checkpoints"),
        per_device_train_batch_size=batch_size,
        num_train_epochs=3,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        optim="sgd",
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        ddp_backend="gloo" if "WORLD_SIZE" in os.environ else None,
        **settings,
    )


def run(folder: Path, batch_size: int) -> None:
    """Train the learners and write down what was logged, and the weights.

    Of several processes also a DPO whose weights they share out among them (FSDP).
    """
    texts = [
        {"prompt_ids": pair["prompt_ids"], "response_ids": pair["rejected_ids"]} for pair in PAIRS
    ]
    shared: Any = {"tokenizer": make_tokenizer()}
    plain = make_args(folder, batch_size)
    learners: dict[str, Callable[[], DPO | SFT]] = {
        "dpo": lambda: DPO(make_model(), PAIRS, args=plain, **shared),
        "precomputed": lambda: DPO(
            make_model(), PAIRS, precompute_ref_log_probs=True, args=plain, **shared
        ),
        "sft": lambda: SFT(make_model(), texts, args=plain, **shared),
    }
    if "WORLD_SIZE" in os.environ:
        learners["fsdp"] = lambda: DPO(
            make_model(), PAIRS, args=make_args(folder, batch_size, **SHARDED), **shared
        )
    for name, make in learners.items():
        learner = make()
        learner.train()
        learner.save_model(str(folder / name))
        if learner.args.should_save:
            (folder / f"{name}.json").write_text(json.dumps(learner.state.log_history))
