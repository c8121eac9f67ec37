"""The rewards' tokenizer, environments and classifier, for rules that read them."""

from tests.support.base.pretrained import with_code
from tests.support.rewards.common import classifier, make_env, make_envs, tokenizer

__all__ = ["classifier", "make_env", "make_envs", "tokenizer", "with_code"]
