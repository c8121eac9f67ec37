"""Where the parts of a stored model are: its weights, the adapters that go on them, a tokenizer.

A word for a model stands for a whole model, for adapters whose configuration names their base, or
for a saved agent, whose folder holds either.
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from zipfile import is_zipfile

from tokengym.base.errors import PretrainedError
from tokengym.base.files import read_json
from tokengym.base.models import BASE, MODELS, located, named_folder
from tokengym.base.own_code import defined_names
from tokengym.base.plugins import missing_laboratory
from tokengym.base.registry import did_you_mean

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
"""Weights in Python's pickle format, which may run code when it is read."""
FIRST_ASKED = {"model": "config.json", "dataset": "README.md"}
"""File by which the hub is asked whether it has a model or a data set."""
ADAPTER_CONFIG = "adapter_config.json"
"""File that tells a folder of PEFT adapters."""
ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER = "adapter"
"""Folder of a saved agent's adapters."""
CHECKPOINT_RECORD = "checkpoint.json"
"""File that tells the folder of a saved agent."""
STOCK_RECORD = "stock.json"
"""File that tells the folder of a saved agent of Stable-Baselines3 or sb3-contrib."""
PARTS = ("model", "reference")
"""Folders of a saved agent's whole models, that of the policy first."""
TOKENIZER_FILES = ("tokenizer*.json", "tokenizer.model", "vocab*")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class StoredParts:
    """Parts of a stored model."""

    weights: str | Path
    """Folder, or name on the hub, of the whole model that everything else goes on."""
    adapters: tuple[Path, ...] = ()
    """Folders of adapters, in the order in which they go on the weights."""
    options: Mapping[str, Any]
    """How transformers is to look for the weights: their revision, and whether only here."""


def parts_of(word: str | Path) -> StoredParts:
    """Return the parts of a stored model."""
    adapters: list[Path] = []
    path, options = _whole_or_adapters(word), dict[str, Any]()
    while True:
        check_place(path)
        if not Path(path).exists():
            options = {**options, "local_files_only": not hub_answers(str(path))}
        folder = _adapter_folder(path, options)
        if folder is None:
            return StoredParts(weights=path, adapters=tuple(adapters), options=options)
        if folder in adapters:
            raise PretrainedError(f"the adapters in {folder} are their own base; correct them")
        adapters.insert(0, folder)
        path, options = _base_of(folder)
        path = _whole_or_adapters(path)


def _whole_or_adapters(word: str | Path) -> str | Path:
    """Return where a word's model is; of a saved agent, its policy's weights or adapters."""
    path = located(word)
    if Path(path).is_file() and is_zipfile(path):
        raise PretrainedError(
            f"{path} is an agent in one file; unpack it, python -m zipfile -e {path} FOLDER, and "
            "name the folder"
        )
    agent = agent_folder(path)
    if agent is None:
        return path
    return agent / (ADAPTER if (agent / ADAPTER).is_dir() else PARTS[0])


def agent_folder(path: str | Path) -> Path | None:
    """Return the folder of the agent saved at a path, None if none is there."""
    if any((Path(path) / name).is_file() for name in ("config.json", ADAPTER_CONFIG)):
        return None
    for folder in (Path(path), Path(path) / "agent"):
        files = (BASE, *(f"{part}/config.json" for part in PARTS))
        if any((folder / file).is_file() for file in files):
            return folder
    return None


def _adapter_folder(path: str | Path, options: Mapping[str, Any]) -> Path | None:
    """Return the local folder of adapters, fetched from the hub if need be; None if it has none."""
    if not (folder := Path(path)).exists():
        return _fetched_adapters(str(path), options)
    if not (folder / ADAPTER_CONFIG).is_file():
        return None
    whole = sorted(file.name for file in folder.glob("model*.safetensors"))
    if whole and (folder / "config.json").is_file():
        raise PretrainedError(
            f"{folder} holds a whole model ({whole[0]}) and adapters ({ADAPTER_CONFIG}); name "
            "a folder with one of both"
        )
    return folder


def _fetched_adapters(name: str, options: Mapping[str, Any]) -> Path | None:
    """Return the folder of adapters of the hub; None if it has none of that name."""
    from transformers.utils import cached_file

    faults = ("missing_entries", "gated_repo", "connection_errors")
    quietly: Any = dict.fromkeys((f"_raise_exceptions_for_{fault}" for fault in faults), False)
    is_local = options["local_files_only"]
    fetch: Any = functools.partial(cached_file, name, local_files_only=is_local, **quietly)
    file = fetch(ADAPTER_CONFIG)
    if file is None:
        return None
    if fetch(ADAPTER_WEIGHTS) is None:
        raise PretrainedError(
            f"{name} holds adapters without {ADAPTER_WEIGHTS}; have them stored as safetensors"
        )
    return Path(file).parent


def _base_of(folder: Path) -> tuple[str | Path, dict[str, Any]]:
    """Return the model that adapters were trained on, a saved agent's own, and its revision."""
    agent, file = folder.parent, folder / ADAPTER_CONFIG
    if folder.name == ADAPTER and (agent / CHECKPOINT_RECORD).is_file():
        if (agent / BASE).is_file():
            return named_folder(read_json(agent / BASE)), {}
        for part in PARTS:
            if (agent / part / "config.json").is_file():
                return agent / part, {}
    try:
        config = read_json(file)
    except ValueError as error:
        raise PretrainedError(f"{file} is damaged ({error})") from error
    base = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    if not isinstance(base, str) or not base:
        raise PretrainedError(
            f"{file} names no base model (base_model_name_or_path is {base!r}); write the folder "
            "or hub name there of the model that the adapters were trained on"
        )
    try:
        place = located(base)
        check_place(place)
    except PretrainedError as error:
        raise PretrainedError(
            f"base_model_name_or_path of {file} cannot be found: {error}"
        ) from error
    revision = config.get("revision")
    return place, {} if revision is None or Path(place).exists() else {"revision": revision}


def tokenizer_place(word: str | Path) -> str | Path | None:
    """Return where a stored model's tokenizer is: with it, beside it, or with its base; or None."""
    path = located(word)
    folder = Path(path)
    if not folder.is_dir():
        return path  # of the hub, or a file
    agent = agent_folder(folder)
    stored = [folder] if agent is None else [agent / ADAPTER, agent / PARTS[0]]
    for candidate in (*stored, stored[0].resolve().parent / "tokenizer"):
        if any(file for pattern in TOKENIZER_FILES for file in candidate.glob(pattern)):
            return candidate
    if (stored[0] / ADAPTER_CONFIG).is_file():
        try:
            base, _ = _base_of(stored[0])
        except PretrainedError:  # said where the base is read; a given backbone may stand for it
            return None
        return tokenizer_place(base)
    return None


@functools.cache
def say_merged(adapters: Path, base: str | Path) -> None:
    """Log, once, which adapters a model was read with."""
    logger.warning("the adapters in %s are merged into their base, %s", adapters, base)


def check_place(path: str | Path) -> None:
    """Refuse a path of this machine that holds no model, before the hub is asked for it.

    A hub name is "name" or "owner/name", whose first part is no folder here.
    """
    text = str(path)
    if text and Path(text).exists():
        if text.endswith(".py"):
            raise PretrainedError(
                f"{path} is a file of code, no model; name what it defines: {path}:Name"
                f"{defined_names(Path(path))}"
            )
        return
    is_name = re.fullmatch(r"[^./~\\][^/\\]*(/[^/\\]+)?", text)
    if not is_name or ("/" in text and Path(text).parent.is_dir()):
        near = _near(text) if text else ""
        raise PretrainedError(f"there is no folder {text!r}; check the path of the model{near}")


def hub_answers(name: str, kind: Literal["model", "dataset"] = "model") -> bool:
    """Return whether the hub has a name; False where the copy that is stored here must do.

    It is asked once: transformers and datasets would try again for half a minute without a hub.
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
    """Return which folders beside a path that does not exist, and which models, are named alike."""
    place = Path(path)
    beside = place.parent.iterdir() if place.parent.is_dir() else ()
    folders = {folder.name: str(folder) for folder in beside if folder.is_dir()}
    more = ""
    if place.name == path:  # which may be a model's name
        folders |= {name: name for name in MODELS.names()}
        more = missing_laboratory()
    return f"; {did_you_mean(place.name, sorted(folders), shown=folders)}".rstrip("; ") + more


def check_weights(folder: str | Path) -> None:
    """Refuse a folder whose weights are pickled only."""
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
