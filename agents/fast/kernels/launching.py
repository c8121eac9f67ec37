"""Launching of the kernels, and their registration as operations of torch."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import triton
from torch import Tensor

_library = torch.library.Library("tokengym", "FRAGMENT")


def operation(*, mutates: tuple[str, ...]) -> Callable[[Callable[..., None]], Any]:
    """Make a function an operation of torch, so that what it reads and writes can be counted.

    ``torch.library.custom_op`` does the same with ten times the time on the host for each call;
    what it adds, gradients and version counters, the callers do not need. ``mutates`` names the
    arguments that are written.
    """

    def register(function: Callable[..., None]) -> Any:
        name = function.__name__
        _library.define(name + torch.library.infer_schema(function, mutates_args=mutates))
        for kind in ("CPU", "CUDA"):
            _library.impl(name, function, kind)
        torch.library.register_fake(f"tokengym::{name}", lambda *_: None, lib=_library)
        return getattr(torch.ops.tokengym, name).default

    return register


def launch(
    kernel: Any, grid: tuple[int, ...], near: Tensor, *arguments: Any, **constants: Any
) -> None:
    """Run a kernel on the device of one of its tensors, which need not be the current one."""
    if not near.is_cuda or near.get_device() == torch.cuda.current_device():
        kernel[grid](*arguments, **constants)  # to switch costs an update hundreds of calls
    else:
        with torch.cuda.device_of(near):
            kernel[grid](*arguments, **constants)


@cache  # Triton's function takes the host longer than many a kernel takes the GPU
def block_of(size: int, limit: int = 2**14) -> int:
    """Return the elements that a program takes at a time: a power of 2 not below ``size``."""
    return int(min(triton.next_power_of_2(size), limit))


def programs(count: int, block: int) -> int:
    """Return the programs that do ``count`` elements, ``block`` each."""
    return -(-count // block)
