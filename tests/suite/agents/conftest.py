"""Tiny random models, a stub vocabulary, and environments whose score counts a target token."""

from tests.support.agents.common import make_envs as make_envs
from tests.support.agents.common import make_ppo as make_ppo
from tests.support.agents.common import tokenizer as tokenizer
