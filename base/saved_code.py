"""Files of code and data in saved settings: trusted or refused, hashed, copied and shown."""

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from os.path import isdir, isfile
from pathlib import Path

from tokengym.base.errors import SettingsError, UntrustedCodeError
from tokengym.base.files import content_hash, write_bytes
from tokengym.base.objects import short
from tokengym.base.own_code import code_hash, definitions, neighbours, reading, text_of
from tokengym.base.registry import Spec, split_file_word, texts_in_options
from tokengym.base.stored.parts import agent_folder


def check_saved(
    saved: object, source: Path | str, *, named: object = (), trust_code: bool = False
) -> None:
    """Refuse code, "file.py:Name", that a saved folder names and the caller did not.

    The folder may be somebody else's.
    """
    trusted = set() if trust_code else {named_object(text) for text in texts_in(named)}
    for text in () if trust_code else texts_in(saved):
        code = named_object(text)
        if code is None or code in trusted:
            continue
        path, name = code
        digest = f"SHA-256 {code_hash(path)}" if path.is_file() else "there is no such file here"
        raise UntrustedCodeError(
            f"{source} names code, {path}:{name} ({digest}), which is run only if your own command "
            "or call names it too, or with trust_code=True; read the file first"
        )


def check_module(env: str, source: Path | str, *, trust_code: bool = False) -> None:
    """Refuse an id of a saved folder that has Gymnasium import a module: "module:Id-v0"."""
    if ":" in env and not split_file_word(env) and not trust_code:
        raise UntrustedCodeError(
            f"{source} names the env {env}, for which a module is imported: only your own env= or "
            "trust_code=True does that; read the module first"
        )


def named_object(word: str | Spec) -> tuple[Path, str] | None:
    """Return the file, with its links followed, and the object of "file.py:Name"; else None."""
    in_file = _in_file(word)
    return in_file and (in_file[0].resolve(), in_file[1])


def _in_file(word: str | Spec) -> tuple[Path, str] | None:
    if isinstance(word, Spec):
        return None if word.file is None else (word.file, word.name)
    in_file = split_file_word(word) if ".py:" in word else None
    return in_file and in_file[:2]


def texts_in(value: object) -> Iterator[str | Spec]:
    """Yield the texts and words of mappings and sequences, and the words for code in options."""
    left = [value]
    while left:
        item = left.pop()
        if isinstance(item, str | Spec):
            yield item
            yield from filter(split_file_word, texts_in_options(str(item)))
        elif isinstance(item, Mapping | list | tuple):
            left += reversed(list(item.values() if isinstance(item, Mapping) else item))


def display_name(word: str | Spec) -> str:
    """Return a word as readers see it: an object of a file, not run, by the ``name`` it has.

    Example:
        >>> display_name("gone.py:Half:share=0.5"), display_name("abc:beta=1")
        ('Half:share=0.5', 'abc:beta=1')
    """
    if (in_file := _in_file(word)) is None:
        return short(str(word))
    title = _own_title(*in_file)
    options = str(word).partition(".py:")[2].partition(":")[2]
    return f"{title}:{options}" if options else title


def _own_title(path: Path, title: str) -> str:
    """Return the ``name`` that a class of a file has, else the class's own.

    That of a rule of token credit is what its decorator says, else the function's with hyphens.
    """
    defined = {one.name: one for one in definitions(path)}.get(title)
    for mark in defined.decorator_list if defined else ():
        call = mark.func if isinstance(mark, ast.Call) else mark
        if ast.unparse(call).rpartition(".")[2] == "token_credit":
            said = {one.arg: one.value for one in getattr(mark, "keywords", ())}
            name = said.get("name")
            return str(name.value) if isinstance(name, ast.Constant) else title.replace("_", "-")
    for line in defined.body if isinstance(defined, ast.ClassDef) else ():
        match line:
            case (
                ast.Assign(targets=[ast.Name("name")], value=ast.Constant(str(named)))
                | ast.AnnAssign(target=ast.Name("name"), value=ast.Constant(str(named)))
            ):
                title = named or title
    return title


# --- files that settings name ---------------------------------------------------------------------

CODE = "code"
"""Folder with a copy of each file, in the folder of a comparison or of a trained agent."""


def code_hashes(settings: object, known: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the SHA-256 of each file of the user's code that settings name, by its path.

    Args:
        settings: Settings as plain data.
        known: Hashes that were stored with the settings, which stay.
    """
    stored = known or {}
    return {path: stored.get(path) or code_hash(Path(path)) for path in code_paths(settings)}


def code_paths(settings: object) -> list[str]:
    """Return the paths of the files of the user's code that settings name, each once."""
    return list(dict.fromkeys(str(file[0]) for file in map(_in_file, texts_in(settings)) if file))


def data_hashes(settings: Iterable[object], known: Mapping[str, str]) -> dict[str, str]:
    """Return the SHA-256 of each file or folder of data that settings name, by its path.

    The folder of a run stands for the agent in it: what is written beside that changes no numbers.
    """
    paths = dict.fromkeys(str(value) for value in settings if isinstance(value, str | Path))
    return {
        path: known.get(path) or content_hash(agent_folder(path) or Path(path))
        for path in paths
        # Of os.path, which calls a text that is too long for a path none.
        if path in known or isfile(path) or isdir(path)
    }


def texts_of_options(settings: object) -> list[str]:
    """Return the texts in options of the words that settings name; some are paths of data."""
    return [text for word in texts_in(settings) for text in texts_in_options(str(word))]


def check_code(code: Mapping[str, str], data: Mapping[str, str]) -> None:
    """Refuse to continue with files that are not those that the settings were made with."""
    now = {path: code_hash(Path(path)) for path in code} | data_hashes(data, known={})
    if changed := changed_files({**code, **data}, now):
        raise SettingsError(f"{'; '.join(changed)}; begin again")


def changed_files(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """Return in words which files have another hash, see `changed_paths`."""
    return [
        f"{path} has changed: its SHA-256 was {old[path][:12]} and is now {new[path][:12]}"
        for path in changed_paths(old, new)
    ]


def changed_paths(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """Return the paths of files whose hash has become another."""
    return [path for path, before in old.items() if new.get(path, before) != before]


def keep_code(code: Mapping[str, str], folder: Path) -> None:
    """Write a copy of each file, and of what it imports beside it, into a folder."""
    for path in code:
        write_bytes(copy_of(path, folder), text_of(Path(path)))
        for file in neighbours(Path(path)):
            write_bytes(copy_of(_from_here(file), folder), text_of(file))


def copy_of(path: str, folder: Path) -> Path:
    """Return the copy of a file that `keep_code` wrote."""
    return folder / re.sub(r"[^\w.-]", "_", path)


@contextmanager
def running_copies(code: Mapping[str, str], folder: Path | None) -> Iterator[None]:
    """Run the copies that `keep_code` wrote while the block runs, where they are still the files'.

    Args:
        code: SHA-256 of the files by their paths, with what they import: no other text is run.
        folder: Folder of the copies; None has none.
    """

    def copy(path: Path) -> Path:
        places = [copy_of(name, folder) for name in (str(path), _from_here(path)) if folder]
        return next((place for place in places if place.is_file()), path)

    copies: dict[Path, Path] = {}
    with reading(copy):  # which runs nothing
        files = [Path(path) for path in code]
        is_there = all(copy(file).is_file() for file in files)
        if is_there and all(code_hash(Path(path)) == digest for path, digest in code.items()):
            files += [beside for file in files for beside in neighbours(file)]
            copies = {file: copy(file) for file in files}
    with reading(lambda path: copies.get(path, path)):
        yield


def _from_here(path: Path) -> str:
    """Return a path from the current folder, or as it is if it leads elsewhere."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
