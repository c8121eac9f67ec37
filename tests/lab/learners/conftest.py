"""The agents' environments and tokenizer.

Every train() of a Trainer collects garbage; what is imported need not be looked through.
"""

import gc
from collections.abc import Iterator

import pytest

from tests.support.agents.common import make_envs, make_ppo, tokenizer

__all__ = ["make_envs", "make_ppo", "tokenizer"]


@pytest.fixture(scope="session", autouse=True)
def imported_modules_are_no_garbage() -> Iterator[None]:
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
