"""The agents' environments and tokenizer, for critics that read them."""

from tests.suite.agents.conftest import make_envs, tokenizer

__all__ = ["make_envs", "tokenizer"]
