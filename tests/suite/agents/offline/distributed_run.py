"""What test_distributed does in two processes, and by itself in one."""

import json
import os
from pathlib import Path
from typing import Any

from tests.support.agents.offline import PAIRS, make_args, make_learner
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


def run(folder: Path, batch_size: int) -> None:
    """Train the learners and write down what was logged, and the weights.

    Of several processes also a DPO whose weights they share out among them (FSDP).
    """
    texts = [
        {"prompt_ids": pair["prompt_ids"], "response_ids": pair["rejected_ids"]} for pair in PAIRS
    ]
    is_launched = "WORLD_SIZE" in os.environ
    training: dict[str, Any] = {
        "per_device_train_batch_size": batch_size,
        "num_train_epochs": 2,
        "learning_rate": 1e-2,
        "optim": "sgd",
        "ddp_backend": "gloo" if is_launched else None,
    }
    learners: dict[str, tuple[Any, Any, dict[str, Any]]] = {
        "dpo": (DPO, PAIRS, {}),
        "precomputed": (DPO, PAIRS, {"precompute_ref_log_probs": True}),
        "sft": (SFT, texts, {}),
    }
    if is_launched:
        learners["fsdp"] = (DPO, PAIRS, {})
    for name, (kind, rows, options) in learners.items():
        args = make_args(folder / "checkpoints", **training, **(SHARDED if name == "fsdp" else {}))
        learner = make_learner(kind, rows, args=args, **options)
        learner.train()
        if name in ("dpo", "sft"):
            held_out = learner.train_dataset.select(range(3))  # an odd number, for two processes
            for size in (1, 2, 4):
                learner.args.per_device_eval_batch_size = size
                learner.evaluate(held_out, metric_key_prefix=f"of_{size}")
        learner.save_model(str(folder / name))
        if learner.args.should_save:
            (folder / f"{name}.json").write_text(json.dumps(learner.state.log_history))
