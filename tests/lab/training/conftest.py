"""The rewards' tokenizer, environments and classifier, to train models for."""

from tests.support.rewards.common import classifier, make_env, make_envs, tokenizer

__all__ = ["classifier", "make_env", "make_envs", "tokenizer"]
