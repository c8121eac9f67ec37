"""The agents' environments and tokenizer, for learners of the pages."""

from tests.support.agents.common import make_envs, tokenizer

__all__ = ["make_envs", "tokenizer"]
