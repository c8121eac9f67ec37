"""Pairs of ids, a DPO over them, and what a test reads of a trainer."""

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def imported_modules_are_no_garbage() -> Iterator[None]:
    """Every train() of a Trainer collects garbage; what is imported need not be looked through."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
