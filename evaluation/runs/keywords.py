"""Types of the settings of `tokengym.compare`, read by type checkers alone.

Written by `python -m docs.makers.build_docs` from the settings dataclasses: edit those.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

from transformers import PreTrainedTokenizerBase

from tokengym.agents.policy.settings import Precision, Products, Schedule, ValueNetwork
from tokengym.agents.ppo.settings import KlEstimator, LrSchedule
from tokengym.base.bundle import Bundle
from tokengym.base.chat import Messages
from tokengym.base.prompt import Prompt, PromptSet
from tokengym.envs.prompts.loading import Column
from tokengym.envs.prompts.tables import OnError
from tokengym.envs.settings import Overlong
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
    learning_rate: Schedule | float | None
    learning_rate_schedule: LrSchedule | None
    n_warmup_updates: int | None
    advantage: str | Callable[..., Any] | None
    weights: str | Callable[..., Any] | None
    loss: str | Callable[..., Any] | None
    group_size: int | None
    n_epochs: int | None
    n_minibatches: int | None
    gamma: float | None
    gae_lambda: float | None
    clip_range_vf: Schedule | None
    value_network: ValueNetwork | None
    vf_coef: float | None
    kl_coef: float | None
    kl_estimator: KlEstimator | None
    kl_target: float | None
    kl_horizon: float | None
    micro_batch_size: int | None
    reference_samples: int | None
    eval_every: int | None
    eval_every_until: int | None
    eval_episodes: int | None
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
    min_new_tokens: int | None
    forbidden_token_ids: Sequence[int] | None
    overlong: Overlong | None
    chat_template: bool | None
    prompt_format: str | None
    max_prompt_tokens: int | None
    stop_strings: Sequence[str] | None
    task_options: str | None
    n: int | None
    sample_temperatures: tuple[float | None, ...] | None
    pairs: str | None
    eval_pairs: str | None
    pairs_prompt_column: str | None
    own_prompts: bool | None
    num_eval_prompts: int | None
    on_error: OnError | None
    num_prompts: int | None
    epochs: float | None
    loss_type: str | None
    beta: float | None
    label_smoothing: float | None
    mask_top_p: float | None
    mask_refresh: int | None
    iterations: int | None
    enhancer: Any | None
    enhancer_candidates: int | None
    preference_model: str | None
