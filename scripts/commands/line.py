"""A command line, read once, and the options that take their values from it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveTypeInfo


class CommandLine:
    """What was typed, read once: texts by the option that they follow, until they are taken."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self.given: dict[str, list[str]] = {}
        """Texts after each option, by its name without dashes; the last of several counts."""
        self.free: list[str] = []
        """Texts that follow no option, or are more than it takes."""
        texts = self.free
        for argument in arguments:
            flag, equals, value = argument.partition("=")
            if argument == "--":
                texts = self.free
            elif argument.startswith("--") or argument == "-h":
                name = "help" if argument == "-h" else flag[2:].replace("_", "-")
                self.given.pop(name, None)  # of two names of an option, too, the last counts
                texts = self.given[name] = [value] if equals else []
            else:
                texts.append(argument)

    def take(self, options: Sequence["Option"]) -> dict[str, Any]:
        """Remove what was typed of options, and return their values by name.

        Raises:
            ValueError: if a value is missing, or none of the option's.
        """
        values, flags = {}, {option.flag for option in options}
        for option in sorted(options, key=lambda option: option.is_positional):  # these come last
            own = {option.flag, *option.aliases} - (flags - {option.flag})
            names = [name for name in self.given if name in own]
            if option.is_positional:
                if self.free:
                    values[option.name], self.free = option.read(self.free)
            elif names:
                texts = [self.given.pop(name) for name in names][-1]
                values[option.name], more = option.read(texts)
                self.free += more
        return values


@dataclass(frozen=True, kw_only=True)
class Option:
    """One option of a command."""

    parameter: str
    """The command's parameter."""
    path: tuple[str, ...] = ()
    """Names of the fields that lead to it if the parameter holds settings."""
    flag: str
    """Its name on the command line, without dashes."""
    aliases: tuple[str, ...] = ()
    """Its further names."""
    kind: Any
    """Type that tyro reads."""
    default: Any
    """Its default."""
    text: str
    """Its meaning."""
    group: type | None = None
    """Dataclass that declares it; None for the command's own parameters."""
    is_used: bool
    """Whether ``--help`` shows it, and not ``--help-all`` alone."""

    @property
    def is_positional(self) -> bool:
        """Whether it has no name on the command line."""
        return tyro.conf.Positional in get_args(self.kind)

    @property
    def name(self) -> str:
        """Its name as a keyword."""
        return self.flag.replace("-", "_")

    @property
    def shown(self) -> str:
        """What is typed for it, in messages."""
        return self.values if self.is_positional else f"--{self.flag}"

    @property
    def values(self) -> str:
        """Placeholder of its values in the help; empty for a switch."""
        for mark in get_args(self.kind):
            if metavar := getattr(mark, "metavar", None):
                return str(metavar)
        if self.kind is bool and not self.path:
            return ""
        if self.kind == tuple[str, ...] and not self.path:
            return "NAME ..."
        shown = [read_by_tyro(m).metavar for m in members(self.kind) if m is not NoneType]
        short = [re.sub(r"^\[({None}\|)?(\S+) .*", r"\2 ...", metavar) for metavar in shown]
        return "|".join(short).replace("STR", "TEXT")

    def read(self, texts: list[str]) -> tuple[Any, list[str]]:
        """Return the value of the texts that follow it, and those that it does not take."""
        kinds = members(self.kind)
        if texts[:1] == ["None"] and NoneType in kinds:
            return None, texts[1:]
        if bool in kinds and (not self.path or texts[:1] not in (["True"], ["False"])):
            return True, texts
        reader = read_by_tyro(self.kind)
        count = reader.nargs if isinstance(reader.nargs, int) else len(texts)
        if len(texts) < count or not (texts or self.path):
            least = "a value" if isinstance(reader.nargs, int) else "at least one value"
            raise ValueError(
                f"{self.shown} needs {least} ({self.values}); write it, or leave {self.shown} out"
            )
        plain = {*kinds} - {NoneType}
        kind: Any = next(iter(plain)) if len(plain) == 1 else None
        words = [*map(str, get_args(kind))] if get_origin(kind) is Literal else []
        try:
            if words and texts[0] not in words:
                raise ValueError
            return reader.instance_from_str(texts[:count]), texts[count:]
        except ValueError:
            what = {int: "a whole number", float: "a number"}.get(kind, self.values)
            what = f"{', '.join(words[:-1])} or {words[-1]}" if words else what
            got = " ".join(texts[:count])
            raise ValueError(f"{self.shown} must be {what}, got {got!r}") from None


def read_by_tyro(kind: Any) -> Any:
    """Return how tyro reads a type from the command line, or the error that it does not."""
    return ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(kind, set()))


def members(kind: Any) -> tuple[Any, ...]:
    """Return the types of a union, or the one type, without what annotates it."""
    kind = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
