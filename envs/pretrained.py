"""Stored models and tokenizers are read here alone: no code of theirs is run, no pickle opened."""

import difflib
from pathlib import Path
from typing import Any

from tokengym.envs.errors import PretrainedError

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
"""Weights in Python's pickle format, which may run code when it is read."""


def from_pretrained(auto_class: Any, path: str | Path, **options: Any) -> Any:
    """Return what a class of transformers reads from a folder or from the hub.

    Args:
        auto_class: An ``AutoModel...``, whose weights must be safetensors, or ``AutoTokenizer``.
        path: Folder or hub name. What looks like a path of this machine and is none is not looked
            up on the hub. The hub is asked once for what is no folder, before transformers does so,
            which would try again for a minute where no hub can be reached.
        options: Further arguments of ``auto_class.from_pretrained``.

    Raises:
        PretrainedError: if there is nothing to read, or reading it would run code.
    """
    check_place(path)
    if auto_class.__name__.startswith("AutoModel"):
        check_weights(path)
        options = {"use_safetensors": True, **options}
    try:
        if not Path(path).exists():
            options["local_files_only"] = not _hub_answers(str(path))
        return auto_class.from_pretrained(str(path), trust_remote_code=False, **options)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        remedy = "pass a folder that save_pretrained wrote, or a hub name"
        if "trust_remote_code" in str(error) or "custom code" in str(error):
            reason = "it would run code of its own, which is never done"
            remedy = "take a model of a family that transformers has"
        kind = "tokenizer" if auto_class.__name__ == "AutoTokenizer" else auto_class.__name__
        raise PretrainedError(f"cannot load {path} as {kind} ({reason}); {remedy}") from error


def has_tokenizer(path: str | Path) -> bool:
    """Return whether a model's folder has a tokenizer beside it; what is no folder may have one."""
    folder = Path(path)
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


def _hub_answers(name: str) -> bool:
    """Return whether the hub has a model; False where the copy that is stored here must do.

    What else the hub may say, such as that a licence must be accepted, transformers says as well.

    Raises:
        OSError: with the reason, if there is neither.
    """
    from huggingface_hub import constants, errors, get_hf_file_metadata, hf_hub_url

    try:
        get_hf_file_metadata(hf_hub_url(name, "config.json"))  # asks once
        return True
    except errors.HFValidationError:
        reason = "and no name that a model on the hub can have"
    except errors.HfHubHTTPError as error:
        is_unknown = isinstance(error, errors.RepositoryNotFoundError)
        if not is_unknown or isinstance(error, errors.GatedRepoError):
            return True
        reason = f"and no such model on {constants.ENDPOINT}"
    except Exception as error:  # those of the client, whichever it is
        reason = f"and no answer from {constants.ENDPOINT}: {error}"
    stored = Path(constants.HF_HUB_CACHE, f"models--{name.replace('/', '--')}", "snapshots")
    if stored.is_dir():
        return False
    raise OSError(" ".join(f"no such folder here, {reason}{_near(name)}".split()))


def _near(path: str) -> str:
    """Return the folders beside a path that does not exist whose names are like its own."""
    place = Path(path)
    beside = place.parent.iterdir() if place.parent.is_dir() else ()
    folders = {folder.name: str(folder) for folder in beside if folder.is_dir()}
    near = difflib.get_close_matches(place.name, sorted(folders), n=2)
    return f"; did you mean {' or '.join(folders[name] for name in near)}?" if near else ""


def check_weights(folder: str | Path) -> None:
    """Refuse a folder whose weights are pickled only.

    Raises:
        PretrainedError: naming a file and how to convert it.
    """
    place = Path(folder)
    if not place.is_dir() or any(place.glob("*.safetensors*")):
        return
    for pattern in PICKLES:
        if found := sorted(place.glob(pattern)):
            raise PretrainedError(
                f"{found[0]} is pickled and may run code when it is read; store the model as "
                "safetensors: where you trust it, load it with transformers or peft and call "
                "save_pretrained"
            )
