"""What test_distributed launches in two processes, and runs by itself in one.

accelerate launch ... distributed_run.py FOLDER BATCH_SIZE_PER_PROCESS
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from tests.agents.conftest import make_model, make_tokenizer
from tests.agents.preferences.test_dpo import PAIRS
from tokengym.agents import DPO, SFT


def run(folder: Path, batch_size: int) -> None:
    """Train both learners and write down what was logged, and the weights."""
    args = TrainingArguments(
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
    )
    texts = [
        {"prompt_ids": pair["prompt_ids"], "response_ids": pair["rejected_ids"]} for pair in PAIRS
    ]
    shared: Any = {"tokenizer": make_tokenizer(), "args": args}
    learners = {
        "dpo": lambda: DPO(make_model(), PAIRS, **shared),
        "precomputed": lambda: DPO(make_model(), PAIRS, precompute_ref_log_probs=True, **shared),
        "sft": lambda: SFT(make_model(), texts, **shared),
    }
    for name, make in learners.items():
        learner = make()
        learner.train()
        learner.save(folder / name)
        if learner.args.should_save:
            (folder / f"{name}.json").write_text(json.dumps(learner.state.log_history))


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(Path(sys.argv[1]), int(sys.argv[2]))
