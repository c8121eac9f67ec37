"""Direct preference optimisation and its family, on `transformers.Trainer`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments
from transformers.trainer_utils import TrainOutput

from tokengym.agents.offline.arguments import scratch_folder, training_arguments
from tokengym.agents.offline.encoding import TextEncoding, encode_pairs
from tokengym.agents.offline.loss import PairLogProbs, pair_losses
from tokengym.agents.offline.reference import (
    batch_reference,
    reference_log_probs,
    with_reference,
)
from tokengym.agents.offline.settings import PreferenceLoss
from tokengym.agents.offline.sources import (
    build_policy,
    encoding_for,
    find_tokenizer,
    text_length,
)
from tokengym.agents.offline.trainer import OfflineTrainer
from tokengym.agents.policy.sequences import Sequences

DEFAULTS: dict[str, Any] = {
    "learning_rate": 5e-7,
    "lr_scheduler_type": "cosine",
    "num_train_epochs": 1,
    "per_device_train_batch_size": 16,
}
"""Rate and schedule: RLHF Workflow, Dong et al. 2024, arXiv:2405.07863, for 8B parameters. Tiny
models and adapters want rates of 1e-5 to 1e-3."""


class DPO(OfflineTrainer):
    """Learns from preference pairs without a reward model or sampling.

    Paper: Rafailov et al. 2023, "Direct Preference Optimization", arXiv:2305.18290; the other
    losses are in `tokengym.agents.losses`. Chosen and rejected responses of a batch are one
    forward, logits are made at response positions only, and dropout is off.

    It is a `transformers.Trainer` (``train``, ``evaluate``, ``state.log_history``, callbacks,
    Accelerate's launchers) and an agent (``predict``, `collect`, ``save``, ``load``). Logged as in
    TRL: rewards/chosen, rewards/rejected (beta times the log-ratio), rewards/margins,
    rewards/accuracies, logps/chosen, logps/rejected.

    Args:
        envs_or_model: An environment, whose bundled model then learns; a path or name; a model; or
            a `CausalLMPolicy`, which is trained itself.
        pairs: What `encode_pairs` takes: a ``datasets.Dataset``, path or rows with chosen and
            rejected, and maybe prompt; or prompt_ids, chosen_ids, rejected_ids, taken as they are.
            None: the agent only plays.
        eval_pairs: Held-out pairs for ``evaluate``.
        tokenizer: The model's; None takes the environment's or the one beside the path.
        ref_model: The reference; None takes the model as it is now, or with ``lora`` the model
            with its adapters off.
        beta: Strength of the pull towards the reference.
        loss_type: See `PreferenceLoss`.
        label_smoothing: Share of wrong labels.
        loss: These three and the rarer coefficients in one; overrules them.
        precompute_ref_log_probs: Score all pairs under the reference once, before training; a copy
            of the model then waits on the CPU meanwhile.
        ref_log_probs_path: A safetensors file that keeps them for the next run.
        encoding: Lengths, EOS, and what becomes of rows that cannot be learned from.
        lora: A ``peft.LoraConfig`` to train adapters only.
        dtype: See `agents.models.load_causal_lm`.
        disable_dropout: Keep dropout off while learning.
        temperature: Of sampling; learning is by the model's own distribution.
        learning_rate: Of AdamW; this and the next six have the names they have in ``args``.
        num_train_epochs: Passes over the pairs.
        max_steps: Optimiser steps, overruling the epochs.
        per_device_train_batch_size: Pairs per forward and process.
        gradient_accumulation_steps: Forwards per optimiser step.
        lr_scheduler_type: "cosine", "linear", "constant", ...
        output_dir: Where the Trainer keeps a checkpoint per epoch; None keeps none.
        args: All of the Trainer's arguments, instead of the seven above and the seed.
        seed: Of the order of the pairs, the adapters' first weights, and sampling.
        device: "auto" or "cpu".
        callbacks: The Trainer's.

    Raises:
        DatasetError: if a pair cannot be learned from; the message names row and remedy.
        ModelError: if there is no model.
        ValueError: if a setting is out of range.
    """

    metric_names: ClassVar[tuple[str, ...]] = (
        "rewards/chosen",
        "rewards/rejected",
        "rewards/margins",
        "rewards/accuracies",
        "logps/chosen",
        "logps/rejected",
    )

    def __init__(
        self,
        envs_or_model: Any,
        pairs: Any = None,
        *,
        eval_pairs: Any = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        ref_model: str | Path | PreTrainedModel | None = None,
        beta: float = 0.1,
        loss_type: str = "sigmoid",
        label_smoothing: float = 0.0,
        loss: PreferenceLoss | None = None,
        precompute_ref_log_probs: bool = False,
        ref_log_probs_path: str | Path | None = None,
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
        self.loss = loss or PreferenceLoss(
            beta=beta, loss_type=loss_type, label_smoothing=label_smoothing
        )
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
        train_texts, eval_texts = (
            None
            if data is None
            else encode_pairs(data, tokenizer, rules, max_positions=text_length(policy))
            for data in (pairs, eval_pairs)
        )
        self._precomputes = precompute_ref_log_probs and self.loss.needs_reference
        super().__init__(
            policy,
            tokenizer,
            train_texts=train_texts,
            eval_texts=eval_texts,
            args=arguments,
            settings={"loss": asdict(self.loss), "temperature": temperature},
            disable_dropout=disable_dropout,
            with_reference=self.loss.needs_reference and not self._precomputes,
            callbacks=callbacks,
        )
        if self._precomputes:
            path = None if ref_log_probs_path is None else Path(ref_log_probs_path)
            self._precompute(path)

    @classmethod
    def read_settings(cls, stored: Mapping[str, Any]) -> dict[str, Any]:
        """Return the constructor's arguments of the settings that `save` stored as JSON."""
        return {**stored, "loss": PreferenceLoss(**stored["loss"])}

    # --- what one step is made of -----------------------------------------------------------------

    def texts_of(self, row: Mapping[str, Any]) -> tuple[Sequence[int], ...]:
        """Return the chosen and the rejected response of a row."""
        return row["chosen_ids"], row["rejected_ids"]

    def count_items(self, rows: Sequences) -> int:
        """Return the number of pairs."""
        return len(rows) // 2

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Return pairs as one batch, chosen before rejected, with what the reference says of them.

        ``ref_log_probs`` is (2, pairs), there if they were computed beforehand.
        """
        batch = super().collate(rows)
        reference = batch_reference(rows)
        return batch if reference is None else {**batch, "ref_log_probs": reference}

    def log_probs(self, inputs: Mapping[str, Tensor], model: nn.Module) -> PairLogProbs:
        """Return what the loss reads of a batch, by one call of the model."""
        known = inputs.get("ref_log_probs")
        found, reference = model(
            inputs["input_ids"],
            inputs["prompt_lengths"],
            inputs["response_lengths"],
            with_reference=self.loss.needs_reference and known is None,
        )
        if known is not None:
            reference = known.flatten()
        chosen, rejected = found.chunk(2)
        lengths = inputs["response_lengths"].chunk(2)
        references = (None, None) if reference is None else reference.chunk(2)
        return PairLogProbs(
            policy_chosen=chosen,
            policy_rejected=rejected,
            chosen_lengths=lengths[0],
            rejected_lengths=lengths[1],
            ref_chosen=references[0],
            ref_rejected=references[1],
        )

    def losses(self, inputs: Mapping[str, Tensor], model: nn.Module) -> tuple[Tensor, Tensor]:
        """Return the loss of each pair, (pairs,), and the sums of `metric_names`."""
        pairs = self.log_probs(inputs, model)
        with torch.no_grad():
            ref_chosen, ref_rejected = pairs.reference
            chosen = self.loss.beta * (pairs.policy_chosen - ref_chosen)
            rejected = self.loss.beta * (pairs.policy_rejected - ref_rejected)
            right = (chosen > rejected).float()
            logged = (
                chosen,
                rejected,
                chosen - rejected,
                right,
                pairs.policy_chosen,
                pairs.policy_rejected,
            )
            sums = torch.stack([values.sum() for values in logged])
        return pair_losses(self.loss, pairs), sums

    # --- the reference ----------------------------------------------------------------------------

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """Learn; see `OfflineTrainer.train`."""
        idle = self.policy.reference if self._precomputes else None
        if idle is None or _share_weights(idle, self.policy.language_model):
            return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)
        idle.to("cpu")
        try:
            return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)
        finally:
            idle.to(self.args.device)

    def _precompute(self, path: Path | None) -> None:
        """Give every pair its log-probabilities under the reference."""
        scorer: Any = self.model
        for name, dataset in (("train", self.train_dataset), ("eval", self.eval_dataset)):
            if dataset is None:
                continue
            file = path
            if path is not None and name == "eval":
                file = path.with_name(f"{path.stem}-eval{path.suffix}")
            log_probs = reference_log_probs(
                scorer,
                dataset,
                self.collate,
                batch_size=self.args.per_device_train_batch_size,
                accelerator=self.accelerator,
                path=file,
            )
            setattr(self, f"{name}_dataset", with_reference(dataset, log_probs))


def _share_weights(one: nn.Module, other: nn.Module) -> bool:
    """Say whether two modules have a parameter in common."""
    return not {id(p) for p in one.parameters()}.isdisjoint(id(p) for p in other.parameters())
