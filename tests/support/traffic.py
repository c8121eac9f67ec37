"""Bytes that operations read and write, counted under fake tensors: nothing is computed."""

import math
from collections import Counter
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten


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
        inputs, outputs = (
            [x for x in tree_flatten(given)[0] if isinstance(x, Tensor)]
            for given in ((args, kwargs), result)
        )
        name = func.overloadpacket.__name__
        self.calls[name] += 1
        # Of a product broadcast over a dimension what is stored counts, once.
        self.bytes[name] += sum(_stored(x) for x in [*inputs, *outputs])
        return result

    @property
    def total(self) -> int:
        """All bytes."""
        return sum(self.bytes.values())


def _stored(tensor: Tensor) -> int:
    sizes = [n for n, s in zip(tensor.shape, tensor.stride(), strict=True) if s]
    return math.prod(sizes) * tensor.element_size()
