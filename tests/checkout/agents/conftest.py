"""The agents' environments and tokenizer, for learners of the pages."""

from tests.suite.agents.conftest import make_envs, tokenizer

__all__ = ["make_envs", "tokenizer"]
