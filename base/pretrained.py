"""Stored models and tokenizers are read here alone: no code of theirs is run, no pickle opened.

A model is one whatever it is stored as: whole, as adapters over a base, or in a saved agent.
"""

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokengym.base.errors import PretrainedError, reason_of
from tokengym.base.models import quiet
from tokengym.base.stored.adapters import PREFIX, adapter_weights, head_rows, merge_stored
from tokengym.base.stored.parts import (
    StoredParts,
    check_place,
    check_weights,
    hub_answers,
    parts_of,
    say_merged,
    tokenizer_place,
)

ALIGNED = 64
"""Bytes at whose multiples torch puts its own tensors."""
DECODERS = "a decoder-only language model, such as GPT-2, Llama or Qwen"
"""Remedy where another kind of model was given as a policy."""
MAX_LAYERS = 1000
"""Most blocks of a stored model that are believed and built."""


@quiet()
def from_pretrained(auto_class: Any, path: str | Path, **options: Any) -> Any:
    """Return what a class of transformers reads from a folder or from the hub.

    Adapters are merged into the model that they were trained on, which is said once.

    Args:
        auto_class: An ``AutoModel...``, whose weights must be safetensors, ``AutoConfig`` or
            ``AutoTokenizer``.
        path: Folder of a whole model, of adapters or of a saved agent, GGUF file, registered name
            or hub name. What looks like a path of this machine and is none is not looked up on the
            hub, which is asked once for what is no folder.
        options: Further arguments of ``auto_class.from_pretrained``.

    Raises:
        PretrainedError: if there is nothing to read, reading it would run code, or the adapters
            cannot be loaded whole.
    """
    kind = auto_class.__name__
    try:
        if kind == "AutoTokenizer":
            return _read_tokenizer(auto_class, path, options)
        parts = parts_of(path)
        if kind.startswith("AutoModel"):
            return _read_model(auto_class, parts, options)
        source = {"trust_remote_code": False, **options, **parts.options}
        return auto_class.from_pretrained(str(parts.weights), **source)
    except PretrainedError:
        raise
    except Exception as error:  # transformers' libraries raise a dozen kinds
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            raise
        raise _unreadable(path, kind, error) from error


def _unreadable(path: str | Path, kind: str, error: Exception) -> PretrainedError:
    """Return the error of a model or tokenizer that transformers cannot read."""
    reason, remedy = reason_of(error), "pass a folder that save_pretrained wrote, or a hub name"
    if "trust_remote_code" in str(error) or "custom code" in str(error):
        reason = "it would run code of its own, which is never done"
        remedy = "take a model of a family that transformers has"
    elif "Unrecognized configuration class" in reason:
        reason = "models of its kind have no such head"
        remedy = f"pass {DECODERS}" if kind == "AutoModelForCausalLM" else "pass one that has"
    kind = "tokenizer" if kind == "AutoTokenizer" else kind
    return PretrainedError(f"cannot load {path} as {kind} ({reason}); {remedy}")


def _read_tokenizer(auto_class: Any, path: str | Path, options: Mapping[str, Any]) -> Any:
    """Return the tokenizer of a stored model, which may be its base's."""
    place = tokenizer_place(path)
    place = path if place is None else place  # transformers says what is missing
    check_place(place)
    source = {} if Path(place).exists() else {"local_files_only": not hub_answers(str(place))}
    source = {"trust_remote_code": False, **options, **source}
    return auto_class.from_pretrained(str(place), **source)


def _read_model(auto_class: Any, parts: StoredParts, options: Mapping[str, Any]) -> Any:
    """Return a model with its adapters merged; see `from_pretrained`."""
    check_weights(parts.weights)
    adapters = {folder: adapter_weights(folder) for folder in parts.adapters}
    options = {**options, **parts.options}
    if "SequenceClassification" in auto_class.__name__:
        for classes in filter(None, map(head_rows, adapters.values())):
            options |= {"num_labels": classes}
    arguments = {"use_safetensors": True, "trust_remote_code": False, **parts.options}
    arguments |= _with_config(parts.weights, options)
    if auto_class.__name__ == "AutoModelForCausalLM" and arguments["config"].is_encoder_decoder:
        raise PretrainedError(
            f"{parts.weights} is a {arguments['config'].model_type} model, which reads the prompt "
            f"with an encoder of its own; pass {DECODERS}"
        )
    loaded = auto_class.from_pretrained(str(parts.weights), **arguments)
    model, report = loaded if isinstance(loaded, tuple) else (loaded, None)
    _align(model)
    for folder, weights in adapters.items():
        model = merge_stored(model, folder, weights)
        say_merged(folder, parts.weights)
        for name in () if report is None else ("missing_keys", "unexpected_keys"):
            report[name] = [key for key in report[name] if PREFIX + key not in weights]
    return model if report is None else (model, report)


def _align(model: Any) -> None:
    """Put a model's weights where torch would, not where the header of a file ended.

    Products round by where a matrix begins in memory.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.data_ptr() % ALIGNED:
            tensor.data = tensor.data.clone()


def load_whole(
    auto_class: Any,
    path: str | Path,
    *,
    unread: tuple[str, ...] = (),
    alone: bool = False,
    **options: Any,
) -> Any:
    """Return a stored model, every weight of which was stored with it, and no block left out.

    Args:
        auto_class: As of `from_pretrained`.
        path: As of `from_pretrained`.
        unread: Prefixes of weights that nothing depends on, so that they need not be stored.
        alone: Refuse every other weight that was stored, such as that of another head.
        options: As of `from_pretrained`.
    """
    model, report = from_pretrained(auto_class, path, output_loading_info=True, **options)
    missing = sorted({*report["missing_keys"], *map(str, report["mismatched_keys"])})
    if missing := [name for name in missing if not name.startswith(unread)]:
        raise PretrainedError(
            f"{path} holds no trained {', '.join(missing[:3])}, so {auto_class.__name__} would "
            "make it up at random; pass a model that was trained with this head"
        )
    excess = sorted(report["unexpected_keys"])
    if excess := [name for name in excess if alone or _is_block_left_out(model, name)]:
        raise PretrainedError(
            f"{path} holds {', '.join(excess[:3])}, which the model of its config.json has not; "
            "pass a folder as save_pretrained wrote it"
        )
    return model


def _is_block_left_out(model: Any, name: str) -> bool:
    """Return whether a stored weight is of a block beyond those that the model has."""
    modules = dict(model.named_modules())
    for number in re.finditer(r"\.(\d+)\.", name):
        list_name = name[: number.start()]
        prefix = f"{model.base_model_prefix}."
        for blocks in (list_name, prefix + list_name, list_name.removeprefix(prefix)):
            if blocks in modules and number[1] not in dict(modules[blocks].named_children()):
                return True
    return False


def _with_config(path: str | Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a model's ``from_pretrained`` with its configuration among them."""
    from transformers import AutoConfig

    apart = {name: value for name, value in options.items() if name == "dtype"}
    rest = {name: value for name, value in options.items() if name not in apart}
    arguments: Any = {"trust_remote_code": False, "return_unused_kwargs": True, **rest}
    config, rest = AutoConfig.from_pretrained(str(path), **arguments)
    # A name in the configuration could have transformers fetch native code from the hub.
    config._attn_implementation = config._experts_implementation = None
    sizes = dict.fromkeys(("hidden_size", "num_attention_heads", "vocab_size"), sys.maxsize)
    for name, limit in {"num_hidden_layers": MAX_LAYERS, **sizes}.items():
        size = getattr(config.get_text_config(), name, None)
        if isinstance(size, int) and not 1 <= size <= limit:
            raise PretrainedError(
                f"config.json of {path} says {name} {size}, which must be within 1 and {limit}"
            )
    file = str(getattr(config, "transformers_weights", None) or "model.safetensors")
    if not file.endswith((".safetensors", ".safetensors.index.json")):
        raise PretrainedError(f"config.json of {path} names {file}, which is no safetensors")
    return {"config": config, **apart, **rest}
