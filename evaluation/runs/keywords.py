"""Types of the settings of `tokengym.compare`, read by type checkers alone.

Written by `python -m docs.makers.build_docs` from the settings dataclasses: edit those.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

from transformers import PreTrainedTokenizerBase

from tokengym.agents.policy.settings import Precision, Products, Schedule, ValueNetwork
from tokengym.agents.ppo.settings import KlEstimator, KlPlace, LossMean, LrSchedule, OldLogProbs
from tokengym.base.bundle import Bundle
from tokengym.base.chat import Messages
from tokengym.base.prompt import Prompt, PromptSet
from tokengym.envs.prompts.loading import Column
from tokengym.envs.prompts.tables import LearnOn, OnError
from tokengym.envs.settings import Horizon, OnPartnerError, Overlong, PromptSampling
from tokengym.envs.tasks.task import PromptTokens
from tokengym.envs.turns.partner import Partner
from tokengym.evaluation.runs.settings import Stream
from tokengym.rewards.scorers.base import AnyScorer


class CompareKeywords(TypedDict, total=False):
    """Settings by the words of their options."""

    device: str | None
    dtype: Literal["auto", "float32", "bfloat16"] | None
    lora_rank: int | None
    lora_targets: str | None
    threads: int | None
    precision: Precision | None
    products: Products | None
    updates: int | None
    batch_size: int | None
    tokens: int | None
    max_new_tokens: int | None
    fixed_length: bool | None
    normalize: str | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    learning_rate: Schedule | float | None
    learning_rate_schedule: LrSchedule | None
    n_warmup_updates: int | None
    advantage: str | Callable[..., Any] | None
    weights: str | Callable[..., Any] | None
    loss: str | Callable[..., Any] | None
    group_size: int | None
    drop_equal_groups: bool | None
    std_floor: float | None
    loss_mean: LossMean | None
    n_epochs: int | None
    n_minibatches: int | None
    gamma: float | None
    gae_lambda: float | None
    gae_lambda_vf: float | None
    clip_range: Schedule | None
    clip_range_high: float | None
    old_log_probs: OldLogProbs | None
    clip_range_vf: Schedule | None
    value_network: ValueNetwork | None
    vf_coef: float | None
    ent_coef: float | None
    kl_coef: float | None
    kl_in: KlPlace | None
    kl_estimator: KlEstimator | None
    kl_target: float | None
    kl_horizon: float | None
    n_value_warmup: int | None
    target_kl: float | None
    max_grad_norm: float | None
    micro_batch_size: int | None
    reference_samples: int | None
    eval_every: int | None
    eval_every_until: int | None
    eval_episodes: int | None
    eval_seed: int | None
    eval_stream: Stream | None
    samples: int | None
    toxicity: str | None
    bundle: Bundle | Path | str | None
    model: str | None
    tokenizer: PreTrainedTokenizerBase | str | None
    eos_token: Sequence[str | int] | None
    pad_token: str | None
    prompts: PromptSet | Sequence[str | Prompt | Messages] | None
    dataset: str | Path | Any | None
    prompt_column: Column | str | None
    reference_column: Column | None
    query_type_column: Column | None
    metadata_columns: Sequence[Column] | None
    predict_query_types: bool | None
    prompt_tokens: PromptTokens | None
    scorer: AnyScorer | str | Path | None
    reward_model: str | Path | None
    encoder: str | Path | None
    scorer_timeout: float | None
    partner: Partner | Callable[..., Any] | str | None
    max_turns: int | None
    max_turn_tokens: int | None
    max_reply_tokens: int | None
    partner_timeout: float | None
    on_partner_error: OnPartnerError | None
    min_new_tokens: int | None
    forbidden_token_ids: Sequence[int] | None
    horizon: Horizon | None
    prompt_sampling: PromptSampling | None
    overlong: Overlong | None
    chat_template: bool | None
    prompt_format: str | None
    template_date: str | None
    max_prompt_tokens: int | None
    stop_strings: Sequence[str] | None
    allowed_token_ids: Sequence[tuple[int, ...]] | None
    task_options: str | None
    n: int | None
    sample_temperatures: tuple[float | None, ...] | None
    length_penalty: float | None
    pairs: str | None
    eval_pairs: str | None
    pairs_prompt_column: str | None
    own_prompts: bool | None
    num_eval_prompts: int | None
    on_error: OnError | None
    overlong_rows: Overlong | None
    learn_on: LearnOn | None
    num_prompts: int | None
    min_gap: float | None
    epochs: float | None
    lr_scheduler_type: str | None
    loss_type: str | None
    beta: float | None
    label_smoothing: float | None
    nll_coef: float | None
    dpop_coef: float | None
    mask_top_p: float | None
    mask_refresh: int | None
    iterations: int | None
    enhancer: Any | None
    enhancer_candidates: int | None
    preference_model: str | None
