"""The rewards' tokenizer, whose words are letters, and replays of one response by hand."""

from tests.support.rewards.common import tokenizer

__all__ = ["tokenizer"]
