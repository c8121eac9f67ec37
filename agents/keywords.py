"""Types of the keywords of the learners' constructors, read by type checkers alone.

Written by `python -m docs.makers.build_docs` from the settings dataclasses: edit those.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypedDict

from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments

from tokengym.agents.policy.policy import CausalLMPolicy
from tokengym.agents.policy.settings import Precision, Products, Schedule, ValueNetwork
from tokengym.agents.ppo.settings import KlEstimator, KlPlace, LossMean, LrSchedule, OldLogProbs
from tokengym.rewards.pairs.encode import TextEncoding


class PPOKeywords(TypedDict, total=False):
    """Fields of `PPOSettings`."""

    temperature: float
    top_k: int
    top_p: float
    learning_rate_schedule: LrSchedule
    n_warmup_updates: int
    advantage: str | Callable[..., Any]
    weights: str | Callable[..., Any] | None
    loss: str | Callable[..., Any]
    group_size: int | None
    drop_equal_groups: bool
    std_floor: float
    loss_mean: LossMean
    n_epochs: int
    n_minibatches: int
    gamma: float
    gae_lambda: float | None
    gae_lambda_vf: float | None
    clip_range: Schedule
    clip_range_high: float | None
    old_log_probs: OldLogProbs
    clip_range_vf: Schedule | None
    value_network: ValueNetwork
    vf_coef: float
    ent_coef: float
    kl_coef: float
    kl_in: KlPlace
    kl_estimator: KlEstimator
    kl_target: float | None
    kl_horizon: float
    n_value_warmup: int
    target_kl: float | None
    max_grad_norm: float
    micro_batch_size: int | None


class SFTKeywords(TypedDict, total=False):
    """Fields of `OfflineOptions`."""

    tokenizer: PreTrainedTokenizerBase | None
    ref_model: str | Path | PreTrainedModel | CausalLMPolicy | None
    encoding: TextEncoding | None
    lora: Any | None
    dtype: str
    precision: Precision
    products: Products
    disable_dropout: bool
    temperature: float
    top_k: int
    top_p: float
    learning_rate: float | None
    num_train_epochs: float | None
    max_steps: int | None
    per_device_train_batch_size: int | None
    gradient_accumulation_steps: int | None
    lr_scheduler_type: str | None
    output_dir: str | Path | None
    args: TrainingArguments | None
    seed: int | None
    device: str
    callbacks: Sequence[Any] | None


class DPOKeywords(SFTKeywords, total=False):
    """Fields of `PreferenceLoss`."""

    loss_type: str
    beta: float
    label_smoothing: float
    gamma: float
    nll_coef: float
    dpop_coef: float
