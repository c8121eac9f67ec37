"""Code of the user's own that a run's settings name: environments, and what the files hold."""

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium

from tokengym.envs.declared import leaves
from tokengym.envs.errors import SettingsError
from tokengym.envs.files import write_bytes
from tokengym.envs.registry import Registry, Word, own_code, own_hash, split_own, texts_in
from tokengym.envs.tasks import Task, register_task

_ENVS: Registry[Any] = Registry("env", own_files=True)
"""Takes apart and loads environments of files of the user's own; none is registered."""
CODE = "code"
"""Folder with a copy of each file, in the folder of a comparison or of a trained agent."""


def own_env(text: str) -> str:
    """Return the id by which Gymnasium makes the environments of "file.py:make_env".

    The object is a `Task`, or a function that returns a batch of environments:
    ``make_env(num_envs, **options)``, where ``options`` are those of ``gym.make_vec``.

    Raises:
        SettingsError: if the file cannot be run, or has no such object, or it is neither.
    """
    word = _ENVS.parse(text)
    assert word.file is not None
    made = _ENVS.find(word)
    if isinstance(made, Task):
        return register_task(made).id
    if not callable(made):
        raise SettingsError(
            f"env {text} must be a Task or a function make_env(num_envs, **options), got {made!r}"
        )
    called = re.sub(r"[^\w.-]", "_", f"{word.file.stem}.{text.partition('.py:')[2]}")
    env_id = f"own/{called}-{own_hash(word.file)[:8]}-v0"
    if env_id not in gymnasium.registry:
        gymnasium.register(
            env_id,
            entry_point=partial(_refuse_single, text),
            vector_entry_point=partial(_make_batch, word, partial(made, **word.options)),
        )
    return env_id


def _make_batch(word: Word, make: Callable[..., Any], **options: Any) -> Any:
    with own_code(f"env {word} cannot be made", word.file):
        return make(**options)


def _refuse_single(text: str, **options: Any) -> gymnasium.Env[Any, Any]:
    del options
    raise SettingsError(f"env {text} is made in batches; call gymnasium.make_vec, not make")


def code_hashes(settings: Any, known: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the SHA-256 of each file of the user's code that settings name, by its path.

    Args:
        settings: A dataclass.
        known: Hashes that were stored with the settings, which stay.

    Raises:
        SettingsError: if there is no such file.
    """
    values = [leaf.value for leaf in leaves(settings)]
    paths = [str(own[0]) for text in texts_in(values) if (own := split_own(text))]
    stored = known or {}
    return {path: stored.get(path) or own_hash(Path(path)) for path in dict.fromkeys(paths)}


def check_code(code: Mapping[str, str]) -> None:
    """Refuse to go on with files that are not those that the settings were made with.

    Raises:
        SettingsError: naming the file.
    """
    if changed := changed_files(code):
        raise SettingsError(f"{'; '.join(changed)}; begin again")


def changed_files(code: Mapping[str, str]) -> list[str]:
    """Return in words which files are others than they were."""
    now = {path: own_hash(Path(path)) for path in code}
    return [changed_code(path, code[path], now[path]) for path in code if now[path] != code[path]]


def changed_code(path: str, old: str, new: str) -> str:
    """Return in words that a file is another than it was."""
    return f"{path} has changed: its SHA-256 was {old[:12]} and is now {new[:12]}"


def keep_code(code: Mapping[str, str], folder: Path) -> None:
    """Write a copy of each file into a folder, to be compared with what it becomes."""
    for path in code:
        write_bytes(kept_code(path, folder), Path(path).read_bytes())


def kept_code(path: str, folder: Path) -> Path:
    """Return the copy of a file that `keep_code` wrote."""
    return folder / re.sub(r"[^\w.-]", "_", path)
