"""Texts that models read, counted: what a credit rule costs beside the score."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

_counters: list[list[int]] = []


def note_texts(number: int) -> None:
    """Count texts that are read without the model's own forward."""
    for texts in _counters:
        texts.append(number)


@contextmanager
def counted_texts() -> Iterator[list[int]]:
    """Count the texts that models read while the context is open.

    Yields:
        One number per reading, filled as they happen: the rows of each outermost forward of a model
        of transformers, and of each batch of prompts that a decoder reads without it.

    Example:
        ``with counted_texts() as texts: reward.evaluate(episodes)``, then ``sum(texts)``.
    """
    from transformers import PreTrainedModel

    texts: list[int] = []
    depth = 0

    def before(module: torch.nn.Module, args: Any) -> None:
        nonlocal depth
        depth += isinstance(module, PreTrainedModel)

    def after(module: torch.nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        nonlocal depth
        if isinstance(module, PreTrainedModel):
            depth -= 1
            if depth == 0:  # a model inside a model reads the same text
                tensors = [v for v in (*args, *kwargs.values()) if isinstance(v, Tensor)]
                texts.append(len(tensors[0]) if tensors else 0)

    hooks = torch.nn.modules.module
    handles = [
        hooks.register_module_forward_pre_hook(before),
        hooks.register_module_forward_hook(after, with_kwargs=True, always_call=True),
    ]
    _counters.append(texts)
    try:
        yield texts
    finally:
        _counters[:] = [other for other in _counters if other is not texts]
        for handle in handles:
            handle.remove()
