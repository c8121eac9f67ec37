"""Names with options, "name:option=value", and objects of one's own, "file.py:Name"."""

import importlib.util
import inspect
import sys
from collections.abc import Callable, Collection
from hashlib import sha256
from pathlib import Path
from typing import Any

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
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[called]
            raise RewardError(f"{path} cannot be run: {type(error).__name__}: {error}") from error
    if name not in vars(module):
        own = [key for key in vars(module) if not key.startswith("_")]
        raise RewardError(f"{path} defines no {name!r}; it defines {', '.join(own) or 'nothing'}")
    return vars(module)[name]


def find_object(group: Group, name: str) -> Any | None:
    """Return the object of "file.py:Name", or what an installed package declares by that name."""
    own = split_own(name)
    return load_own(own[0], own[1]) if own else load_plugin(group, name)


def build(made: Any, name: str, keywords: dict[str, Any], *, what: str = "reward") -> Any:
    """Return an object that `find_object` found, called if it is a class or has options."""
    if isinstance(made, type) or keywords:
        check_options(name.rpartition(":")[2], made, keywords, what=what)
        made = made(**keywords)
    return made


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
