"""The rewards' tokenizer, environments and classifier, for rules that read them."""

from tests.suite.base.test_pretrained import with_code
from tests.suite.rewards.conftest import classifier, make_env, make_envs, tokenizer

__all__ = ["classifier", "make_env", "make_envs", "tokenizer", "with_code"]
