"""The rewards' tokenizer, environments and classifier, for scorers that read them."""

from tests.suite.rewards.conftest import classifier, make_env, make_envs, tokenizer

__all__ = ["classifier", "make_env", "make_envs", "tokenizer"]
