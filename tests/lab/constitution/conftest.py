"""The agents' environments and tokenizer, for critics that read them."""

from tests.support.agents.common import make_envs, tokenizer

__all__ = ["make_envs", "tokenizer"]
