"""Supervised fine-tuning on responses, on `transformers.Trainer`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments

from tokengym.agents.offline.arguments import scratch_folder, training_arguments
from tokengym.agents.offline.encoding import TextEncoding, encode_responses
from tokengym.agents.offline.sources import (
    build_policy,
    encoding_for,
    find_tokenizer,
    text_length,
)
from tokengym.agents.offline.trainer import OfflineTrainer
from tokengym.agents.policy.sequences import Sequences

DEFAULTS: dict[str, Any] = {
    "learning_rate": 2e-5,
    "lr_scheduler_type": "cosine",
    "num_train_epochs": 1,
    "per_device_train_batch_size": 16,
}
"""As TRL's SFT, for models of some billion parameters; tiny ones and adapters want 1e-4 to 1e-3."""


class SFT(OfflineTrainer):
    """Learns to write given responses: the likelihood of their tokens, not of the prompts'.

    loss = -sum over response tokens of log pi(token) / number of response tokens, over the whole
    accumulated batch and all processes; logged beside it: mean_token_log_prob, in nats.

    Args:
        envs_or_model: As for `DPO`.
        texts: Played episodes; or what `encode_responses` takes: a ``datasets.Dataset``, path or
            rows with prompt and completion (or response, or chosen), or their ids.
            None: the agent only plays.
        eval_texts: Held-out texts for ``evaluate``.
        tokenizer: As for `DPO`, and so are all below.
        ref_model: What `policy` measures its KL against.
        encoding: Lengths, EOS, and what becomes of rows that cannot be learned from.
        lora: A ``peft.LoraConfig`` to train adapters only.
        dtype: See `agents.models.load_causal_lm`.
        disable_dropout: Keep dropout off while learning.
        temperature: Of sampling.
        learning_rate: Of AdamW.
        num_train_epochs: Passes over the texts.
        max_steps: Optimiser steps, overruling the epochs.
        per_device_train_batch_size: Texts per forward and process.
        gradient_accumulation_steps: Forwards per optimiser step.
        lr_scheduler_type: "cosine", "linear", "constant", ...
        output_dir: Where the Trainer keeps a checkpoint per epoch; None keeps none.
        args: All of the Trainer's arguments, instead of the seven above and the seed.
        seed: Of the order of the texts, the adapters' first weights, and sampling.
        device: "auto" or "cpu".
        callbacks: The Trainer's.

    Raises:
        DatasetError: if a text cannot be learned; the message names row and remedy.
        ModelError: if there is no model.
        ValueError: if a setting is out of range.
    """

    metric_names: ClassVar[tuple[str, ...]] = ("mean_token_log_prob",)

    def __init__(
        self,
        envs_or_model: Any,
        texts: Any = None,
        *,
        eval_texts: Any = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        ref_model: str | Path | PreTrainedModel | None = None,
        encoding: TextEncoding | None = None,
        lora: Any | None = None,
        dtype: str = "auto",
        disable_dropout: bool = True,
        temperature: float = 1.0,
        learning_rate: float | None = None,
        num_train_epochs: float | None = None,
        max_steps: int | None = None,
        per_device_train_batch_size: int | None = None,
        gradient_accumulation_steps: int | None = None,
        lr_scheduler_type: str | None = None,
        output_dir: str | Path | None = None,
        args: TrainingArguments | None = None,
        seed: int | None = None,
        device: str = "auto",
        callbacks: Sequence[Any] | None = None,
    ) -> None:
        arguments = training_arguments(
            args,
            {
                "learning_rate": learning_rate,
                "num_train_epochs": num_train_epochs,
                "max_steps": max_steps,
                "per_device_train_batch_size": per_device_train_batch_size,
                "gradient_accumulation_steps": gradient_accumulation_steps,
                "lr_scheduler_type": lr_scheduler_type,
                "output_dir": None if output_dir is None else str(output_dir),
            },
            defaults=DEFAULTS,
            scratch=scratch_folder(self),
            seed=seed,
            device=device,
        )
        tokenizer = find_tokenizer(envs_or_model, tokenizer)
        policy = build_policy(
            envs_or_model,
            tokenizer,
            ref_model=ref_model,
            lora=lora,
            dtype=dtype,
            temperature=temperature,
            seed=arguments.seed,
        )
        rules = encoding_for(envs_or_model, encoding)
        train_texts, held_out = (
            None
            if data is None
            else encode_responses(data, tokenizer, rules, max_positions=text_length(policy))
            for data in (texts, eval_texts)
        )
        super().__init__(
            policy,
            tokenizer,
            train_texts=train_texts,
            eval_texts=held_out,
            args=arguments,
            settings={"temperature": temperature},
            disable_dropout=disable_dropout,
            with_reference=False,
            callbacks=callbacks,
        )

    def texts_of(self, row: Mapping[str, Any]) -> tuple[Sequence[int], ...]:
        """Return the response of a row."""
        return (row["response_ids"],)

    def count_items(self, rows: Sequences) -> int:
        """Return the number of response tokens."""
        return int(rows.response_lengths.sum())

    def losses(self, inputs: Mapping[str, Tensor], model: nn.Module) -> tuple[Tensor, Tensor]:
        """Return the loss of each response, (texts,), and the sum of token log-probabilities."""
        log_probs, _ = model(
            inputs["input_ids"], inputs["prompt_lengths"], inputs["response_lengths"]
        )
        return -log_probs, torch.stack([log_probs.detach().sum()])
