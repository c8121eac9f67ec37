"""Names with options, "name:option=value", and objects of one's own, "file.py:Name"."""

import importlib.util
import inspect
import linecache
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any

from tokengym.envs.errors import TokenGymError, UntrustedCodeError
from tokengym.envs.tasks.plugins import Group, load_plugin
from tokengym.rewards.errors import RewardError


def parse_options(text: str, options: str, *, what: str = "reward") -> dict[str, Any]:
    """Return the options behind a name as keyword arguments.

    Args:
        text: The whole name, for the message.
        options: "option=value,option=value".
        what: What is named, for the message.

    Raises:
        RewardError: if an option has no value.
    """
    keywords: dict[str, Any] = {}
    for option in filter(None, options.split(",")):
        key, equals, value = option.partition("=")
        if not equals:
            raise RewardError(
                f"{what} {text!r} has the option {option!r}; write it as option=value, "
                "e.g. 'abc:beta=1.0'"
            )
        keywords[key.strip()] = _value(value.strip())
    return keywords


NORMALIZATIONS = {
    "batch": ("by", "scale", "clip"),
    "running": ("by", "scale", "clip", "window"),
}
"""Options of each way to normalise scores, arguments of `Normalize`."""


def parse_normalization(text: str) -> tuple[str, dict[str, Any]]:
    """Return the name of a normalisation and its options.

    Args:
        text: "batch" or "running", with options as in "running:window=512,by=query_type"; "none"
            is None.

    Raises:
        RewardError: if the name or an option is unknown.

    Example:
        >>> parse_normalization("running:window=512,clip=none")
        ('running', {'window': 512, 'clip': None})
    """
    name, _, options = text.partition(":")
    if name not in NORMALIZATIONS:
        raise RewardError(f"normalize must be None, 'running' or 'batch', got {text!r}")
    keywords = parse_options(text, options, what="normalize")
    for key in keywords:
        if key not in NORMALIZATIONS[name]:
            raise RewardError(
                f"normalize {name!r} has no option {key!r}; it has "
                f"{', '.join(NORMALIZATIONS[name])}"
            )
    return name, {key: None if value == "none" else value for key, value in keywords.items()}


def check_options(
    name: str,
    factory: Callable[..., Any],
    keywords: Collection[str],
    also: tuple[str, ...] = (),
    *,
    what: str = "reward",
) -> None:
    """Refuse options that a factory does not take.

    Args:
        name: What the user wrote before the options.
        factory: Called with the options.
        keywords: Their names.
        also: Options that somebody else takes.
        what: What is named, for the message.

    Raises:
        RewardError: with the options there are.
    """
    parameters = inspect.signature(factory).parameters
    accepted = [*parameters, *also]
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    if not takes_any and (unknown := [key for key in keywords if key not in accepted]):
        raise RewardError(
            f"{what} {name!r} has no option {unknown[0]!r}; it has {', '.join(accepted) or 'none'}"
        )


def split_own(text: str) -> tuple[Path, str, str] | None:
    """Return file, name and options of "file.py:Name:option=value"; None for any other name.

    Example:
        >>> split_own("rules.py:Half:share=0.5")[1:], split_own("abc:beta=1")
        (('Half', 'share=0.5'), None)
    """
    file, dot, rest = text.partition(".py:")
    if not dot:
        return None
    name, _, options = rest.partition(":")
    return Path(f"{file}.py"), name, options


def split_name(text: str) -> tuple[str, str]:
    """Return the name and the options of "name:options" or "file.py:Name:options".

    Example:
        >>> split_name("abc:beta=1"), split_name("rules.py:Half:share=0.5")
        (('abc', 'beta=1'), ('rules.py:Half', 'share=0.5'))
    """
    if own := split_own(text):
        path, name, options = own
        return f"{path}:{name}", options
    name, _, options = text.partition(":")
    return name, options


def load_own(path: Path, name: str) -> Any:
    """Return an object that a Python file of the user's defines.

    The file is run once per process, and again when its contents have changed.

    Raises:
        RewardError: if there is no such file, it cannot be run, or it defines no such name.
    """
    digest = sha256(f"{path.resolve()} {own_hash(path)}".encode()).hexdigest()[:16]
    called = f"tokengym_own_{digest}"
    module = sys.modules.get(called)
    if module is None:
        spec = importlib.util.spec_from_file_location(called, path)
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[called] = importlib.util.module_from_spec(spec)
        try:
            with own_code(f"{path} cannot be run", path):
                spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[called]
            raise
    if name not in vars(module):
        own = [key for key in vars(module) if not key.startswith("_")]
        raise RewardError(f"{path} defines no {name!r}; it defines {', '.join(own) or 'nothing'}")
    return vars(module)[name]


@contextmanager
def own_code(said: str, path: Path | None = None) -> Iterator[None]:
    """Turn what code of the user's raises within the block into one line, ``sys.exit`` too.

    Errors of tokengym pass, and so does Ctrl-C: only a ``raise KeyboardInterrupt`` is an error.

    Args:
        said: Beginning of the message.
        path: The code's file; None for code that is in no file of its own.

    Raises:
        RewardError: naming the exception.
    """
    try:
        yield
    except BaseException as error:
        is_stop = isinstance(error, KeyboardInterrupt | GeneratorExit)
        if isinstance(error, TokenGymError) or (is_stop and not _is_raised_in(path, error)):
            raise
        raise RewardError(f"{said}: {type(error).__name__}: {error}".rstrip(": ")) from error


def _is_raised_in(path: Path | None, error: BaseException) -> bool:
    """Return whether a file says ``raise`` where an exception comes from."""
    place: TracebackType | None = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    file = "" if place is None else place.tb_frame.f_code.co_filename
    if path is None or place is None or Path(file).resolve() != path.resolve():
        return False
    return "raise" in linecache.getline(file, place.tb_lineno).split()


def find_object(group: Group, name: str) -> Any | None:
    """Return the object of "file.py:Name", or what an installed package declares by that name."""
    own = split_own(name)
    return load_own(own[0], own[1]) if own else load_plugin(group, name)


def build(made: Any, name: str, keywords: dict[str, Any], *, what: str = "reward") -> Any:
    """Return an object that `find_object` found, called if it is a class or has options.

    Raises:
        RewardError: if an option is unknown, or the call raises.
    """
    if isinstance(made, type) or keywords:
        check_options(name.rpartition(":")[2], made, keywords, what=what)
        own = split_own(name)
        with own_code(f"{what} {name} cannot be made", own and own[0]):
            made = made(**keywords)
    return made


# --- words of a saved folder ----------------------------------------------------------------------


def check_saved(
    saved: Any, source: Path | str, *, named: Any = (), trust_code: bool = False
) -> None:
    """Refuse code of one's own that a saved folder names, where words of it become objects.

    A folder may be somebody else's: its "file.py:Name" is looked up only if the caller named the
    same object in a command or call of theirs.

    Args:
        saved: What was read: texts, in mappings and sequences of any depth.
        source: Where it was read, for the message.
        named: What the caller named, likewise.
        trust_code: Let all names pass.

    Raises:
        UntrustedCodeError: naming the file and its SHA-256.
    """
    known = set() if trust_code else {own_object(text) for text in texts_in(named)}
    for text in () if trust_code else texts_in(saved):
        found = own_object(text)
        if found is None or found in known:
            continue
        path, name = found
        digest = f"SHA-256 {own_hash(path)}" if path.is_file() else "there is no such file here"
        raise UntrustedCodeError(
            f"{source} names code, {path}:{name} ({digest}), which is run only if your own command "
            "or call names it too, or with --trust-code (trust_code=True); read the file first"
        )


def own_object(text: str) -> tuple[Path, str] | None:
    """Return the file, with its links followed, and the object of "file.py:Name"; else None."""
    own = split_own(text)
    return own and (own[0].resolve(), own[1])


def texts_in(value: Any) -> Iterator[str]:
    """Yield the texts of plain data, those of mappings and sequences of any depth."""
    left = [value]
    while left:
        found = left.pop()
        if isinstance(found, str):
            yield found
        elif isinstance(found, Mapping | list | tuple):
            left += reversed(list(found.values() if isinstance(found, Mapping) else found))


def own_hash(path: Path) -> str:
    """Return the SHA-256 of a Python file of the user's.

    Raises:
        RewardError: if there is no such file.
    """
    if not path.is_file():
        raise RewardError(f"there is no file {path}; write path/to/file.py:Name")
    return sha256(path.read_bytes()).hexdigest()


def _value(text: str) -> Any:
    for convert in (int, float):
        try:
            return convert(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text.lower(), text)
