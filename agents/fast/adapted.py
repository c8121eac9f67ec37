"""Linear maps with LoRA over whole texts, with gradients, by few products.

y = W x + b + s B A x

The A of all maps that read the same x take one product, and the second is added to what the frozen
weight gives, in the precision of x. PEFT's modules, the plain form, take seven operations a map and
go over x and y in float32, of which the gradient keeps a copy of x for each map.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokengym.agents.fast.llama import linear_maps
from tokengym.agents.fast.merged import has_plain_lora

Factors: TypeAlias = Mapping[int, tuple[Tensor, Tensor]]
"""A, (rank, in), and s B, (out, rank), of the maps that have them, by the map's ``id``."""


def adapters_of(trunk: Any, dtype: torch.dtype) -> Factors:
    """Return the adapters of a trunk as they are now, in the precision of its products.

    Args:
        trunk: Of the Llama family.
        dtype: The precision.
    """
    maps = [m for block in trunk.layers for group in linear_maps(block) for m in group]
    read = [(m, *adapter) for m in maps if (adapter := _adapter(m)) is not None]
    if not read:
        return {}
    modules, lower, upper, scales = zip(*read, strict=True)
    # All at once: brought to a precision one by one they would be several hundred operations.
    scaled = [
        b if s == scales[0] else b * (s / scales[0]) for b, s in zip(upper, scales, strict=True)
    ]
    pairs = zip(_brought(lower, dtype), _brought(scaled, dtype, scales[0]), strict=True)
    return dict(zip(map(id, modules), pairs, strict=True))


def outputs(modules: Sequence[Any], x: Tensor, factors: Factors) -> list[Tensor]:
    """Return what linear maps of the same x give, adapters included.

    Args:
        modules: The maps; of one that is not among the factors, its own forward is taken.
        x: (..., in).
        factors: From `adapters_of`.

    Returns:
        (..., out) of each.
    """
    adapted = [factors[id(m)] for m in modules if id(m) in factors]
    if not adapted:
        return [m(x) for m in modules]
    rows = x.flatten(0, -2)
    lower = [a for a, _ in adapted]
    inner = F.linear(rows, torch.cat(lower) if len(lower) > 1 else lower[0])  # (n, ranks)
    parts = iter(inner.split([len(a) for a in lower], -1))
    given = []
    for module in modules:
        if id(module) not in factors:
            given.append(module(x))
            continue
        _, upper = factors[id(module)]
        y = module.base_layer(rows).addmm_(next(parts), upper.t())
        given.append(y.unflatten(0, x.shape[:-1]))
    return given


def _adapter(module: Any) -> tuple[Tensor, Tensor, float] | None:
    """Return A (rank, in), B (out, rank) and s of a map with one plain LoRA that is on, or None."""
    if type(module) is nn.Linear or not has_plain_lora(module, nn.Linear):
        return None
    active = [name for name in module.active_adapters if name in module.lora_A]
    if module.disable_adapters or module.training or len(active) != 1:
        return None
    (name,) = active
    return module.lora_A[name].weight, module.lora_B[name].weight, module.scaling[name]


def _brought(weights: Sequence[Tensor], dtype: torch.dtype, scale: float = 1.0) -> list[Tensor]:
    """Return matrices, (rank, in) or (out, rank), times a scale in a precision."""
    flat = torch.cat([weight.flatten() for weight in weights])
    flat = (flat if scale == 1.0 else flat * scale).to(dtype)
    parts = flat.split([weight.numel() for weight in weights])
    return [part.view_as(weight) for part, weight in zip(parts, weights, strict=True)]
