"""The rewards' tokenizer, whose words are letters."""

from tests.suite.rewards.conftest import tokenizer

__all__ = ["tokenizer"]
