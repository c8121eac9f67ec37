"""New adapters on a policy, under which the model with its adapters off is where it started."""

import copy
import logging
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from tokengym.agents.errors import ModelError
from tokengym.base.stored.adapters import adapt

if TYPE_CHECKING:
    from peft import LoraConfig

logger = logging.getLogger(__name__)

NEUTRAL = frozenset(
    """
    auto_mapping base_model_name_or_path ensure_weight_tying exclude_modules fan_in_fan_out
    alpha_pattern layers_pattern layers_to_transform lora_alpha lora_bias lora_dropout megatron_core
    modules_to_save peft_type peft_version qalora_group_size r rank_pattern revision runtime_config
    target_modules target_parameters trainable_token_indices use_dora use_rslora
    """.split()
)
"""Fields of ``LoraConfig`` with which the model still starts as it is, and is itself again with its
adapters off."""
ALLOWED: dict[str, tuple[Any, ...]] = {
    "bias": ("none",),
    "inference_mode": (False,),
    "init_lora_weights": (True, "gaussian", "orthogonal"),
    "task_type": (None, "CAUSAL_LM"),
}
"""Other fields with the values that are so too; the rest must have their defaults."""


def warn_of_dropout(adapters: Any | None, remedy: str) -> None:
    """Warn of adapters whose dropout has no effect, as that of the whole model is off."""
    configs = () if adapters is None else adapters.peft_config.values()
    rate = max((config.lora_dropout for config in configs), default=0)
    if rate > 0:
        logger.warning("lora_dropout=%g of the adapters has no effect: %s", rate, remedy)


def put_new_adapters(model: Any, lora: "LoraConfig") -> Any:
    """Return a ``PeftModel`` of new adapters over a model, which computes what the model does."""
    from peft import LoraConfig

    if type(lora) is not LoraConfig:  # the others are trained, and stored, in ways of their own
        raise ModelError(
            f"lora must be a peft.LoraConfig or None, got {lora!r}; write lora=LoraConfig(r=8)"
        )
    usual: Any = LoraConfig()
    for name in (field.name for field in fields(lora) if field.name not in NEUTRAL):
        value = getattr(lora, name)
        allowed = ALLOWED.get(name, (getattr(usual, name),))
        if not any(type(value) is type(one) and value == one for one in allowed):
            raise ModelError(
                f"LoraConfig({name}={value!r}) leaves nothing to learn, or another model at the "
                "start or with the adapters off, which the KL is measured to; leave it out"
            )
    try:
        return adapt(model, copy.deepcopy(lora))
    except (ArithmeticError, AttributeError, LookupError, TypeError) as error:
        raise ModelError(f"lora cannot be put on the model ({error}); correct it") from error
