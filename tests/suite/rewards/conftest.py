"""Stub tokenizers, tiny random models and episodes."""

from tests.support.rewards.common import classifier as classifier
from tests.support.rewards.common import make_env as make_env
from tests.support.rewards.common import make_envs as make_envs
from tests.support.rewards.common import tokenizer as tokenizer
