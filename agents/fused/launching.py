"""How the kernels are launched."""

from typing import Any

import torch
import triton
from torch import Tensor


def launch(
    kernel: Any, grid: tuple[int, ...], near: Tensor, *arguments: Any, **constants: Any
) -> None:
    """Run a kernel on the device of one of its tensors, which need not be the current one."""
    with torch.cuda.device_of(near):  # on a CPU, where Triton interprets, it does nothing
        kernel[grid](*arguments, **constants)


def block_of(size: int, limit: int = 2**14) -> int:
    """Return the elements that a program takes at a time: a power of 2 not below ``size``."""
    return int(min(triton.next_power_of_2(size), limit))
