"""Types of the keywords of `gym.make` and `gym.make_vec` for the tasks.

Written by `python -m docs.makers.build_docs` from the settings dataclasses: edit those.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from tokengym.base.bundle import Bundle, Split
from tokengym.base.chat import Messages
from tokengym.base.prompt import Prompt, PromptSet
from tokengym.envs.keywords import GenerationKeywords
from tokengym.envs.prompts.loading import Column
from tokengym.envs.tasks.task import PromptTokens
from tokengym.rewards.registry import RewardSpec
from tokengym.rewards.scorers.base import AnyScorer


class EnvKeywords(GenerationKeywords, total=False):
    """Fields of `EnvReward` and `TaskOptions`."""

    scorer: AnyScorer | str | Path | None
    reward_model: str | Path | None
    encoder: str | Path | None
    scorer_timeout: float | None
    reward: RewardSpec
    normalize: str | None
    bundle: Bundle | Path | str | None
    model: str | None
    tokenizer: PreTrainedTokenizerBase | str | None
    eos_token: Sequence[str | int] | None
    pad_token: str | None
    prompts: PromptSet | Sequence[str | Prompt | Messages] | None
    dataset: str | Path | Any | None
    prompt_column: Column | None
    reference_column: Column | None
    query_type_column: Column | None
    metadata_columns: Sequence[Column]
    predict_query_types: bool
    prompt_tokens: PromptTokens | None
    split: Split
    render_mode: str | None
