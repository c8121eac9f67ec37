"""Models by name, and in files of other formats, both of which installed packages declare.

`located` says where a word's model is stored; whoever reads models asks it. A GGUF file is
converted once into a folder of the user's cache, whole or not at all.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokengym.base.errors import CheckpointError, FolderInUseError, PretrainedError, reason_of
from tokengym.base.files import content_hash, read_json, read_once
from tokengym.base.folders import locked, read_folder, write_folder
from tokengym.base.plugins import missing_laboratory
from tokengym.base.registry import Registry

logger = logging.getLogger(__name__)


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
    """SHA-256 of the file that the folder is made from, if it is."""

    def path(self) -> Path:
        """Return the model's folder, made first if need be; or say what to install."""
        spec = importlib.util.find_spec(self.package)
        if spec is None or spec.origin is None:
            raise PretrainedError(
                f"model {self.name!r} ({self.title}) is not installed; run {self.install}"
            )
        return self.folder(Path(spec.origin).parent)


def _adopted(name: str, plugin: object) -> StoredModel:
    """Return the model that an installed package declares."""
    if not isinstance(plugin, StoredModel):
        raise PretrainedError(
            f"{name!r} of tokengym.models is a {type(plugin).__name__}; declare a StoredModel"
        )
    return plugin


BASE = "base.json"
"""File of a saved agent that holds what `named_base` returns."""
MODELS: Registry[StoredModel] = Registry(
    "model", group="models", error=PretrainedError, adopt=_adopted
)
"""All models by name."""
FORMATS: Registry[Callable[[Path, Path], None]] = Registry(
    "format of models", group="formats", error=PretrainedError
)
"""Functions that write the model and tokenizer of a file into a folder, by the file's suffix."""


def find_model(word: str | Path) -> StoredModel | None:
    """Return the model of a name; None for folders, files and names of the hub."""
    name = str(word)
    if not MODELS.knows(name):
        return None
    if Path(name).exists():
        raise PretrainedError(
            f"{name!r} is a model's name and a folder here; write ./{name} for the folder, or run "
            "the command elsewhere"
        )
    return MODELS.find(name)


def located(word: str | Path) -> str | Path:
    """Return the folder of a model's name, or of a GGUF file or folder; any other word as it is."""
    path = Path(word)
    is_bare = path.name == str(word)  # what has a slash is no model's name
    if is_bare and (model := find_model(word)) is not None:
        return model.path()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise PretrainedError(f"there is no file {str(word)!r}; check the path of the model")
        return converted(path)
    if not path.is_dir() or (path / "config.json").exists():
        return word
    files = sorted(path.glob("*.gguf"))
    if len(files) > 1:
        raise PretrainedError(f"{word} holds {len(files)} GGUF files; name one, such as {files[0]}")
    return converted(files[0]) if files else word


def named_base(folder: str | Path) -> dict[str, str] | None:
    """Return what stands for a model's weights in a saved agent: its name, and their hash."""
    if not is_cached(folder):
        return None
    source = read_json(Path(folder) / RECORD)["sha256"]
    MODELS.import_plugins()
    names = [model.name for model in MODELS.values() if model.source == source]
    return {"model": names[0], "sha256": stored_weights_hash(folder)} if names else None


def named_folder(base: Mapping[str, Any]) -> Path:
    """Return the folder of the model that `named_base` described."""
    name = str(base.get("model"))
    model = MODELS.find(name)
    folder = model.path()
    if stored_weights_hash(folder) != base.get("sha256"):
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


# --- files of other formats -----------------------------------------------------------------------

RECORD = "dequantised.json"
FORMAT = 1
_KINDS = {"source": str, "sha256": str}
POLL = 0.5
"""Seconds between looks at a folder that another process is writing."""


def cache_folder() -> Path:
    """Return the folder of what is made once per user: ``TOKENGYM_CACHE``, or the user's cache."""
    ours = os.environ.get("TOKENGYM_CACHE")
    of_user = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(ours) if ours else Path(of_user) / "tokengym"


@read_once(maxsize=None, also=cache_folder)
def converted(file: Path, *, sha256: str | None = None) -> Path:
    """Return the folder of the model in a file, such as a GGUF, made when it is first asked for.

    Processes that ask at once wait for the one that makes it; what a killed one left is made anew.

    Args:
        file: The file.
        sha256: Hash that it must have; None takes any file.

    Raises:
        PretrainedError: if it has another hash, no package reads it, or it is no model.
    """
    digest = content_hash(file)
    if sha256 not in (None, digest):
        raise PretrainedError(
            f"{file} has SHA-256 {digest[:12]}..., not {str(sha256)[:12]}...: it is another "
            "version of the model; install the version that tokengym names"
        )
    folder = cache_folder() / "models" / f"{file.stem}-{digest[:12]}"
    while (whole := _unchanged(folder)) is None:
        try:
            with locked(folder.with_name(f"{folder.name}.making")):
                if _unchanged(folder) is None:
                    logger.warning("reading %s into %s, once: about 25 s", file.name, folder)
                    write_folder(folder, RECORD, lambda part: _write(file, digest, part))
        except FolderInUseError:
            time.sleep(POLL)
    return whole


def stored_weights_hash(folder: str | Path) -> str:
    """Return the hash of the weights in a folder that `converted` wrote."""
    return str(read_json(Path(folder) / RECORD)["files"]["model.safetensors"])


def is_cached(path: str | Path) -> bool:
    """Return whether a folder holds a model that `converted` wrote, which nobody changes."""
    return (Path(path) / RECORD).is_file()


def _unchanged(folder: Path) -> Path | None:
    """Return a folder that has all its files as they were written; None if it must be made."""
    if not folder.exists():
        return None
    try:
        return read_folder(folder, RECORD, FORMAT, _KINDS, lambda path, _: path)
    except CheckpointError as error:
        logger.warning("%s; it is made anew", str(error).partition(";")[0])
        return None


_LIBRARY = threading.RLock()
"""Held by the one thread that uses transformers, see `quiet`."""


@contextmanager
def quiet() -> Iterator[None]:
    """Use transformers alone, its progress bars and loading reports off.

    Other threads wait: while a model is read, transformers replaces methods of its classes, and of
    two threads at once one would put back the other's.
    """
    from transformers.utils import logging

    with _LIBRARY, warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by an old name
        bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
        logging.disable_progress_bar()
        logging.set_verbosity_error()
        try:
            yield
        finally:
            logging.set_verbosity(verbosity)
            if bars:
                logging.enable_progress_bar()


@quiet()
def _write(file: Path, sha256: str, folder: Path) -> dict[str, Any]:
    """Write model and tokenizer, and return what is recorded of them."""
    suffix = file.suffix[1:]
    if not FORMATS.knows(suffix):
        raise PretrainedError(
            f"{file} is a {suffix.upper()} file, which no installed package reads"
            f"{missing_laboratory()}"
        )
    try:
        FORMATS.find(suffix)(file, folder)
    except Exception as error:  # transformers and gguf raise a dozen kinds
        is_of_system = isinstance(error, OSError) and error.errno
        if is_of_system or isinstance(error, MemoryError | PretrainedError):
            raise
        remedy = "pass one of a family that transformers reads, such as llama or qwen2"
        if isinstance(error, ImportError):
            remedy = f"pip install {suffix}"
        raise PretrainedError(f"cannot read {file} ({reason_of(error)}); {remedy}") from error
    return {"format": FORMAT, "source": file.name, "sha256": sha256}
