"""The global random generators, which trainers of other libraries seed and draw from."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


@contextmanager
def isolated_random_state() -> Iterator[None]:
    """Restore the global random state after the block."""
    before = global_random_state()
    try:
        yield
    finally:
        set_global_random_state(before)


def global_random_state() -> tuple[Any, ...]:
    """Return the state of Python's, NumPy's and torch's generators, and of the GPU's."""
    device = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), device


def set_global_random_state(state: tuple[Any, ...]) -> None:
    """Restore what `global_random_state` returned."""
    python, numpy, cpu, device = state
    random.setstate(python)
    np.random.set_state(numpy)
    torch.set_rng_state(cpu)
    if device is not None:
        torch.cuda.set_rng_state(device)
