"""Tiny random models, a stub vocabulary, and environments whose score counts a target token."""

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import pytest
import torch
from packaging.version import Version
from peft import LoraConfig
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.integrations.peft import MIN_PEFT_VERSION

from tests.support.rules import rule_of
from tests.support.words import WORDS
from tests.support.words import make_word_tokenizer as make_tokenizer
from tokengym.agents import PPO, CausalLMPolicy, likeliest
from tokengym.envs import TokenGenerationEnv, TokenGenerationVectorEnv
from tokengym.rewards import (
    FunctionScorer,
    Reward,
    RewardWrapper,
    Rule,
    VectorRewardWrapper,
    token_credit,
)

VOCABULARY = len(WORDS)


PAD, EOS, TARGET = 0, 1, 3  # TARGET is "a"


PROMPTS = ("b c", "d", "e d c b", "c c c")


def make_model(shape: str = "gpt2", *, seed: int = 0, scale: float = 5.0) -> PreTrainedModel:
    """Return a random model; ``scale`` sharpens its distributions so that errors would show."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        ids: Any = {"bos_token_id": EOS, "eos_token_id": EOS, "pad_token_id": PAD}
        if shape == "gpt2":  # with dropout, which must never act
            config: Any = GPT2Config(
                vocab_size=VOCABULARY, n_positions=32, n_embd=16, n_layer=2, n_head=2, **ids
            )
            model: PreTrainedModel = GPT2LMHeadModel(config)
        else:  # rotary positions, grouped heads, untied head
            sizes: Any = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
            sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "attention_dropout": 0.1}
            config = LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=32, **sizes, **ids)
            model = LlamaForCausalLM(config)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.data.mul_(scale)
    return model


transformers_reads_adapters = pytest.mark.skipif(
    Version(version("peft")) < Version(MIN_PEFT_VERSION),
    reason=f"transformers itself reads adapters with PEFT {MIN_PEFT_VERSION} or later",
)
"""Mark of tests in which it does, and not this library."""


def lora_config(shape: str = "gpt2") -> LoraConfig:
    """Return adapters with dropout, which must never act either."""
    modules = {"gpt2": ["c_attn", "c_proj"], "llama": ["q_proj", "v_proj"]}[shape]
    return LoraConfig(r=4, lora_dropout=0.3, target_modules=modules, fan_in_fan_out=shape == "gpt2")


def target_share(prompt: str, response: str) -> float:
    """Score: the share of the response's words that are the target, out of 6."""
    del prompt
    return response.split().count(WORDS[TARGET]) / 6.0


@token_credit
def per_token(scores: Any, response_ids: Any) -> Any:
    """Pays `target_share` to the target tokens themselves."""
    return (response_ids == TARGET).to(scores) / 6.0


def target_reward(credit: Rule | Callable[..., Any] | None = None) -> Reward:
    return Reward(FunctionScorer(target_share), rule_of("sparse") if credit is None else credit)


class WithinPolicy(CausalLMPolicy):
    """Samples among the likeliest tokens of its own first state, which is read beside it."""

    mask_top_p = 0.7

    def sample_within_itself(self, mask_top_p: float) -> None:
        self.auxiliary_models["first"] = self.language_model.frozen_copy()
        self.mask_top_p = mask_top_p

    def sampling_logits(
        self,
        logits: torch.Tensor,
        action_mask: torch.Tensor | None,
        *auxiliary_states: torch.Tensor,
        temperature: float | torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        first_logits = self.auxiliary_models["first"].logits(*auxiliary_states)
        first_logits, _ = super().sampling_logits(
            first_logits, action_mask, temperature=temperature
        )
        keep = likeliest(first_logits, top_p=self.mask_top_p)
        return super().sampling_logits(logits, keep, temperature=temperature)[0], keep


def single_env(reward: Reward | None = None, *wrappers: Any, **settings: Any) -> Any:
    """Return a single environment as `make_envs` has rows of, within wrappers."""
    defaults: Any = {"tokenizer": make_tokenizer(), "prompts": PROMPTS, "max_new_tokens": 6}
    env: Any = TokenGenerationEnv(**defaults | settings)
    env = RewardWrapper(env, target_reward() if reward is None else reward)
    for wrapper in wrappers:
        env = wrapper(env)
    return env


def critic_of(agent: PPO) -> Any:
    """Return the value function of an agent that has one."""
    return agent.policy.critic


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


@pytest.fixture(scope="session")
def make_envs(tokenizer: PreTrainedTokenizerFast) -> Callable[..., Any]:
    """Return a builder of batches: 4 rows, 6 new tokens, scored by `target_share`."""

    def build(*, reward: Reward | None = None, **settings: Any) -> VectorRewardWrapper:
        defaults: Any = {
            "num_envs": 4,
            "tokenizer": tokenizer,
            "prompts": PROMPTS,
            "max_new_tokens": 6,
        }
        envs = TokenGenerationVectorEnv(**defaults | settings)
        return VectorRewardWrapper(envs, target_reward() if reward is None else reward)

    return build


@pytest.fixture(scope="session")
def make_ppo(make_envs: Callable[..., Any]) -> Callable[..., PPO]:
    """Return a builder of agents over `make_envs`."""

    def build(
        *,
        envs: Any = None,
        model: Any = None,
        lora: Any = None,
        dtype: str = "auto",
        learner: type[PPO] = PPO,
        **settings: Any,
    ) -> PPO:
        defaults: Any = {"seed": 0, "device": "cpu"}
        kwargs = {"model": make_model() if model is None else model, "lora": lora, "dtype": dtype}
        return learner(
            "CausalLMPolicy",
            make_envs() if envs is None else envs,
            policy_kwargs=kwargs,
            **defaults | settings,
        )

    return build
