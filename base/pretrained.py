"""Stored models and tokenizers are read here alone: no code of theirs is run, no pickle opened."""

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from tokengym.base.errors import PretrainedError, reason_of
from tokengym.base.files import read_json
from tokengym.base.models import MODELS, located, quiet
from tokengym.base.registry import did_you_mean

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
"""Weights in Python's pickle format, which may run code when it is read."""
FIRST_ASKED = {"model": "config.json", "dataset": "README.md"}
"""File by which the hub is asked whether it has a model or a data set."""
MAX_LAYERS = 1000
"""Most blocks of a stored model that are believed and built."""


@quiet()
def from_pretrained(auto_class: Any, path: str | Path, **options: Any) -> Any:
    """Return what a class of transformers reads from a folder or from the hub.

    Args:
        auto_class: An ``AutoModel...``, whose weights must be safetensors, or ``AutoTokenizer``.
        path: Folder, GGUF file, registered name or hub name. What looks like a path of this machine
            and is none is not looked up on the hub, which is asked once for what is no folder.
        options: Further arguments of ``auto_class.from_pretrained``.

    Raises:
        PretrainedError: if there is nothing to read, or reading it would run code.
    """
    path = located(path)
    check_place(path)
    is_model = auto_class.__name__.startswith("AutoModel")
    if is_model:
        check_weights(path)
    try:
        source = {} if Path(path).exists() else {"local_files_only": not hub_answers(str(path))}
        if is_model:
            options = {"use_safetensors": True, **_with_config(path, {**options, **source})}
        return auto_class.from_pretrained(
            str(path), trust_remote_code=False, **{**options, **source}
        )
    except PretrainedError:
        raise
    except Exception as error:  # transformers' libraries raise a dozen kinds
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            raise
        reason = reason_of(error)
        remedy = "pass a folder that save_pretrained wrote, or a hub name"
        if "trust_remote_code" in str(error) or "custom code" in str(error):
            reason = "it would run code of its own, which is never done"
            remedy = "take a model of a family that transformers has"
        kind = "tokenizer" if auto_class.__name__ == "AutoTokenizer" else auto_class.__name__
        raise PretrainedError(f"cannot load {path} as {kind} ({reason}); {remedy}") from error


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
        auto_class: An ``AutoModel...`` of transformers.
        path: Folder or hub name.
        unread: Prefixes of weights that nothing depends on, so that they need not be stored.
        alone: Refuse every other weight that was stored, such as that of another head.
        options: As of `from_pretrained`.

    Raises:
        PretrainedError: if there is no such model, or a weight is missing or in excess.
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
    """Return the arguments of a model's ``from_pretrained`` with its configuration among them.

    Attention and experts are computed as transformers does by itself: a name in the configuration
    could have it fetch native code from the hub.

    Raises:
        PretrainedError: for sizes that no model has, or a file of weights that is no safetensors.
    """
    from transformers import AutoConfig
    from transformers.utils import find_adapter_config_file

    apart = {name: value for name, value in options.items() if name == "dtype"}
    rest = {name: value for name, value in options.items() if name not in apart}
    arguments: Any = {"trust_remote_code": False, "return_unused_kwargs": True, **rest}
    try:
        config, rest = AutoConfig.from_pretrained(str(path), **arguments)
    except (OSError, ValueError):  # adapters alone have none
        is_whole = (Path(path) / "config.json").exists()
        adapters = None if is_whole else find_adapter_config_file(str(path))
        if adapters is None:
            raise
        base = str(located(read_json(Path(adapters))["base_model_name_or_path"]))
        check_place(base)
        check_weights(base)
        config, rest = AutoConfig.from_pretrained(base, **arguments)
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


def has_tokenizer(path: str | Path) -> bool:
    """Return whether a model's folder has a tokenizer beside it; what is no folder may have one."""
    folder = Path(located(path))
    files = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")
    return not folder.is_dir() or any((folder / name).is_file() for name in files)


def check_place(path: str | Path) -> None:
    """Refuse a path of this machine that does not exist, before the hub is asked for it.

    A hub name is "name" or "owner/name". What begins with ".", "/" or "~", has two slashes or a
    backslash, or whose first part is a folder here, is a path.

    Raises:
        PretrainedError: naming it.
    """
    text = str(path)
    if text and Path(text).exists():
        return
    first = Path(text).parts[0] if text else ""
    is_path = text.startswith((".", "/", "~")) or "\\" in text
    is_path = is_path or text.count("/") > 1 or text.endswith("/")
    if is_path or not text or ("/" in text and Path(first).is_dir()):
        near = _near(text) if text else ""
        raise PretrainedError(f"there is no folder {text!r}; check the path of the model{near}")


def hub_answers(name: str, kind: Literal["model", "dataset"] = "model") -> bool:
    """Return whether the hub has a name; False where the copy that is stored here must do.

    It is asked once: transformers and datasets would try again for half a minute where no hub can
    be reached. What else it may say, such as that a licence must be accepted, they say as well.

    Args:
        name: "name" or "owner/name".
        kind: What it is a name of.

    Raises:
        OSError: with the reason, if there is neither.
    """
    from huggingface_hub import constants, errors, get_hf_file_metadata, hf_hub_url

    try:
        get_hf_file_metadata(hf_hub_url(name, FIRST_ASKED[kind], repo_type=kind))
        return True
    except errors.HFValidationError:
        reason = f"and no name that a {kind} on the hub can have"
    except errors.HfHubHTTPError as error:
        is_unknown = isinstance(error, errors.RepositoryNotFoundError)
        if not is_unknown or isinstance(error, errors.GatedRepoError):
            return True
        reason = f"and no such {kind} on {constants.ENDPOINT}"
    except Exception as error:  # those of the client, whichever it is
        reason = f"and no answer from {constants.ENDPOINT}: {error}"
    stored = Path(constants.HF_HUB_CACHE, f"{kind}s--{name.replace('/', '--')}", "snapshots")
    if stored.is_dir():
        return False
    near = _near(name) if kind == "model" else ""
    raise OSError(" ".join(f"no such folder here, {reason}{near}".split()))


def _near(path: str) -> str:
    """Return the folders beside a path that does not exist whose names are like its own."""
    wanted = Path(path)
    beside = wanted.parent.iterdir() if wanted.parent.is_dir() else ()
    folders = {folder.name: str(folder) for folder in beside if folder.is_dir()}
    folders |= {name: name for name in MODELS.names()} if wanted.name == path else {}
    return f"; {did_you_mean(wanted.name, sorted(folders), shown=folders)}".rstrip("; ")


def check_weights(folder: str | Path) -> None:
    """Refuse a folder whose weights are pickled only.

    Raises:
        PretrainedError: naming a file and how to convert it.
    """
    folder_path = Path(folder)
    if not folder_path.is_dir() or any(folder_path.glob("*.safetensors*")):
        return
    for pattern in PICKLES:
        if weights := sorted(folder_path.glob(pattern)):
            raise PretrainedError(
                f"{weights[0]} is pickled and may run code when it is read; store the model as "
                "safetensors: where you trust it, load it with transformers or peft and call "
                "save_pretrained"
            )
