"""A language model's weights for rollouts: adapters merged, perhaps in a lower precision.

Adapters take a rollout several more kernels per linear map and step, and nothing learns in one.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from tokengym.agents.errors import ModelError
from tokengym.agents.policy.language_model import LanguageModel


class MergedModel:
    """A copy that decodes, without adapters; weights that would be equal are shared.

    Args:
        source: The model; where its weights move, make another copy.
        dtype: Precision of the copy; None keeps each weight's.
    """

    @torch.no_grad()
    def __init__(self, source: LanguageModel, dtype: torch.dtype | None = None) -> None:
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
        self.language_model = LanguageModel(model)

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
    source: LanguageModel, dtype: torch.dtype | None
) -> tuple[LanguageModel, MergedModel | None]:
    """Return the model to decode with, and the copy that it is, if it is one."""
    if not _adapted(source) and dtype in (None, source.model.dtype):
        return source, None
    merged = MergedModel(source, dtype)
    return merged.language_model, merged


def _adapted(source: LanguageModel) -> list[Any]:
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
