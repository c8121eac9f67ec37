"""A model by name: its declaration, and the folder that a user's word stands for."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokengym.base.errors import PretrainedError
from tokengym.base.files import read_json
from tokengym.base.models.gguf import RECORD, dequantised, is_cached, weights_hash
from tokengym.base.plugins import LABORATORY
from tokengym.base.registry import Registry


@dataclass(frozen=True, kw_only=True)
class StoredModel:
    """Declaration of a model that users name: an entry point of the group ``tokengym.models``."""

    name: str
    """Name that users type."""
    title: str
    """Name of the model and of its weights' precision, as reports say it."""
    package: str
    """Module that holds its files; it is found, never imported."""
    install: str
    """Command that installs it."""
    folder: Callable[[Path], Path]
    """Returns the model's folder, given that of the package."""
    source: str = ""
    """SHA-256 of the GGUF file that the folder is made from, if it is."""

    def path(self) -> Path:
        """Return the model's folder, made first if need be.

        Raises:
            PretrainedError: if the package is not installed, with the command.
        """
        spec = importlib.util.find_spec(self.package)
        if spec is None or spec.origin is None:
            raise PretrainedError(
                f"model {self.name!r} ({self.title}) is not installed; run {self.install}"
            )
        return self.folder(Path(spec.origin).parent)


def _adopted(name: str, made: object) -> StoredModel:
    """Return the model that an installed package declares."""
    if not isinstance(made, StoredModel):
        raise PretrainedError(
            f"{name!r} of tokengym.models is a {type(made).__name__}; declare a StoredModel"
        )
    return made


BASE = "base.json"
"""File of a saved agent that holds what `named_base` returns."""
MODELS: Registry[StoredModel] = Registry(
    "model", group="models", error=PretrainedError, adopt=_adopted
)
"""All models by name."""


def find_model(word: str | Path) -> StoredModel | None:
    """Return the model of a name; None for folders, files and names of the hub.

    Raises:
        PretrainedError: if a folder here has the name of a model, or it is the laboratory's, which
            is not installed.
    """
    name = str(word)
    if not MODELS.knows(name) and name not in LABORATORY["models"]:
        return None
    if Path(name).exists():
        raise PretrainedError(
            f"{name!r} is a model's name and a folder here; write ./{name} for the folder, or run "
            "the command elsewhere"
        )
    return MODELS.find(name)


def located(word: str | Path) -> str | Path:
    """Return the folder of a model's name, or of a GGUF file or folder; any other word as it is.

    Raises:
        PretrainedError: if the model is not installed, or the GGUF file is missing, cannot be read,
            or is one of several in the folder.
    """
    path = Path(word)
    is_bare = path.name == str(word)  # what has a slash is no model's name
    if is_bare and (model := find_model(word)) is not None:
        return model.path()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise PretrainedError(f"there is no file {str(word)!r}; check the path of the model")
        return dequantised(path)
    if not path.is_dir() or (path / "config.json").exists():
        return word
    files = sorted(path.glob("*.gguf"))
    if len(files) > 1:
        raise PretrainedError(f"{word} holds {len(files)} GGUF files; name one, such as {files[0]}")
    return dequantised(files[0]) if files else word


def named_base(folder: str | Path) -> dict[str, str] | None:
    """Return what stands for a model's weights in a saved agent: its name, and their hash.

    Args:
        folder: The model's folder; one that was not made from a registered model's file gives None.
    """
    if not is_cached(folder):
        return None
    source = read_json(Path(folder) / RECORD)["sha256"]
    MODELS.import_plugins()
    names = [model.name for model in MODELS.values() if model.source == source]
    return {"model": names[0], "sha256": weights_hash(folder)} if names else None


def named_folder(base: Mapping[str, Any]) -> Path:
    """Return the folder of the model that `named_base` described.

    Raises:
        PretrainedError: if there is no model of that name, it is not installed, or has other
            weights.
    """
    name = str(base.get("model"))
    if not MODELS.knows(name) and name not in LABORATORY["models"]:
        raise PretrainedError(
            f"the base model {name!r} is not known; known: {', '.join(MODELS.names())}"
        )
    model = MODELS.find(name)
    folder = model.path()
    if weights_hash(folder) != base.get("sha256"):
        raise PretrainedError(
            f"the weights of {model.name!r} in {folder} are not those that the adapters were "
            "trained on; install the version of the package that was used then"
        )
    return folder


def title_of(word: str | Path) -> str:
    """Return what a report calls the model of a user's word, or of a folder made for one."""
    base = named_base(word)
    name = str(word) if base is None else base["model"]
    return MODELS.find(name).title if MODELS.knows(name) else str(word)
