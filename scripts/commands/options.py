"""Options of the commands: their own parameters, and the fields of settings dataclasses.

A command names its settings as parameters and says in `takes_settings` which instances are the
defaults. These may depend on other options, such as the environment, which are then read first, so
that ``--help`` shows the defaults of the chosen task. tyro reads types and texts where the fields
are declared, and then the command line.
"""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import tyro
from tyro.constructors import (
    MISSING_NONPROP,
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

from tokengym.base.errors import SettingsError
from tokengym.base.registry import did_you_mean
from tokengym.base.settings import field_paths, with_values

USED = frozenset(
    """
    device lora-rank updates batch-size tokens max-new-tokens learning-rate kl-coef
    eval-every eval-episodes bundle dataset prompt-column model scorer
    pairs eval-pairs beta n iterations epochs num-prompts temperature keep agent reward seed
    critic judge toxicity ppo-steps held-out on-error label-column
    figure table measure width
    """.split()
)
"""Settings that ``--help`` shows beside those of learners outside tokengym."""
RARE = frozenset({"first-seed", "checkpoint-every", "retry-failed", "executor"})
"""Parameters of commands that it does not show."""

ARGUMENT = re.compile(r"^    (\w+): (.*(?:\n {8}.*)*)", re.MULTILINE)
"""Name and text of an argument in a docstring."""

Tracker = Annotated[str | None, tyro.conf.arg(metavar="{tensorboard,wandb,mlflow,trackio}")]

Command = Callable[..., int | None]
C = TypeVar("C", bound=Command)
Groups = Mapping[str, Any]


@dataclass(frozen=True)
class Chosen:
    """Settings of which some fields have no effect, and are therefore no options."""

    settings: Any
    without: frozenset[str] = frozenset()
    """Names of these fields, of the outer dataclass, or "inner.name" of a nested one."""


def task_settings() -> dict[str, Any]:
    """Return the default settings of a command that takes prompts and models of one's own."""
    from tokengym.evaluation.runs.defaults import TaskSettings

    return {"task": TaskSettings()}


def run_settings(
    env: str | None,
    agent: str,
    bundle: str,
    pairs: str | None = None,
    own: Groups | None = None,
    **evaluation: Any,
) -> dict[str, Any]:
    """Return the default settings of a command that trains: the task's and the learner's.

    Args:
        env: Environment id, or a task's bare name; None leaves it to `resolve_env`.
        agent: Name of the learner.
        bundle: Name or folder of the bundle, whose own defaults go before the task's; "" for none.
        pairs: File of pairs to learn from, on which the default of the length depends.
        own: The texts of --dataset, --scorer and the reward, as `resolve_env` takes them.
        evaluation: Settings of evaluation that the command has other defaults for.
    """
    from tokengym.agents.learner import find_learner
    from tokengym.evaluation.measure.environments import resolve_env
    from tokengym.evaluation.runs.defaults import (
        CREDIT_SETTINGS,
        EvaluationSettings,
        bundle_settings,
        training_settings,
    )

    # Of a learner that takes none the option is refused as any unknown one.
    data = {"pairs": pairs} if "pairs" in find_learner(agent).default_values() else {}
    training = training_settings(resolve_env(env, bundle, own), agent, bundle=bundle, **data)
    learner = training.declaration
    without = {f"learner.{name}" for name in (*learner.fixed, *learner.idle)}
    without |= frozenset() if learner.uses_credit else CREDIT_SETTINGS
    of_bundle = bundle_settings(bundle, "evaluation")
    return {
        "training": Chosen(training, without=frozenset(without)),
        "evaluation": EvaluationSettings(**evaluation | of_bundle),
        **task_settings(),
    }


def learner_lines() -> dict[str, str]:
    """Return the names that ``--agent`` takes, with a line about each."""
    from tokengym.agents.learner import LEARNERS, find_learner

    return {name: find_learner(name).summary for name in LEARNERS.names()}


Choice = tuple[str, Callable[[], Mapping[str, str]]] | None
_DECLARED: dict[Command, tuple[Callable[..., Groups], Choice]] = {}
"""Arguments of `takes_settings`."""


def takes_settings(defaults: Callable[..., Groups], choice: Choice = None) -> Callable[[C], C]:
    """Give a command the fields of settings dataclasses as options.

    Args:
        defaults: Returns the default settings, or `Chosen`, by the command's parameter. Its own
            parameters are options of the command that are read before the others.
        choice: One of these parameters, and a function that returns its values with a line about
            each: an option that the command has with another value only is refused in these terms.
    """

    def decorate(command: C) -> C:
        _DECLARED[command] = defaults, choice
        return command

    return decorate


@dataclass(frozen=True, kw_only=True)
class Option:
    """One option of a command."""

    parameter: str
    """The command's parameter."""
    path: tuple[str, ...] = ()
    """Names of the fields that lead to it if the parameter holds settings."""
    flag: str
    """Its name on the command line, without dashes."""
    kind: Any
    """Type that tyro reads."""
    default: Any
    """Its default."""
    text: str | None = None
    """Its meaning; None leaves it to the command's docstring."""
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
    def values(self) -> str:
        """Placeholder of its values in the help; empty for a switch."""
        for mark in get_args(self.kind):
            if metavar := getattr(mark, "metavar", None):
                return str(metavar)
        if self.kind is bool and not self.path:
            return ""
        if self.kind == tuple[str, ...] and not self.path:
            return "NAME ..."
        shown = [_read_by_tyro(m).metavar for m in _members(self.kind) if m is not NoneType]
        short = [re.sub(r"^\[({None}\|)?(\S+) .*", r"\2 ...", metavar) for metavar in shown]
        return "|".join(short).replace("STR", "TEXT")

    def field(self, said: str | None, *, is_shown: bool) -> StructFieldSpec:
        """Return it as tyro has the fields of a struct; ``said`` is the docstring's text."""
        text = None if self.text is None else self.text.replace("`", "")
        is_said = text is None or "(default" in text  # what no default stands for
        hint = "" if self.default in (None, ()) and is_said else None
        marks: list[Any] = [tyro.conf.arg(metavar=self.values, help=text, help_behavior_hint=hint)]
        if self.kind is bool:
            marks.append(tyro.conf.FlagConversionOff if self.path else tyro.conf.FlagCreatePairsOff)
        if not is_shown:
            marks.append(tyro.conf.Suppress)
        is_required = self.default is inspect.Parameter.empty
        default = MISSING_NONPROP if is_required else self.default
        kind: Any = Annotated[(self.kind, *marks)]
        return StructFieldSpec(self.name, kind, default, said)


def call(command: Command, prog: str, arguments: Sequence[str]) -> int:
    """Run a command with the options of a command line.

    Returns:
        The exit status that the command returns; 0 if it returns none.

    Raises:
        ValueError: for an option that the command does not have, or that has no effect.
    """
    # Defaults depend on other options (--env, --agent, --bundle): these are read by hand first, the
    # settings that they stand for are made, and tyro reads the whole line with those as defaults.
    arguments = _with_choice(command, arguments)
    chosen = _chosen(command, arguments)
    arguments = _without_aliases(arguments, chosen)
    asks = not {"-h", "--help"}.isdisjoint(arguments)  # tyro does not read what it does not show
    options = list(_options(command, chosen, lists_choices=asks or "--help-all" in arguments))
    _refuse_unknown(command, arguments, options)
    _refuse_wrong_values(arguments, options)
    hidden = [option for option in options if asks and not option.is_used]
    said = (inspect.getdoc(command) or "").partition("\n\nArgs:")[0]
    values: Any = tyro.cli(
        _Parameters,
        prog=prog,
        description=f"{said}\n\n--help-all shows {len(hidden)} more options." if hidden else said,
        args=["--help" if a == "--help-all" else a for a in _with_truth(arguments, options)],
        config=(tyro.conf.OmitArgPrefixes,),
        registry=_reader(command, chosen, options, hidden),
    )
    for name, one in chosen.items():  # after tyro, which would put a refusal into a box of its own
        mine = [o for o in options if o.parameter == name]
        given = {o.path: values[name][o.name] for o in mine if values[name][o.name] != o.default}
        values[name] = with_values(one.settings, given)
    return command(**values) or 0


class _Parameters:
    """Stands for the parameters of a command, where tyro asks for a type."""


def _reader(
    command: Command,
    chosen: Mapping[str, Chosen],
    options: Sequence[Option],
    hidden: Sequence[Option],
) -> ConstructorRegistry:
    """Return what has tyro read a command's parameters, and its settings' fields, into dicts."""
    described = (inspect.getdoc(command) or "").partition("\n\nArgs:")[2]
    texts = {name: " ".join(text.split()) for name, text in ARGUMENT.findall(described)}

    inside: dict[Any, list[StructFieldSpec]] = {_Parameters: []}
    kinds = {name: type(one.settings) for name, one in chosen.items()}
    for one in options:
        if one.parameter not in kinds:
            fields = inside[_Parameters]
        elif (kind := kinds[one.parameter]) in inside:
            fields = inside[kind]
        else:  # the first of its settings, which stand where the command has them
            text = texts.get(one.parameter)
            inside[_Parameters].append(StructFieldSpec(one.parameter, kind, MISSING_NONPROP, text))
            fields = inside[kind] = []
        fields.append(one.field(texts.get(one.name), is_shown=one not in hidden))
    # tyro would take all fields of a dataclass by their own names. By this rule it reads those that
    # are options here, hidden or renamed as they are, into a dict; `call` then builds the settings
    # once, so that a refusal names what was typed in one line.
    registry = ConstructorRegistry()

    @registry.struct_rule
    def read(info: StructTypeInfo) -> StructConstructorSpec | None:
        return (
            StructConstructorSpec(dict, tuple(inside[info.type])) if info.type in inside else None
        )

    return registry


def options_of(command: Command, arguments: Sequence[str] = ()) -> list[Option]:
    """Return all options that a command has beside the ones given."""
    return list(_options(command, _chosen(command, arguments)))


# --- what a command has ---------------------------------------------------------------------------


def _chosen(command: Command, arguments: Sequence[str]) -> dict[str, Chosen]:
    """Return the default settings that follow from the options that are read first."""
    if command not in _DECLARED:
        return {}
    groups = _DECLARED[command][0](**_read_first(command, arguments))
    return {name: one if isinstance(one, Chosen) else Chosen(one) for name, one in groups.items()}


def _options(
    command: Command, chosen: Mapping[str, Chosen], *, lists_choices: bool = True
) -> Iterator[Option]:
    """Yield a command's options in order.

    Values of a choice are listed for a reader alone: that imports what declares each of them.

    A field is no option if no text can say its value, or the command itself or earlier settings
    have an option of that name.
    """
    _, choice = _DECLARED.get(command, (None, None))
    parameters = inspect.signature(command).parameters
    taken = {"", *(name.replace("_", "-") for name in parameters if name not in chosen)}
    for name, parameter in parameters.items():
        if name not in chosen:
            kind, flag = parameter.annotation, name.replace("_", "-")
            if lists_choices and choice is not None and choice[0] == name:
                lines = choice[1]()
                text = " ".join(f"{value}: {line}." for value, line in lines.items())
                kind = Annotated[kind, tyro.conf.arg(metavar=f"{{{','.join(lines)}}}", help=text)]
            yield Option(
                parameter=name,
                flag=flag,
                kind=kind,
                default=parameter.default,
                is_used=flag not in RARE,
            )
            continue
        for leaf in field_paths(chosen[name].settings):
            is_idle = not {leaf.path[0], ".".join(leaf.path)}.isdisjoint(chosen[name].without)
            if leaf.flag in taken or is_idle:
                continue
            declared = _fields(leaf.owner)[leaf.path[-1]]
            if (kind := _readable(declared.type)) is not None:
                taken.add(leaf.flag)
                said = declared.helptext() if callable(declared.helptext) else declared.helptext
                yield Option(
                    parameter=name,
                    path=leaf.path,
                    flag=leaf.flag,
                    kind=kind,
                    default=leaf.value,
                    text=" ".join((said or "").split()),
                    is_used=leaf.flag in USED or not leaf.owner.__module__.startswith("tokengym."),
                )


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


def _read_by_tyro(kind: Any) -> Any:
    """Return how tyro reads a type from the command line, or the error that it does not."""
    return ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(kind, set()))


def _readable(kind: Any) -> Any:
    """Return the part of a type that texts can say; None if there is none."""
    kinds = [m for m in _members(kind) if isinstance(_read_by_tyro(m), PrimitiveConstructorSpec)]
    if str in kinds:  # it takes any text, so it comes last
        kinds = [*(m for m in kinds if m not in (str, Path)), str]
    return Union[tuple(kinds)] if set(kinds) - {NoneType} else None  # noqa: UP007


def _members(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _read_first(command: Command, arguments: Sequence[str]) -> dict[str, str]:
    """Return the options that the default settings depend on; the last of several counts."""
    parameters = inspect.signature(command).parameters
    names = inspect.signature(_DECLARED[command][0]).parameters
    # What is no parameter is a field of the settings whose defaults depend on it.
    first = {name: (parameters if name in parameters else names)[name].default for name in names}
    given = {flag.replace("-", "_"): value for flag, value in _given(arguments)}
    return first | {n: value for n, value in given.items() if n in first and value != "None"}


def _given(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the options of a command line as typed, without dashes, and each one's text or ""."""
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=False):
        flag, equals, value = argument.partition("=")
        if flag.startswith("--") and flag != "--":
            after = "" if following.startswith("--") else following
            yield flag.removeprefix("--"), value if equals else after


def _with_choice(command: Command, arguments: Sequence[str]) -> Sequence[str]:
    """Return the arguments of "train dpo --beta 0.1" as those of "train --agent dpo --beta 0.1".

    tyro's subcommands would fix each learner's defaults, which the task and the bundle decide.
    """
    _, choice = _DECLARED.get(command, (None, None))
    if choice is None or not arguments or arguments[0].startswith("-"):
        return arguments
    flag = f"--{choice[0]}"
    if any(argument.partition("=")[0] == flag for argument in arguments):
        raise ValueError(f"{arguments[0]} is named first, and {flag} names another; leave one out")
    return [flag, *arguments]


def _without_aliases(arguments: Sequence[str], chosen: Mapping[str, Chosen]) -> list[str]:
    """Return the arguments with each option under its first name, also where it has no effect."""
    leaves = [leaf for one in chosen.values() for leaf in field_paths(one.settings)]
    flags = {f"--{alias}": f"--{leaf.flag}" for leaf in leaves for alias in leaf.aliases}
    parts = (argument.partition("=") for argument in arguments)
    return [flags.get(name, name) + equals + value for name, equals, value in parts]


def _with_truth(arguments: Sequence[str], options: Sequence[Option]) -> list[str]:
    """Return the arguments with "True" after each yes-or-no setting that stands alone."""
    flags = {f"--{o.flag}" for o in options if o.path and bool in (o.kind, *get_args(o.kind))}
    completed = []
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=False):
        completed.append(argument)
        if argument.replace("_", "-") in flags and following not in ("True", "False", "None"):
            completed.append("True")
    return completed


# --- options that are none ------------------------------------------------------------------------


def _refuse_unknown(command: Command, arguments: Sequence[str], options: Sequence[Option]) -> None:
    """Refuse options that the command does not have, naming those that would work."""
    ours = _settings_flags(options)
    plain = {"help", "help-all", *(o.flag for o in options if not o.path)}
    for typed, _ in _given(arguments):
        flag = typed.replace("_", "-")
        if flag in plain or flag in ours:
            continue
        known = {*plain, *ours, *_refuse_idle(command, arguments, flag, ours)}
        if (positive := flag.removeprefix("no-")) != flag and positive in known:
            named = next((o for o in options if o.flag == positive), None)
            off = named is not None and bool in _members(named.kind) and named.path
            instead = f"write --{positive} False" if off else f"leave --{positive} out"
            raise ValueError(f"there is no --{flag}; {instead}")
        words = {name: name.split("-") for name in sorted(known)}
        short = [f"'--{n}'" for n, parts in words.items() if "".join(w[0] for w in parts) == flag]
        hint = f"did you mean {' or '.join(short)}? " if short else ""
        hint = hint or did_you_mean(f"--{flag}", [f"--{name}" for name in sorted(known)])
        raise ValueError(f"unknown option --{flag}; {hint}--help-all has all of them")


def _refuse_wrong_values(arguments: Sequence[str], options: Sequence[Option]) -> None:
    """Refuse, in one line, what is no number, none of an option's few words, or no name at all."""
    by_flag = {o.flag: o for o in options}
    for typed, value in _given(arguments):
        option = by_flag.get(typed.replace("_", "-"))
        types = () if option is None else _members(option.kind)
        if value == "None" and NoneType in types:
            continue
        numbers = {*types} - {NoneType}
        if option is not None and not option.path and _is_many(option.kind):
            if not value:
                raise ValueError(
                    f"--{typed} needs at least one value ({option.values}); write it, or leave "
                    f"--{typed} out"
                )
            continue
        (kind,) = numbers if len(numbers) == 1 else (None,)
        *words, last = map(str, get_args(kind)) if get_origin(kind) is Literal else (value,)
        if value not in (*words, last):
            raise ValueError(f"--{typed} must be {', '.join(words)} or {last}, got {value!r}")
        if numbers not in ({int}, {float}):
            continue
        try:
            next(iter(numbers))(value)
        except ValueError:
            what = "a whole number" if numbers == {int} else "a number"
            raise ValueError(f"--{typed} must be {what}, got {value!r}") from None


def _is_many(kind: Any) -> bool:
    """Return whether an option takes any number of values."""
    plain = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    return get_origin(plain) is tuple and get_args(plain)[-1] is Ellipsis


def _refuse_idle(
    command: Command, arguments: Sequence[str], flag: str, ours: Sequence[str]
) -> set[str]:
    """Refuse an option that the command has with another choice only; return all that it has."""
    _, choice = _DECLARED.get(command, (None, None))
    if choice is None:
        return set()
    name, choices = choice
    present = _read_first(command, arguments)[name]
    flags = {
        choice: _settings_flags(options_of(command, [*arguments, f"--{name}={choice}"]))
        for choice in choices()
    }
    if owners := [choice for choice in flags if flag in flags[choice]]:
        common = set.intersection(*map(set, flags.values()))
        takes = ", ".join(f"--{name}" for name in ours if name not in common)
        raise ValueError(
            f"--{flag} has no effect on {present}; it is an option of {_listed(owners)}; "
            f"{present} takes {takes}"
        )
    return set().union(*flags.values())


def _settings_flags(options: Sequence[Option]) -> list[str]:
    return [option.flag for option in options if option.path]


def _listed(names: Sequence[str]) -> str:
    *rest, last = names
    return f"{', '.join(rest)} and {last}" if rest else last
