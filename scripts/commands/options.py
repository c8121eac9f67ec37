"""Options of the commands: their own parameters, and the fields of settings dataclasses.

A command names its settings as parameters and says in `takes_settings` which instances are the
defaults. These may depend on some options, such as the environment and the learner, which are taken
from the command line before the others, so that ``--help`` shows the defaults of the chosen task.
The line itself is read once. tyro reads types and texts where the fields are declared, turns what
was typed into values, and writes the help.
"""

import inspect
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import field, is_dataclass, make_dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, NamedTuple, NoReturn, TypeVar, Union

import tyro
from tyro.constructors import (
    MISSING_NONPROP,
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

from tokengym.base.errors import SettingsError
from tokengym.base.registry import did_you_mean
from tokengym.base.settings import Chosen, names_of, with_values
from tokengym.scripts.commands.line import CommandLine, Option, members, read_by_tyro

USED = frozenset(
    """
    device lora-rank updates batch-size tokens max-new-tokens learning-rate kl-coef
    eval-every eval-episodes bundle dataset prompt-column model scorer
    pairs eval-pairs pairs-prompt-column beta n iterations epochs num-prompts temperature keep
    agent reward seed
    critic judge toxicity ppo-steps held-out on-error label-column
    figure table measure columns width
    """.split()
)
"""Settings that ``--help`` shows beside those of learners outside tokengym, and a command's own
parameters, where the command does not say which are its usual options."""
RUN_OPTIONS = frozenset(
    """
    env reward rewards agent agents seed seeds out
    model dataset scorer dtype lora-rank lora-targets
    updates batch-size micro-batch-size max-new-tokens learning-rate kl-coef advantage group-size
    pairs beta n iterations epochs reference-samples
    """.split()
)
"""Usual options of the commands that train: what a model and data of one's own need, too. Those of
one learner are at most twenty."""
FILE_OF_PROMPTS = "a file of prompts is --dataset FILE"
SAID_BY = {
    **dict.fromkeys(("prompts", "prompt", "prompts-file", "prompt-file"), FILE_OF_PROMPTS),
    "total-timesteps": "the length of a training is --updates N, or --tokens N, a timestep being "
    "one token",
    "max-steps": "the length of a training is --updates N, or --tokens N",
    "num-generations": "responses to one prompt are --group-size N",
    "bf16": "the precision is --dtype bfloat16 (the weights), or --precision bf16-mixed",
    "fp16": "the precision is --dtype bfloat16 (the weights), or --precision bf16-mixed",
    "gradient-accumulation-steps": "a batch is divided by --micro-batch-size N",
    "per-device-train-batch-size": "episodes per update are --batch-size N, of which "
    "--micro-batch-size N at a time",
    "num-envs": "the number of environment rows is --batch-size N",
    "n-envs": "the number of environment rows is --batch-size N",
    "model-name-or-path": "a model is --model PATH_OR_NAME",
}
"""Options of other programs, and what says the same here. (Prompts in Python are a list.)"""

GROUP_NAME = re.compile(r"(Settings|Options)$")
"""End of the name of a dataclass of settings, whose beginning is its group's in the help."""
OPTION_NAME = re.compile(r"--([a-z-]+)")
ARGUMENT = re.compile(r"^    (\w+): (.*(?:\n {8}.*)*)", re.MULTILINE)
"""Name and text of an argument in a docstring."""

Tracker = Annotated[str | None, tyro.conf.arg(metavar="{tensorboard,wandb,mlflow,trackio}")]

Command = Callable[..., int | None]
C = TypeVar("C", bound=Command)
Groups = Mapping[str, Any]


def task_settings() -> dict[str, Any]:
    """Return the default settings of a command that takes prompts and models of one's own."""
    from tokengym.evaluation.runs.defaults import TaskSettings

    return {"task": TaskSettings()}


def check_counts(least: int, **values: int) -> None:
    """Refuse numbers below the least, by the names of their options.

    What they are passed on to may know them by other names, or take a negative one for another.
    """
    for name, value in values.items():
        if value < least:
            raise ValueError(f"{name} must be an integer >= {least}, got {value}")


def learner_names() -> list[str]:
    """Return the names that ``--agent`` takes."""
    from tokengym.agents.learner import LEARNERS

    return LEARNERS.names()


Choice = tuple[str, Callable[[], Sequence[str]]] | None


class Declared(NamedTuple):
    """Arguments of `takes_settings`."""

    defaults: Callable[..., Groups]
    choice: Choice = None
    usual: Collection[str] | None = None


_DECLARED: dict[Command, Declared] = {}
NOTHING = Declared(dict)
"""Declared of a command that takes no settings."""


def takes_settings(
    defaults: Callable[..., Groups],
    choice: Choice = None,
    usual: Collection[str] | None = None,
) -> Callable[[C], C]:
    """Give a command the fields of settings dataclasses as options.

    Args:
        defaults: Returns the default settings, or `Chosen`, by the command's parameter. Its own
            parameters are options of the command, whose values decide the defaults of the others.
        choice: One of these parameters, whose value may stand first on the command line, and a
            function that returns its values: an option that the command has with another value only
            is refused in these terms.
        usual: Options that ``--help`` shows, beside those of learners outside tokengym; the others
            are left to ``--help-all``. None takes all parameters of the command, and `USED`.
    """

    def decorate(command: C) -> C:
        _DECLARED[command] = Declared(defaults, choice, usual)
        return command

    return decorate


def call(command: Command, prog: str, arguments: Sequence[str]) -> int:
    """Run a command with the options of a command line.

    Returns:
        The exit status that the command returns; 0 if it returns none.

    Raises:
        ValueError: for an option that the command does not have, or that has no effect.
    """
    line = CommandLine(arguments)
    typed = _take_deciding(command, line)
    chosen = _chosen(command, typed)
    if asked := {"help", "help-all"} & line.given.keys():
        return _show_help(command, prog, chosen, shows_all="help-all" in asked)
    options = list(_options(command, chosen))
    typed |= line.take(options)
    known = {option.name for option in options}
    for name in (*(name for name in typed if name not in known), *line.given):
        _refuse_unknown(command, typed, options, name.replace("_", "-"))
    if line.free:
        raise ValueError(f"unexpected {line.free[0]!r}; {prog} --help shows what there is")
    values: dict[str, Any] = {}
    for name, one in chosen.items():
        given = [o for o in options if o.parameter == name and o.name in typed]
        with _named_as_typed(given):
            values[name] = with_values(one.settings, {o.path: typed[o.name] for o in given})
    for option in options:
        if not option.path:
            values[option.parameter] = typed.get(option.name, option.default)
            if values[option.parameter] is inspect.Parameter.empty:
                raise ValueError(f"{prog} needs {option.shown}; {prog} --help has examples")
    return command(**values) or 0


@contextmanager
def _named_as_typed(given: Sequence[Option]) -> Iterator[None]:
    """Name the setting that an error begins with as its option, where that has another name.

    The settings of evaluations have one named ``every``, which is typed as --eval-every, and those
    of training ``steps``, which is --updates.
    """
    try:
        yield
    except SettingsError as error:
        setting, _, rest = str(error).partition(" ")
        option = next((one for one in given if one.path[-1:] == (setting,)), None)
        if option is None or setting.replace("_", "-") == option.flag:
            raise
        raise type(error)(f"{option.name} {rest}") from error


def options_of(command: Command, arguments: Sequence[str] = ()) -> list[Option]:
    """Return all options that a command has beside the ones given."""
    typed = _take_deciding(command, CommandLine(arguments))
    return list(_options(command, _chosen(command, typed), lists_choices=True))


# --- what a command has ---------------------------------------------------------------------------


def _take_deciding(command: Command, line: CommandLine) -> dict[str, Any]:
    """Take the options that decide the defaults of the others.

    A learner may be named first: "train dpo --beta 0.1" is "train --agent dpo --beta 0.1".
    """
    choice = _DECLARED.get(command, NOTHING).choice
    first = {choice[0]: line.free.pop(0)} if choice and line.free else {}
    typed = line.take(_deciding(command))
    for name in first.keys() & typed.keys():
        raise ValueError(f"{first[name]} is named first, and --{name} names another; leave one out")
    return typed | first


def _deciding(command: Command) -> list[Option]:
    """Return the options that decide the defaults of the others.

    What is no parameter of the command is a field of the settings whose defaults depend on it.
    """
    if command not in _DECLARED:
        return []
    ours = inspect.signature(command).parameters
    names = inspect.signature(_DECLARED[command].defaults).parameters
    return [_option(name, ours.get(name, parameter)) for name, parameter in names.items()]


def _chosen(command: Command, typed: Mapping[str, Any]) -> dict[str, Chosen]:
    """Return the default settings that follow from the options that decide them."""
    if command not in _DECLARED:
        return {}
    values = {one.name: typed.get(one.name, one.default) for one in _deciding(command)}
    groups = _DECLARED[command].defaults(**values)
    return {name: Chosen.of(one) for name, one in groups.items()}


def _options(
    command: Command, chosen: Mapping[str, Chosen], *, lists_choices: bool = False
) -> Iterator[Option]:
    """Yield a command's options in order; values of a choice are listed for a reader alone.

    A field is no option if no text can say its value, or the command itself or earlier settings
    have an option of that name.
    """
    declares = _DECLARED.get(command, NOTHING)
    choice, usual = declares.choice, declares.usual
    texts = _texts(command)
    parameters = inspect.signature(command).parameters
    taken = {"", *(name.replace("_", "-") for name in parameters if name not in chosen)}
    for name, parameter in parameters.items():
        if name not in chosen:
            if lists_choices and choice is not None and choice[0] == name:
                listed = tyro.conf.arg(metavar=f"{{{','.join(choice[1]())}}}")
                parameter = parameter.replace(annotation=Annotated[parameter.annotation, listed])
            option = _option(name, parameter, texts.get(name, ""))
            yield replace(option, is_used=usual is None or option.flag in usual)
            continue
        for leaf in chosen[name].leaves():
            if leaf.flag in taken:
                continue
            declared = _fields(leaf.owner)[leaf.path[-1]]
            if (kind := _readable(declared.type)) is not None:
                taken.add(leaf.flag)
                said = declared.helptext() if callable(declared.helptext) else declared.helptext
                yield Option(
                    parameter=name,
                    path=leaf.path,
                    flag=leaf.flag,
                    aliases=leaf.aliases,
                    kind=kind,
                    default=leaf.value,
                    text=" ".join((said or "").split()),
                    group=_group_of(leaf.owner, leaf.path[-1]),
                    is_used=leaf.flag in (USED if usual is None else usual)
                    or not leaf.owner.__module__.startswith("tokengym."),
                )


def _option(name: str, parameter: inspect.Parameter, text: str = "") -> Option:
    """Return the option that a parameter is."""
    return Option(
        parameter=name,
        flag=name.replace("_", "-"),
        kind=parameter.annotation,
        default=parameter.default,
        text=text,
        is_used=True,
    )


def _group_of(owner: type, name: str) -> type:
    """Return the dataclass that declares a field, by which --help-all groups the options."""
    bases = filter(is_dataclass, reversed(owner.__mro__))
    return next(one for one in bases if name in names_of(one))


def _texts(command: Command) -> dict[str, str]:
    """Return the texts of a command's parameters, from its docstring."""
    described = (inspect.getdoc(command) or "").partition("\n\nArgs:")[2]
    return {name: " ".join(text.split()) for name, text in ARGUMENT.findall(described)}


@lru_cache
def _fields(owner: type) -> dict[str, StructFieldSpec]:
    """Return a dataclass's fields by name as tyro reads them, those of its bases included."""
    # tyro reads the text below each field from the source, where it is declared.
    try:
        made = StructTypeInfo.make(owner, MISSING_NONPROP, in_union_context=False)
        spec: Any = ConstructorRegistry.get_struct_spec(made)
    except NameError as error:
        raise SettingsError(
            f"a type in {owner.__name__} is not there at run time ({error}); import it outside of "
            "TYPE_CHECKING"
        ) from None
    return {one.name: one for one in spec.fields}


def _readable(kind: Any) -> Any:
    """Return the part of a type that texts can say; None if there is none."""
    kinds = [m for m in members(kind) if isinstance(read_by_tyro(m), PrimitiveConstructorSpec)]
    if str in kinds:  # it takes any text, so it comes last
        kinds = [*(m for m in kinds if m not in (str, Path)), str]
    return Union[tuple(kinds)] if set(kinds) - {NoneType} else None  # noqa: UP007


# --- help -----------------------------------------------------------------------------------------


def _show_help(
    command: Command, prog: str, chosen: Mapping[str, Chosen], *, shows_all: bool
) -> int:
    """Print a command's options, of each group those that most need or all; tyro writes them."""
    options = list(_options(command, chosen, lists_choices=True))
    shown = [option for option in options if shows_all or option.is_used]
    said, texts = (inspect.getdoc(command) or "").partition("\n\nArgs:")[0], _texts(command)
    if len(shown) < len(options):
        said += f"\n\n--help-all shows {len(options) - len(shown)} more options."
    groups: dict[str, list[tuple[str, Any, Any]]] = {"": []}
    plain = {option.name for option in options if not option.path}
    for option in shown:
        name = option.parameter if option.path else ""
        if name and shows_all and option.group is not None:
            name = GROUP_NAME.sub("", option.group.__name__).lower()
            name += "s" * (name in plain)  # --reward is an option, so that its group is "rewards"
            texts.setdefault(name, (option.group.__doc__ or "").partition("\n")[0])
        groups.setdefault(name, []).append(_line_of(option))
    own = groups.pop("")
    for name, lines in groups.items():
        made = make_dataclass(name, lines, kw_only=True, namespace={"__doc__": texts.get(name)})
        own.append((name, made, field(default_factory=made)))
    parser = make_dataclass(command.__name__, own, kw_only=True)
    marks = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagConversionOff)
    tyro.cli(parser, prog=prog, description=said, args=["--help"], config=marks)
    return 0  # unreached: tyro ends the process


def _line_of(option: Option) -> tuple[str, Any, Any]:
    """Return an option as a dataclass has a field, with what tyro's help says of it."""
    is_said = not option.path or "(default" in option.text  # what no default stands for
    hint = "" if option.default in (None, ()) and is_said else None
    text = option.text.replace("`", "")
    shown = tyro.conf.arg(metavar=option.values, help=text, help_behavior_hint=hint)
    switch = tyro.conf.FlagConversionOff if option.path else tyro.conf.FlagCreatePairsOff
    is_required = option.default is inspect.Parameter.empty
    default = field() if is_required else field(default=option.default)
    return option.name, Annotated[option.kind, shown, switch], default


# --- options that are none ------------------------------------------------------------------------


def _refuse_unknown(
    command: Command, typed: Mapping[str, Any], options: Sequence[Option], flag: str
) -> NoReturn:
    """Refuse an option that the command does not have, naming those that would work."""
    ours = _names(options)
    plain = {"help", "help-all", *(o.flag for o in options if not (o.path or o.is_positional))}
    known = {*plain, *ours, *_refuse_idle(command, typed, flag, ours)}
    if (positive := flag.removeprefix("no-")) != flag and positive in known:
        named = next((o for o in options if o.flag == positive), None)
        off = named is not None and bool in members(named.kind) and named.path
        instead = f"write --{positive} False" if off else f"leave --{positive} out"
        raise ValueError(f"there is no --{flag}; {instead}")
    words = {name: name.split("-") for name in sorted(known)}
    short = [f"'--{n}'" for n, parts in words.items() if "".join(w[:1] for w in parts) == flag]
    said = SAID_BY.get(flag, "")
    if said and not {*OPTION_NAME.findall(said)}.isdisjoint(known):
        raise ValueError(f"unknown option --{flag}; {said}")
    hint = f"did you mean {' or '.join(short)}? " if short else ""
    hint = hint or did_you_mean(f"--{flag}", [f"--{name}" for name in sorted(known)])
    raise ValueError(f"unknown option --{flag}; {hint}--help-all has all of them")


def _refuse_idle(
    command: Command, typed: Mapping[str, Any], flag: str, ours: Mapping[str, str]
) -> set[str]:
    """Refuse an option that the command has with another choice only; return all that it has."""
    choice = _DECLARED.get(command, NOTHING).choice
    if choice is None:
        return set()
    name, choices = choice
    others = {
        one: _names(_options(command, _chosen(command, {**typed, name: one}))) for one in choices()
    }
    if owners := [one for one, names in others.items() if flag in names]:
        common = set.intersection(*map(set, others.values()))
        takes = ", ".join(dict.fromkeys(f"--{o}" for o in ours.values() if o not in common))
        present = typed.get(name, inspect.signature(command).parameters[name].default)
        raise ValueError(
            f"--{others[owners[0]][flag]} has no effect on {present}; it is an option of "
            f"{_listed(owners)}; {present} takes {takes}"
        )
    return set().union(*others.values())


def _names(options: Iterable[Option]) -> dict[str, str]:
    """Return all names of the settings among options, each with the first of its option."""
    return {name: one.flag for one in options if one.path for name in (one.flag, *one.aliases)}


def _listed(names: Sequence[str]) -> str:
    *rest, last = names
    return f"{', '.join(rest)} and {last}" if rest else last
