"""Linear maps applied step after step with weights that stay: laid out once where that pays."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

LinearMap = Callable[[Tensor], Tensor]


def packs(weight: Tensor) -> bool:
    """Say whether `linear_map` lays the weights out anew: bfloat16 on a CPU that computes in it.

    There every product first brings its weights into oneDNN's order, which for a vocabulary of
    50,257 takes a third of the time. PyTorch's compiler packs by the same two functions; they are
    not documented, so a build without them goes on without packing.
    """
    operators: Any = torch.ops.mkldnn
    return (
        weight.dtype == torch.bfloat16
        and weight.device.type == "cpu"
        and torch.backends.mkldnn.is_available()
        and hasattr(operators, "_linear_pointwise")
        and hasattr(operators, "_reorder_linear_weight")
        and operators._is_mkldnn_bf16_supported()
    )


def linear_map(weight: Tensor, bias: Tensor | None) -> LinearMap:
    """Return x -> x W + b for many calls without gradient; later changes of W may not count.

    Args:
        weight: (in, out).
        bias: (out,), or None.

    Returns:
        A function (rows, in) -> (rows, out).
    """
    if packs(weight):
        operators: Any = torch.ops.mkldnn
        packed = operators._reorder_linear_weight(weight.detach().t(), None)
        return lambda x: operators._linear_pointwise(x, packed, bias, "none", [], "")
    if bias is None:
        return lambda x: x @ weight
    return lambda x: torch.addmm(bias, x, weight)
