"""Bytes that operations read and write, counted under fake tensors: nothing is computed."""

import math
from collections import Counter
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

PICKED = ("gather", "scatter_add_", "nll_loss_forward", "index")
"""Operations that read or write a few places of their largest tensor."""


class Traffic(TorchDispatchMode):
    """Counts bytes by operation, as if each were one kernel; a view is free.

    Enter it inside a ``FakeTensorMode``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.is_view or func.namespace == "prim":
            return result
        named = {key: value for key, value in (kwargs or {}).items() if key != "out"}
        tensors = [x for x in tree_flatten((args, named, result))[0] if isinstance(x, Tensor)]
        name = func.overloadpacket.__name__
        if name in PICKED:
            tensors = [x for x in tensors if x.numel() < max(y.numel() for y in tensors)]
        self.calls[name] += 1
        self.bytes[name] += sum(map(_stored, tensors))
        return result

    @property
    def total(self) -> int:
        """All bytes."""
        return sum(self.bytes.values())


def _stored(tensor: Tensor) -> int:
    """Return the bytes in memory: those of a broadcast dimension once."""
    sizes = [n for n, s in zip(tensor.shape, tensor.stride(), strict=True) if s]
    return math.prod(sizes) * tensor.element_size()
