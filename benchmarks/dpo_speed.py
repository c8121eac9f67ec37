"""Pairs per CPU-second of `DPO` against TRL's ``DPOTrainer``, and whether their losses agree.

Both train the same GPT-2 (4 layers of width 128, vocabulary 2,048) from the same weights on the
same pairs in the same order: batches of 16 pairs, prompts of 16 tokens, responses of 48, float32,
no gradient checkpointing, no dropout, AdamW, one thread. The arms take turns, each run being the
steps of one ``train()``, loading and logging included; the figure is the median over the repeats of
pairs per CPU-second (time of the process, so that other work on the machine counts less).

Arms: the reference scored in every step, and scored beforehand (that pass is not counted).

    python benchmarks/dpo_speed.py [--repeats 7] [--steps 8]

Prints one JSON object; ``loss_difference`` is the largest over the first 20 steps.
"""

import argparse
import copy
import json
import logging
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from datasets import Dataset, disable_progress_bars
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    PrinterCallback,
    TrainerCallback,
)

from tokengym.agents import DPO

VOCABULARY, PAIRS, PROMPT, RESPONSE = 2048, 16, 16, 48
BETA, LEARNING_RATE, COMPARED_STEPS = 0.1, 1e-4, 20
TRAINING: dict[str, Any] = {
    "per_device_train_batch_size": PAIRS,
    "num_train_epochs": 1,
    "learning_rate": LEARNING_RATE,
    "lr_scheduler_type": "constant",
    "train_sampling_strategy": "sequential",
    "weight_decay": 0.0,
    "seed": 0,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": [],
    "disable_tqdm": True,
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
}


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Return a word-level tokenizer of the model's size."""
    words = {"<pad>": 0, "<eos>": 1, **{f"word{i}": i for i in range(2, VOCABULARY)}}
    backend = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>")


def make_model() -> GPT2LMHeadModel:
    """Return the model, the same each time."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=PROMPT + RESPONSE,
        n_embd=128,
        n_layer=4,
        n_head=4,
        bos_token_id=1,
        eos_token_id=1,
        pad_token_id=0,
    )
    return GPT2LMHeadModel(config)


def make_pairs(num: int) -> Dataset:
    """Return random pairs as ids, all of one length."""
    rng = np.random.default_rng(0)
    sizes = {"prompt_ids": PROMPT, "chosen_ids": RESPONSE, "rejected_ids": RESPONSE}
    return Dataset.from_dict(
        {name: rng.integers(2, VOCABULARY, (num, size)).tolist() for name, size in sizes.items()}
    )


def make_trl(pairs: Dataset, *, precompute: bool, folder: str, loss_type: str = "sigmoid") -> Any:
    """Return TRL's trainer; it would encode texts, these are ids."""
    from trl import DPOConfig, DPOTrainer

    class IdsTrainer(DPOTrainer):
        def _prepare_dataset(self, dataset: Any, *arguments: Any) -> Any:
            return dataset

    config = DPOConfig(
        output_dir=folder,
        beta=BETA,
        loss_type=loss_type,
        precompute_ref_log_probs=precompute,
        max_length=None,
        **TRAINING,
    )
    model = make_model()
    trainer = IdsTrainer(
        model=model,
        ref_model=copy.deepcopy(model),
        args=config,
        train_dataset=pairs,
        processing_class=make_tokenizer(),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def make_ours(
    pairs: Dataset,
    *,
    precompute: bool,
    folder: str,
    loss_type: str = "sigmoid",
    products: str = "torch",
) -> DPO:
    """Return ours."""
    from transformers import TrainingArguments

    return DPO(
        make_model(),
        pairs,
        tokenizer=make_tokenizer(),
        beta=BETA,
        loss_type=loss_type,
        precompute_ref_log_probs=precompute,
        products=products,
        args=TrainingArguments(output_dir=folder, **TRAINING),
    )


MAKERS: dict[str, Callable[..., Any]] = {"trl": make_trl, "tokengym": make_ours}


class Clock(TrainerCallback):
    """CPU seconds from the first step's beginning to the last one's end."""

    seconds = 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Start."""
        self._started = time.process_time()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Stop."""
        self.seconds = time.process_time() - self._started


def pairs_per_second(trainer: Any, num_pairs: int) -> float:
    """Train, and return the pairs per CPU-second."""
    clock = Clock()
    trainer.add_callback(clock)
    trainer.train()
    return num_pairs / clock.seconds


def logged_losses(trainer: Any) -> list[float]:
    """Return the loss of each step."""
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


def loss_difference(folder: str) -> float:
    """Return the largest difference between the two arms' losses over the first steps."""
    pairs = make_pairs(PAIRS * COMPARED_STEPS)
    arm_losses = []
    for make in MAKERS.values():
        trainer = make(pairs, precompute=False, folder=folder)
        trainer.train()
        arm_losses.append(logged_losses(trainer))
    return float(np.abs(np.subtract(*arm_losses)).max())


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--steps", type=int, default=8)
    settings = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    os.environ["TQDM_DISABLE"] = "1"
    disable_progress_bars()
    pairs = make_pairs(PAIRS * settings.steps)
    rates: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(settings.repeats + 1):  # the first warms up
            for precompute in (False, True):
                for name, make in MAKERS.items():
                    trainer = make(pairs, precompute=precompute, folder=folder)
                    rate = pairs_per_second(trainer, len(pairs))
                    if repeat:
                        arm = f"{name} {'precomputed' if precompute else 'on the fly'}"
                        rates.setdefault(arm, []).append(rate)
        difference = loss_difference(folder)
    medians = {arm: statistics.median(values) for arm, values in rates.items()}
    ratios = {
        mode: round(medians[f"tokengym {mode}"] / medians[f"trl {mode}"], 2)
        for mode in ("on the fly", "precomputed")
    }
    import trl

    print(
        json.dumps(
            {
                "pairs_per_cpu_second": {arm: round(value, 1) for arm, value in medians.items()},
                "range": {arm: [round(min(v), 1), round(max(v), 1)] for arm, v in rates.items()},
                "ratio": ratios,
                "loss_difference": difference,
                "trl": trl.__version__,
                "torch": torch.__version__,
            }
        )
    )


if __name__ == "__main__":
    main()
