"""Linear maps with LoRA outside PEFT's modules: merged for rollouts, by few products in updates.

y = W x + b + s B A x

In a rollout nothing learns, and adapters would take several more kernels per map and step: there a
copy of the weights has them added, perhaps in a lower precision. In an update the A of all maps
that read the same x take one product, and the second is added to what the frozen weight gives, in
the precision of x. PEFT's modules take seven operations a map and go over x and y in float32, of
which the gradient keeps a copy of x for each map.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokengym.agents.errors import ModelError
from tokengym.agents.policy.language_model import CausalLM

Factors: TypeAlias = Mapping[int, tuple[Tensor, Tensor]]
"""A, (rank, in), and s B, (out, rank), of the maps that have them, by the map's ``id``."""


class MergedModel:
    """A copy that decodes, without adapters; weights that would be equal are shared.

    Where the source's weights move, another copy is needed. Without a dtype each keeps its own.
    """

    @torch.no_grad()
    def __init__(self, source: CausalLM, dtype: torch.dtype | None = None) -> None:
        # `deepcopy` takes what the memo holds in place of a copy: weights that are shared or have
        # another precision, and plain linear maps where the source has adapters.
        memo: dict[int, Any] = {}
        self._copied: list[tuple[Tensor, Tensor]] = []  # source, copy
        self._merged: list[tuple[Any, Tensor]] = []  # module with adapters, merged weight
        for parameter in source.model.parameters():
            copied = parameter
            if dtype is not None and parameter.dtype != dtype:
                copied = nn.Parameter(torch.empty_like(parameter, dtype=dtype), requires_grad=False)
                self._copied.append((parameter, copied))
            memo[id(parameter)] = copied
        for module in _adapted(source):
            base = module.base_layer
            plain = copy.deepcopy(base, memo)
            plain.weight = nn.Parameter(
                torch.empty_like(base.weight, dtype=dtype), requires_grad=False
            )
            memo[id(module)] = plain
            self._merged.append((module, plain.weight))
        model = copy.deepcopy(source.model, memo)
        kept = {id(parameter) for parameter in model.parameters()}
        self._copied = [(old, new) for old, new in self._copied if id(new) in kept]
        self.refresh()
        self.language_model = CausalLM(model)

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over the source's weights as they are now, in place."""
        # In place: captured graphs read these addresses.
        for weight, copied in self._copied:
            copied.copy_(weight)
        for module, copied in self._merged:
            copied.copy_(merged_weight(module))


def merged_weight(module: Any) -> Tensor:
    """Return the weight of a linear map with the adapters that are on, whose sum is float32."""
    weight: Tensor = module.base_layer.weight
    if not (module.disable_adapters or module.merged):
        for adapter in module.active_adapters:
            if adapter in module.lora_A:
                weight = weight.float() + module.get_delta_weight(adapter)
    return weight


def has_plain_lora(module: Any, kind: type[nn.Module]) -> bool:
    """Say whether a module is a linear map of this kind with plain LoRA, apart from its weight."""
    from peft.tuners.lora import Linear

    return (
        type(module) is Linear
        and type(module.base_layer) is kind
        and not module.lora_variant
        and not any(module.lora_bias.values())
        and not module.merged
    )


def decoding_model(
    source: CausalLM, dtype: torch.dtype | None
) -> tuple[CausalLM, MergedModel | None]:
    """Return the model to decode with, and the copy that it is, if it is one."""
    if not _adapted(source) and dtype in (None, source.model.dtype):
        return source, None
    merged = MergedModel(source, dtype)
    return merged.language_model, merged


def _adapted(source: CausalLM) -> list[Any]:
    """Return the modules with adapters."""
    from peft.tuners.lora import Linear
    from peft.tuners.tuners_utils import BaseTunerLayer

    adapted: list[Any] = [m for m in source.model.modules() if isinstance(m, BaseTunerLayer)]
    for module in adapted:
        if type(module) is not Linear or module.lora_variant or any(module.lora_bias.values()):
            raise ModelError(
                f"adapters of {type(module).__name__} cannot be merged for decoding; use plain "
                "LoRA on linear layers, or decoding='dynamic'"
            )
    return adapted


def factors_of(module: Any) -> list[tuple[Tensor, Tensor, float]]:
    """Return A (rank, in), B (out, rank) and s of each adapter of a map that is on."""
    if type(module) is nn.Linear or module.disable_adapters:
        return []
    return [
        (module.lora_A[name].weight, module.lora_B[name].weight, module.scaling[name])
        for name in module.active_adapters
        if name in module.lora_A
    ]


def adapters_of(modules: Sequence[Any], dtype: torch.dtype) -> Factors:
    """Return the adapters of maps with one plain LoRA as they are now, in a precision."""
    read = []
    for module in modules:
        if type(module) is not nn.Linear and has_plain_lora(module, nn.Linear):
            factors = factors_of(module)
            if len(factors) == 1 and not module.training:
                read.append((module, *factors[0]))
    if not read:
        return {}
    maps, lower, upper, scales = zip(*read, strict=True)
    # All at once: brought to a precision one by one they would be several hundred operations.
    scaled = [
        b if s == scales[0] else b * (s / scales[0]) for b, s in zip(upper, scales, strict=True)
    ]
    pairs = zip(_brought(lower, dtype), _brought(scaled, dtype, scales[0]), strict=True)
    return dict(zip(map(id, maps), pairs, strict=True))


def outputs(modules: Sequence[Any], x: Tensor, factors: Factors) -> list[Tensor]:
    """Return what linear maps of the same x give, adapters included: (..., in) -> (..., out) each.

    Of one that is not among the factors of `adapters_of`, its own forward is taken.
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


def _brought(weights: Sequence[Tensor], dtype: torch.dtype, scale: float = 1.0) -> list[Tensor]:
    """Return matrices, (rank, in) or (out, rank), times a scale in a precision."""
    flat = torch.cat([weight.flatten() for weight in weights])
    flat = (flat if scale == 1.0 else flat * scale).to(dtype)
    parts = flat.split([weight.numel() for weight in weights])
    return [part.view_as(weight) for part, weight in zip(parts, weights, strict=True)]
