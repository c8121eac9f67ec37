"""A model by name: its declaration, and the folder that a user's word stands for."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tokengym.envs.errors import PretrainedError
from tokengym.envs.models.gguf import dequantised, gguf_file
from tokengym.envs.registry import Registry


@dataclass(frozen=True, kw_only=True)
class StoredModel:
    """Declaration of a model that users name: one file of this folder, or an installed package's.

    Entry points of the group ``tokengym.models`` are such objects.
    """

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

    def path(self) -> Path:
        """Return the model's folder, made first if need be.

        Raises:
            PretrainedError: if the package is not installed, with the command.
        """
        found = importlib.util.find_spec(self.package)
        if found is None or found.origin is None:
            raise PretrainedError(
                f"model {self.name!r} ({self.title}) is not installed; run {self.install}"
            )
        return self.folder(Path(found.origin).parent)


def _adopted(name: str, made: object) -> StoredModel:
    """Return the model that an installed package declares."""
    if not isinstance(made, StoredModel):
        raise PretrainedError(
            f"{name!r} of tokengym.models is a {type(made).__name__}; declare a StoredModel"
        )
    return made


MODELS: Registry[StoredModel] = Registry(
    "model", group="models", error=PretrainedError, adopt=_adopted
)
"""All models by name."""


def register_model(model: StoredModel) -> StoredModel:
    """Make a model known by its name, and return it."""
    return MODELS.register(model.name, model)


def find_model(word: str | Path) -> StoredModel | None:
    """Return the model of a name; None for folders, files and names of the hub.

    Raises:
        PretrainedError: if a folder here has the name of a model.
    """
    name = str(word)
    if name not in MODELS.names():
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
        PretrainedError: if the model is not installed, or the GGUF file cannot be read.
    """
    if (model := find_model(word)) is not None:
        return model.path()
    file = gguf_file(word)
    return word if file is None else dequantised(file)


def title_of(word: str | Path) -> str:
    """Return what a report calls the model of a user's word."""
    model = find_model(word)
    return str(word) if model is None else model.title
