"""The rewards' tokenizer, environments and classifier, to train models for."""

from tests.suite.rewards.conftest import classifier, make_env, make_envs, tokenizer

__all__ = ["classifier", "make_env", "make_envs", "tokenizer"]
