"""Settings dataclasses as command-line options: their names, defaults, checks and help texts.

A command names its settings as parameters and says in `takes_settings` which instances are the
defaults. These may depend on other options, such as the environment, which are then read first, so
that ``--help`` shows the defaults of the chosen task.
"""

import difflib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import tyro

from tokengym.envs.declared import Leaf, field_texts, leaves, with_values
from tokengym.scripts.docstrings import arguments as argument_texts

# Values whose default is found later: nothing to show.
Text = Annotated[str | None, tyro.conf.arg(metavar="TEXT", help_behavior_hint="")]
Folder = Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")]
Whole = Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")]
Number = Annotated[float | None, tyro.conf.arg(metavar="FLOAT", help_behavior_hint="")]
Switch = Annotated[bool, tyro.conf.FlagCreatePairsOff]
Tracker = Annotated[
    str | None,
    tyro.conf.arg(metavar="{tensorboard,wandb,mlflow,trackio}", help_behavior_hint=""),
]
Names = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...", help_behavior_hint="")]

Command = Callable[..., None]
C = TypeVar("C", bound=Command)
Groups = Mapping[str, Any]
SIMPLE = {int: "INT", float: "FLOAT", str: "TEXT", Path: "PATH", bool: "{True,False}"}
"""Types of a single value -> what stands for it in the help."""


def task_settings() -> Groups:
    """Return the default settings of a command that takes prompts and models of one's own."""
    from tokengym.evaluation.runs.config import TaskSettings

    return {"task": TaskSettings()}


@dataclass(frozen=True)
class Chosen:
    """Settings of which some fields have no effect, and are therefore no options."""

    settings: Any
    without: frozenset[str] = frozenset()
    """Names of these fields, of the outer dataclass, or "inner.name" of a nested one."""


@dataclass(frozen=True)
class _Declared:
    """Arguments of `takes_settings`."""

    defaults: Callable[..., Groups]
    choice: tuple[str, Callable[[], Mapping[str, str]]] | None


_DECLARED: dict[Command, _Declared] = {}


def takes_settings(
    defaults: Callable[..., Groups],
    choice: tuple[str, Callable[[], Mapping[str, str]]] | None = None,
) -> Callable[[C], C]:
    """Give a command the fields of settings dataclasses as options.

    Args:
        defaults: Returns the default settings, or `Chosen`, by the command's parameter. Its own
            parameters are options of the command that are read before the others.
        choice: One of these parameters, and a function that returns its values with a line about
            each: an option that the command has with another value only is refused in these terms.
    """

    def decorate(command: C) -> C:
        _DECLARED[command] = _Declared(defaults, choice)
        return command

    return decorate


def call(command: Command, prog: str, arguments: Sequence[str]) -> None:
    """Run a command with the options of a command line.

    Raises:
        ValueError: for an option that the command does not have, or that has no effect.
    """
    groups = _groups(command, arguments)
    _refuse_unknown(command, arguments, groups)

    def run(**values: Any) -> None:
        for name, group in groups.items():
            given = vars(values[name])
            found = {leaf.path: given[_name(leaf)] for leaf, _ in group.options}
            values[name] = with_values(group.settings, found)
        command(**values)

    parameters = {p.name: p for p in inspect.signature(command).parameters.values()}
    kinds = {name: parameter.annotation for name, parameter in parameters.items()}
    kinds |= {name: _group_class(name, group) for name, group in groups.items()}
    declared = _DECLARED.get(command)
    if declared is not None and declared.choice is not None:
        name, choices = declared.choice[0], declared.choice[1]()
        lines = ". ".join(f"{choice}: {line}" for choice, line in choices.items())
        argument = tyro.conf.arg(metavar=f"{{{','.join(choices)}}}", help=f"{lines}.")
        kinds[name] = Annotated[str, argument]
    shown = [parameter.replace(annotation=kinds[name]) for name, parameter in parameters.items()]
    run.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    run.__annotations__, run.__doc__ = kinds, command.__doc__
    tyro.cli(
        run,
        prog=prog,
        args=_with_truth(arguments, groups),
        config=(tyro.conf.OmitArgPrefixes,),
    )


def describe(command: Command) -> list[tuple[str, str, Any, str]]:
    """Return name, values, default and meaning of each option, under the default choices."""
    groups = _groups(command, ())
    texts, declared = argument_texts(command), _DECLARED.get(command)
    rows: list[tuple[str, str, Any, str]] = []
    for name, parameter in inspect.signature(command).parameters.items():
        if name in groups:
            for leaf, kind in groups[name].options:
                text = field_texts(leaf.owner).get(leaf.path[-1], "")
                rows.append((f"--{leaf.flag}", _metavar(kind), leaf.value, text))
            continue
        kind, *extras = get_args(parameter.annotation) or [parameter.annotation]
        if get_origin(parameter.annotation) is Literal:
            kind, extras = parameter.annotation, []
        named = [extra.metavar for extra in extras if getattr(extra, "metavar", None)]
        values = named[0] if named else "" if kind is bool else _metavar(_option_type(kind))
        if declared is not None and declared.choice is not None and declared.choice[0] == name:
            values = f"{{{','.join(declared.choice[1]())}}}"
        is_positional = tyro.conf.Positional in extras
        shown = values if is_positional else f"--{name.replace('_', '-')}"
        rows.append((shown, "" if is_positional else values, parameter.default, texts[name]))
    return rows


# --- settings -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Group:
    """Settings of a command, and those of their fields that are options, with their types."""

    settings: Any
    options: list[tuple[Leaf, Any]]


def _groups(command: Command, arguments: Sequence[str]) -> dict[str, _Group]:
    """Return the default settings that follow from the options that are read first.

    A field is no option if the command itself, or an earlier group, has one of that name.
    """
    declared = _DECLARED.get(command)
    if declared is None:
        return {}
    found = declared.defaults(**_read_first(command, declared, arguments))
    parameters = inspect.signature(command).parameters
    taken = {name.replace("_", "-") for name in parameters if name not in found}
    groups = {}
    for name, given in found.items():
        chosen = given if isinstance(given, Chosen) else Chosen(given)
        options = []
        for leaf in leaves(chosen.settings):
            kind = _option_type(_annotation(leaf))
            is_idle = not {leaf.path[0], ".".join(leaf.path)}.isdisjoint(chosen.without)
            is_free = leaf.flag not in ("", *taken) and not is_idle
            if kind is not None and is_free:
                options.append((leaf, kind))
                taken.add(leaf.flag)
        groups[name] = _Group(chosen.settings, options)
    return groups


def _read_first(command: Command, declared: _Declared, arguments: Sequence[str]) -> dict[str, str]:
    """Return the options that the default settings depend on; the last of several counts."""
    parameters = inspect.signature(command).parameters
    names = inspect.signature(declared.defaults).parameters
    first = {name: parameters[name].default for name in names}
    for name in first:
        flag = f"--{name.replace('_', '-')}"
        for argument, following in zip(arguments, [*arguments[1:], ""], strict=False):
            if argument == flag:
                first[name] = following
            elif argument.startswith(f"{flag}="):
                first[name] = argument.partition("=")[2]
    return first


def _name(leaf: Leaf) -> str:
    return leaf.flag.replace("-", "_")


def _with_truth(arguments: Sequence[str], groups: Mapping[str, _Group]) -> list[str]:
    """Return the arguments with "True" after each yes-or-no option that stands alone."""
    flags = {f"--{leaf.flag}" for g in groups.values() for leaf, kind in g.options if kind is bool}
    found = []
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=False):
        found.append(argument)
        if argument.replace("_", "-") in flags and following not in ("True", "False"):
            found.append("True")
    return found


def _group_class(name: str, group: _Group) -> type:
    """Return a dataclass whose fields are the options of settings, for tyro to read."""
    found = []
    for leaf, kind in group.options:
        text = field_texts(leaf.owner).get(leaf.path[-1], "").replace("`", "")
        extra = (tyro.conf.FlagConversionOff,) if kind is bool else ()
        hint = "" if leaf.value is None and "(default" in text else None  # the text says it
        argument = tyro.conf.arg(help=text, metavar=_metavar(kind), help_behavior_hint=hint)
        found.append((_name(leaf), Annotated[(kind, argument, *extra)], field(default=leaf.value)))
    return make_dataclass(name, found, kw_only=True)


def _annotation(leaf: Leaf) -> Any:
    """Return a field's type; object where its module imports it for type checkers alone."""
    for base in leaf.owner.__mro__:
        kind = vars(base).get("__annotations__", {}).get(leaf.path[-1])
        if isinstance(kind, str):
            try:
                return eval(kind, vars(sys.modules[base.__module__]))
            except NameError:
                return object
        if kind is not None:
            return kind
    return object


def _option_type(kind: Any) -> Any:
    """Return the type that an option is read as; None where a text cannot say the value."""
    members = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    kept = [m for m in members if m in SIMPLE or get_origin(m) in (Literal, tuple)]
    if not kept:
        return None
    optional = NoneType in members or None in members
    return Union[(NoneType, *kept)] if optional else Union[tuple(kept)]  # noqa: UP007


def _metavar(kind: Any) -> str:
    members = get_args(kind) if get_origin(kind) is Union else (kind,)
    shown = []
    for member in members:
        if member in SIMPLE:
            shown.append(SIMPLE[member])
        elif get_origin(member) is Literal:
            shown.append(f"{{{','.join(map(str, get_args(member)))}}}")
        elif get_origin(member) is tuple:
            shown.append(f"{_metavar(_option_type(get_args(member)[0]))} ...")
    return "|".join(shown)


# --- options that are none ------------------------------------------------------------------------


def _refuse_unknown(
    command: Command, arguments: Sequence[str], groups: Mapping[str, _Group]
) -> None:
    """Refuse options that the command does not have, naming those that would work."""
    ours = _flags(groups)
    names = {name.replace("_", "-") for name in inspect.signature(command).parameters} - set(groups)
    plain = {"help", *names, *(f"no-{name}" for name in names)}
    for argument in arguments:
        flag = argument.removeprefix("--").partition("=")[0].replace("_", "-")
        if not argument.startswith("--") or not flag or flag in plain or flag in ours:
            continue
        known = {*plain, *ours, *_refuse_idle(command, arguments, flag, ours)}
        near = difflib.get_close_matches(flag, sorted(known), n=2)
        hint = f"did you mean {' or '.join(f'--{name}' for name in near)}? " if near else ""
        raise ValueError(f"unknown option --{flag}; {hint}--help has all of them")


def _refuse_idle(
    command: Command, arguments: Sequence[str], flag: str, ours: Sequence[str]
) -> set[str]:
    """Refuse an option that the command has with another choice only; return all that it has."""
    declared = _DECLARED.get(command)
    if declared is None or declared.choice is None:
        return set()
    name, choices = declared.choice
    present = _read_first(command, declared, arguments)[name]
    flags = {
        choice: _flags(_groups(command, [*arguments, f"--{name}={choice}"])) for choice in choices()
    }
    if owners := [choice for choice in flags if flag in flags[choice]]:
        common = set.intersection(*map(set, flags.values()))
        takes = ", ".join(f"--{own}" for own in ours if own not in common)
        raise ValueError(
            f"--{flag} has no effect on {present}; it is an option of {_listed(owners)}; "
            f"{present} takes {takes}"
        )
    return set().union(*flags.values())


def _flags(groups: Mapping[str, _Group]) -> list[str]:
    return [leaf.flag for group in groups.values() for leaf, _ in group.options]


def _listed(names: Sequence[str]) -> str:
    *rest, last = names
    return f"{', '.join(rest)} and {last}" if rest else last
