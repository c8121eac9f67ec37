"""PEFT adapters: put on a model with nothing of them left out, and merged into its weights."""

from __future__ import annotations

import copy
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokengym.base.errors import PretrainedError, reason_of
from tokengym.base.models import quiet
from tokengym.base.stored.parts import ADAPTER_WEIGHTS, check_weights

if TYPE_CHECKING:
    from torch import Tensor

PREFIX = "base_model.model."
"""What PEFT writes before the names of a model's weights."""
HEADS = ("score.weight", "classifier.weight", "classifier.out_proj.weight")
"""Last parts of the names of classifiers' heads, whose rows are the classes."""


def adapter_weights(folder: Path) -> dict[str, Tensor]:
    """Return the weights of stored adapters, of any shape, under the names of PEFT."""
    from safetensors.torch import load_file

    check_weights(folder)
    try:
        return load_file(folder / ADAPTER_WEIGHTS)
    except Exception as error:  # safetensors has errors of its own
        reason = reason_of(error)
        raise PretrainedError(f"{folder / ADAPTER_WEIGHTS} cannot be read ({reason})") from error


def head_rows(weights: dict[str, Tensor]) -> int | None:
    """Return the classes of a head, (classes, width), that is stored among adapters."""
    heads = (weight for name, weight in weights.items() if name.endswith(HEADS))
    return next((len(head) for head in heads), None)


def put_adapters(model: Any, folder: Path, weights: dict[str, Tensor] | None = None) -> Any:
    """Return the base of a folder's adapters with them on it, a ``PeftModel`` over its weights.

    A base without the tokens that were added for the adapters is given as many rows. Adapters that
    change no weights are refused, and a weight that is missing, in excess or of another shape.
    ``weights`` is what `adapter_weights` read of the folder.
    """
    from peft import PeftConfig

    weights = adapter_weights(folder) if weights is None else weights
    try:
        config: Any = PeftConfig.from_pretrained(str(folder))
        if config.is_prompt_learning or config.is_adaption_prompt:
            raise ValueError(f"{config.peft_type.value} changes no weights of the model")
        _check_fields(config)
        config.inference_mode, config.base_model_name_or_path = True, None
        _fit_rows(model, weights)
        adapted = adapt(model, config)
    except Exception as error:  # a configuration may be anything
        raise _unfit(model, folder, error) from error
    load_adapters(adapted, folder, weights)
    return adapted


MAX_PATTERN, MAX_REPEATS, MAX_COUNT = 2_000, 8, 2**16
"""Longest pattern of names that is matched, its most ``*`` and ``+``, and the largest number."""
COUNT = re.compile(r"\d+")


def _check_fields(config: Any) -> None:
    """Refuse patterns, which PEFT matches in exponential time, and numbers that take for ever."""
    targets = [getattr(config, name, None) for name in ("target_modules", "exclude_modules")]
    patterns = [pattern for pattern in targets if isinstance(pattern, str)]
    for name in ("rank_pattern", "alpha_pattern"):
        patterns += getattr(config, name, None) or {}
    for pattern in patterns:
        plain = re.sub(r"\\.|\[\^?\]?[^\]]*\]", "x", pattern)
        repeats = len(re.findall(r"[*+]|\{\d*,\d*\}", plain))
        if len(pattern) > MAX_PATTERN or repeats > MAX_REPEATS or re.search(r"\)[*+{]", plain):
            raise ValueError(f"the pattern {pattern[:80]!r} could take for ever; list the names")
    for name, value in vars(config).items():
        numbers = [value] if isinstance(value, int) else COUNT.findall(str(value)[:MAX_PATTERN])
        is_plan = name in ("init_lora_weights", "init_weights")
        if (isinstance(value, int) or is_plan) and any(int(n) > MAX_COUNT for n in numbers):
            raise ValueError(f"{name}={value!r} is more than {MAX_COUNT}")


def load_adapters(adapted: Any, folder: Path, weights: dict[str, Tensor] | None = None) -> None:
    """Give a ``PeftModel`` the weights of a folder, all of them; see `put_adapters`."""
    from peft import set_peft_model_state_dict
    from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING

    weights = adapter_weights(folder) if weights is None else weights
    try:
        result: Any = set_peft_model_state_dict(adapted, weights)
    except (KeyError, RuntimeError, ValueError) as error:
        raise _unfit(adapted.get_base_model(), folder, error) from error
    prefix = PEFT_TYPE_TO_PREFIX_MAPPING[adapted.active_peft_config.peft_type]
    markers = (f".{prefix}", ".modules_to_save.", ".trainable_tokens_")
    missing = [name for name in result.missing_keys if any(part in name for part in markers)]
    if missing:  # but of weights that are shared, one is enough
        state = adapted.state_dict()
        loaded = {state[name].data_ptr() for name in state.keys() - {*missing}}
        missing = [name for name in missing if state[name].data_ptr() not in loaded]
    if missing or result.unexpected_keys:
        name = (missing or result.unexpected_keys)[0]
        fault = "is missing" if missing else "has no place in the model"
        raise PretrainedError(
            f"the adapters in {folder} cannot be loaded whole: {name} {fault}; pass the model that "
            "they were trained on"
        )


def _unfit(model: Any, folder: Path, error: Exception) -> PretrainedError:
    """Return the error of adapters that do not fit a model."""
    return PretrainedError(
        f"the adapters in {folder} do not fit {type(model).__name__} ({reason_of(error)}); pass "
        "adapters of this model, trained for what it is used as"
    )


@contextmanager
def without_advice() -> Iterator[None]:
    """Keep PEFT's warnings off, which speak of its own calls."""
    with warnings.catch_warnings():
        for category in (FutureWarning, UserWarning):
            warnings.simplefilter("ignore", category)
        yield


def adapt(model: Any, config: Any) -> Any:
    """Return a ``PeftModel`` of new adapters over a model's weights."""
    from peft import get_peft_model

    with without_advice():
        return get_peft_model(model, config)


def _fit_rows(model: Any, weights: dict[str, Tensor]) -> None:
    """Give a model the rows of the embeddings that are stored with its adapters."""
    table = model.get_input_embeddings().weight
    names = [name for name, value in model.named_parameters() if value is table]
    for name in names:
        kinds = (name, name.removesuffix("weight") + "base_layer.weight")
        for stored in (weights.get(PREFIX + kind) for kind in kinds):
            if stored is not None and len(stored) != len(table):
                model.resize_token_embeddings(len(stored), mean_resizing=False)


@quiet()
def merge_stored(model: Any, folder: Path, weights: dict[str, Tensor] | None = None) -> Any:
    """Return a model with stored adapters merged into it; arguments are those of `put_adapters`."""
    merged = _merged(put_adapters(model, folder, weights))
    # What was put on later names it as its base.
    merged.name_or_path = merged.config._name_or_path = str(folder)
    return merged


def merged(model: Any) -> Any:
    """Return a model that computes what one with adapters does: a copy; any other model itself."""
    from peft import PeftModel

    if not isinstance(model, PeftModel) and not _has_adapters(model):
        return model
    return _merged(copy.deepcopy(model))


def unwrapped(model: Any) -> Any:
    """Return the transformers model in a ``PeftModel``, its adapters on; any other model itself."""
    from peft import PeftModel

    if not isinstance(model, PeftModel):
        return model
    _check_mergeable(model)
    return model.get_base_model()


def _merged(model: Any) -> Any:
    """Return what a model with adapters computes as a model without; the given one is used up."""
    from peft import PeftModel

    try:
        with without_advice():
            _untie_adapted(model)
            if isinstance(model, PeftModel):
                _check_mergeable(model)
                return model.merge_and_unload().requires_grad_(True)
            for name, layer in list(model.named_modules()):
                if (plain := _without_adapter(layer)) is not layer:
                    model.set_submodule(name, plain)
    except (AttributeError, NotImplementedError, RuntimeError, ValueError) as error:
        reason = reason_of(error)
        raise PretrainedError(
            f"the adapters of {type(model).__name__} cannot be merged ({reason}); merge them "
            "yourself, or pass a model without"
        ) from error
    model._hf_peft_config_loaded = False
    vars(model).pop("peft_config", None)  # a backbone's is its model's
    return model.requires_grad_(True)


def merged_layer(layer: Any) -> Any:
    """Return a layer that computes what one with an adapter does, a copy if it has one."""
    return _without_adapter(copy.deepcopy(layer)) if _has_adapters(layer) else layer


def _without_adapter(layer: Any) -> Any:
    """Return a layer with its own adapter merged into it, or itself if it has none."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    if isinstance(layer, AuxiliaryTrainingWrapper):  # trained whole, such as a new head
        return layer.unload_and_optionally_merge_module(True, False, None)
    if isinstance(layer, BaseTunerLayer):
        layer.merge()
        return layer.get_base_layer()
    return layer


def _untie_adapted(model: Any) -> None:
    """Give layers that adapters change weights of their own, such as a head tied to embeddings."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from torch import nn

    uses = Counter(id(weight) for _, weight in model.named_parameters(remove_duplicate=False))
    for layer in model.modules():
        base: Any = layer.get_base_layer() if isinstance(layer, BaseTunerLayer) else None
        weight = getattr(base, "weight", None)
        if weight is not None and uses[id(weight)] > 1:
            base.weight = nn.Parameter(weight.detach().clone())
            model.config.tie_word_embeddings = False  # PEFT's own merging says so from 0.21 on


def _has_adapters(model: Any) -> bool:
    """Return whether adapters were put into a model's layers."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    kinds = BaseTunerLayer, AuxiliaryTrainingWrapper
    return any(isinstance(module, kinds) for module in model.modules())


def _check_mergeable(model: Any) -> None:
    """Refuse adapters that are no part of a model's weights."""
    config = model.active_peft_config
    if config.is_prompt_learning or config.is_adaption_prompt:
        raise PretrainedError(
            f"{config.peft_type.value} is no adapter of the model's weights; pass a PeftModel with "
            "LoRA, or a model without adapters"
        )
