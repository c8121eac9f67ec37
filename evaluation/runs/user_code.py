"""Files of the user's code that settings name: their hashes, and copies of them."""

import re
from collections.abc import Mapping
from pathlib import Path

from tokengym.base.errors import SettingsError
from tokengym.base.files import write_bytes
from tokengym.base.user_code import code_hash, texts_in
from tokengym.base.words import split_file_word

CODE = "code"
"""Folder with a copy of each file, in the folder of a comparison or of a trained agent."""


def code_hashes(settings: object, known: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the SHA-256 of each file of the user's code that settings name, by its path.

    Args:
        settings: Settings as plain data.
        known: Hashes that were stored with the settings, which stay.

    Raises:
        SettingsError: if there is no such file.
    """
    paths = [str(named[0]) for text in texts_in(settings) if (named := split_file_word(text))]
    stored = known or {}
    return {path: stored.get(path) or code_hash(Path(path)) for path in dict.fromkeys(paths)}


def check_code(code: Mapping[str, str]) -> None:
    """Refuse to continue with files that are not those that the settings were made with.

    Raises:
        SettingsError: naming the file.
    """
    now = {path: code_hash(Path(path)) for path in code}
    if changed := changed_files(code, now):
        raise SettingsError(f"{'; '.join(changed)}; begin again")


def changed_files(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """Return in words which files have other hashes than before; those without a new one have not.

    Args:
        old: SHA-256 of each file as it was, by path.
        new: SHA-256 of files as they are.
    """
    return [
        f"{path} has changed: its SHA-256 was {before[:12]} and is now {new[path][:12]}"
        for path, before in old.items()
        if new.get(path, before) != before
    ]


def keep_code(code: Mapping[str, str], folder: Path) -> None:
    """Write a copy of each file into a folder, to be compared with what it becomes."""
    for path in code:
        write_bytes(copy_of(path, folder), Path(path).read_bytes())


def copy_of(path: str, folder: Path) -> Path:
    """Return the copy of a file that `keep_code` wrote."""
    return folder / re.sub(r"[^\w.-]", "_", path)
