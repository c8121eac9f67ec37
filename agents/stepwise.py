"""Trainings that call back and cannot be left, as generators of their updates."""

import random
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any

import numpy as np
import torch
from greenlet import greenlet

from tokengym.agents.contract import Update


def stepwise(train: Callable[[], object]) -> Generator[Update, None, None]:
    """Run a training to the next `hand_over`, yield its update, and continue.

    A greenlet runs it, in the same thread and with the variables of this context. Both sides may
    draw from the global generators: each has a state of its own.

    Args:
        train: The training; leaving the loop ends it where it stands.
    """
    training: Any = greenlet(train)
    training.gr_context = copy_context()
    outside, inside = global_random_state(), None
    try:
        while True:
            if inside is not None:
                set_global_random_state(inside)
            update = training.switch()
            inside = global_random_state()
            set_global_random_state(outside)
            if training.dead:
                return
            yield update
            outside = global_random_state()
    finally:
        if not training.dead:  # the loop was left
            outside = global_random_state()
            training.throw()
            set_global_random_state(outside)


def hand_over(update: Update) -> None:
    """Return to the loop over `stepwise` with an update; the loop's next turn continues here."""
    parent = greenlet.getcurrent().parent
    assert parent is not None
    parent.switch(update)


@contextmanager
def isolated_random_state() -> Iterator[None]:
    """Restore the global random state afterwards: trainers of other libraries seed it."""
    before = global_random_state()
    try:
        yield
    finally:
        set_global_random_state(before)


def global_random_state() -> tuple[Any, ...]:
    """Return the state of Python's, NumPy's and torch's generators, of torch the GPU's too."""
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
