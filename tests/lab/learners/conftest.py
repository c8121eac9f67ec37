"""The agents' environments and tokenizer."""

from tests.support.agents.common import make_envs, make_ppo, tokenizer

__all__ = ["make_envs", "make_ppo", "tokenizer"]
