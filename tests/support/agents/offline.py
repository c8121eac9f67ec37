"""Preference pairs, and DPO and SFT on tiny models."""

from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from tests.support.agents.common import EOS, make_model
from tests.support.words import make_word_tokenizer as make_tokenizer
from tokengym.agents import DPO

# Of different lengths, so that padding and buckets matter: responses of 1 to 12 tokens.
PAIRS = [
    {"prompt_ids": [4, 5], "chosen_ids": [3, 3, EOS], "rejected_ids": [6]},
    {"prompt_ids": [7], "chosen_ids": [3], "rejected_ids": [5, 6, 7, 5, 6, 7, 5, 6, 7, 5, 6, EOS]},
    {"prompt_ids": [4, 4, 4, 6, 7], "chosen_ids": [3, 5, 3], "rejected_ids": [6, 6, 6]},
    {"prompt_ids": [5, 7, 6], "chosen_ids": [3, 4, 3, 4, EOS], "rejected_ids": [7, EOS]},
    {"prompt_ids": [6], "chosen_ids": [3, 3, 3, 3, 3, 3], "rejected_ids": [4, 7]},
    {"prompt_ids": [5], "chosen_ids": [3, 6], "rejected_ids": [5, 6]},
    {"prompt_ids": [4, 7], "chosen_ids": [6, 3, EOS], "rejected_ids": [6, 5, EOS]},
    {"prompt_ids": [3], "chosen_ids": [3, EOS], "rejected_ids": [EOS]},
]


def make_args(folder: Path, **settings: Any) -> TrainingArguments:
    defaults: Any = {
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        "per_device_train_batch_size": 2,
        "num_train_epochs": 2,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
    }
    return TrainingArguments(output_dir=str(folder), **defaults | settings)


def make_learner(kind: Any, rows: Any, model: Any = None, **settings: Any) -> Any:
    """Return a DPO or SFT on the CPU, with seed 0."""
    defaults: Any = {} if "args" in settings else {"seed": 0, "device": "cpu"}
    defaults["tokenizer"] = make_tokenizer()
    return kind(make_model() if model is None else model, rows, **defaults | settings)


def make_dpo(pairs: Any = PAIRS, model: Any = None, **settings: Any) -> DPO:
    dpo: DPO = make_learner(DPO, pairs, model, **settings)
    return dpo


def logged(agent: Any, name: str = "loss") -> list[float]:
    return [row[name] for row in agent.state.log_history if name in row]


def plain_log_prob(model: Any, prompt: list[int], response: list[int]) -> float:
    """Return a response's log-probability by the model's own forward, token by token."""
    with torch.no_grad():
        logits = model.eval()(torch.tensor([[*prompt, *response]])).logits[0].log_softmax(-1)
    at = range(len(prompt) - 1, len(prompt) + len(response) - 1)
    return float(sum(logits[i, token] for i, token in zip(at, response, strict=True)))
