"""Options of the commands: their own parameters, and the fields of settings dataclasses.

tyro reads types and texts where they are declared, turns what was typed into values and writes the
help. What is here adds defaults that follow from other options, such as the task and the learner,
``--help-all``, and mistakes that are said in one line with their remedy.
"""

import inspect
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass, make_dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    NamedTuple,
    NoReturn,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import tyro
from tyro.constructors import (
    MISSING_NONPROP,
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    StructFieldSpec,
    StructTypeInfo,
)

from tokengym.base.registry import did_you_mean
from tokengym.base.settings import Chosen, FieldPath, filled, names_of
from tokengym.base.spellings import answer, in_place_of_seeds, word_answer
from tokengym.base.text import listed

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

GROUP_NAME = re.compile(r"(Settings|Options)$")
"""End of the name of a dataclass of settings, whose beginning is its group's in the help."""
SHORT = re.compile(r"-(?!inf$|nan$)[a-zA-Z]\w*")
"""An option with one dash, which other tools have."""
HYDRA = re.compile(r"\+{0,2}(?:[a-z_]+\.)+([a-z_]+)=(.*)")
"""A setting as verl's command lines have it, ``algorithm.adv_estimator=grpo``."""
QUOTES = "\"'"
ARGUMENT_SAID = re.compile(
    r"""\w+\([^()]*\)|(?<!\w)'[^']*'|(?<!\w)"[^"]*"|"""
    r"""(?<![\w.:,/-])(?P<name>[a-z]\w*)(?:=(?P<value>'[^']*'|"[^"]*"|[\w.:/+-]*\w|(?![\[({=]))|(?![\w=]))"""
)
"""A call or a quotation, or the name of what may be an argument, with its value."""
ARGUMENT = re.compile(r"^    (\w+): (.*(?:\n {8}.*)*)", re.MULTILINE)
"""Name and text of an argument in a docstring."""
Tracker = Annotated[str | None, tyro.conf.arg(metavar="{tensorboard,wandb,mlflow,trackio}")]

Command = Callable[..., int | None]
C = TypeVar("C", bound=Command)
Groups = Mapping[str, Any]


class Declared(NamedTuple):
    """Arguments of `takes_settings`."""

    defaults: Callable[..., Groups] = lambda: {}
    usual: Collection[str] | None = None
    by_learner: bool = False


_DECLARED: dict[Command, Declared] = {}


def takes_settings(
    defaults: Callable[..., Groups],
    usual: Collection[str] | None = None,
    *,
    by_learner: bool = False,
) -> Callable[[C], C]:
    """Give a command the fields of settings dataclasses as options.

    Args:
        defaults: Returns the default settings, or `Chosen`, by the command's parameter. Its own
            parameters, and those of ``**rest: Unpack[...]``, are options of the command, whose
            values decide the defaults of the others; keyword-only parameters are none.
        usual: Options that ``--help`` shows, beside those of learners outside tokengym; the others
            are left to ``--help-all``. None takes all parameters of the command, and `USED`.
        by_learner: Whether ``agent`` is a learner, which may be named first: an option that only
            other learners have is refused in these terms.
    """

    def decorate(command: C) -> C:
        _DECLARED[command] = Declared(defaults, usual, by_learner)
        return command

    return decorate


def call(command: Command, prog: str, arguments: Sequence[str]) -> int:
    """Run a command with the options of a command line, and return its exit status."""
    line = CommandLine(arguments)
    typed = _take_deciding(command, line)
    chosen = _chosen(command, typed)
    options = list(_options(command, chosen))
    if asked := {"help", "help-all"} & line.given.keys():
        _show_help(command, prog, options, shows_all="help-all" in asked)
    line.refuse_repeated(options)
    typed |= line.take(options)
    known = {option.name for option in options}
    for name in (*(name for name in typed if name not in known), *line.given):
        _refuse_unknown(command, typed, options, name.replace("_", "-"), line)
    if line.free:
        raise ValueError(f"unexpected {line.free[0]!r}; {prog} --help shows what there is")
    given = {o.name: typed[o.name] for o in options if o.leaf and o.name in typed}
    values = given if _takes_given(command) else filled(chosen, given)
    for option in options:
        if option.leaf is None:
            values[option.name] = typed.get(option.name, option.default)
            if values[option.name] is inspect.Parameter.empty:
                raise ValueError(f"{prog} needs {option.shown}; {prog} --help has examples")
    return command(**values) or 0


def _takes_given(command: Command) -> bool:
    """Return whether a command takes what was typed as it is, ``**given``, and decides itself."""
    kinds = [one.kind for one in inspect.signature(command).parameters.values()]
    return inspect.Parameter.VAR_KEYWORD in kinds


def options_of(command: Command, arguments: Sequence[str] = ()) -> list["Option"]:
    """Return all options that a command has beside the ones given."""
    typed = _take_deciding(command, CommandLine(arguments))
    return list(_options(command, _chosen(command, typed)))


def as_options(said: str, options: Iterable["Option"]) -> str:
    """Return what is said of arguments as a command line has them, where they are options of it.

    Texts in quotes and calls in Python stay as they are.

    Example:
        >>> option = Option(parameter="held_out", flag="held-out", kind=float, default=0.1)
        >>> as_options("held_out=0.1 leave 0; pass held_out=, or 'held_out'", [option])
        "--held-out 0.1 leave 0; pass --held-out, or 'held_out'"
    """
    known = {option.name: option for option in options if not option.is_positional}

    def render(found: re.Match[str]) -> str:
        name, value = found["name"], found["value"]
        begins = found.start() == 0 and said.startswith(" must ", found.end())
        if name not in known or not (value is not None or "_" in name or begins):
            return found[0]
        is_switch = not known[name].values
        return f"{known[name].shown} {'' if is_switch else (value or '').strip(QUOTES)}".rstrip()

    return ARGUMENT_SAID.sub(render, said)


# --- a command line -------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Option:
    """One option of a command: a parameter of its own, or a field of the settings in one."""

    parameter: str
    """The command's parameter."""
    flag: str
    """Its name on the command line, without dashes."""
    kind: Any
    """Type that tyro reads."""
    default: Any
    """Its default."""
    text: str = ""
    """Its meaning."""
    is_used: bool = True
    """Whether ``--help`` shows it, and not ``--help-all`` alone."""
    leaf: FieldPath | None = None
    """The field; None for the command's own parameters."""

    @property
    def is_positional(self) -> bool:
        """Whether it has no name on the command line."""
        return tyro.conf.Positional in get_args(self.kind)

    @property
    def name(self) -> str:
        """Its name as a keyword."""
        return self.flag.replace("-", "_")

    @property
    def flags(self) -> tuple[str, ...]:
        """All its names on the command line."""
        return (self.flag, *(self.leaf.aliases if self.leaf else ()))

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
        if self.leaf is None and self.kind in (bool, tuple[str, ...]):
            return "" if self.kind is bool else "NAME ..."
        shown = [_reader(one).metavar for one in _members(self.kind) if one is not NoneType]
        short = [re.sub(r"^\[({None}\|)?(\S+) .*", r"\2 ...", metavar) for metavar in shown]
        return "|".join(short).replace("STR", "TEXT")

    @property
    def takes_several(self) -> bool:
        """Whether it takes any number of values."""
        return not isinstance(_reader(self.kind).nargs, int | tuple)

    def read(self, texts: list[str]) -> tuple[Any, list[str]]:
        """Return the value of the texts that follow it, and those that it does not take."""
        kinds = _members(self.kind)
        if texts[:1] == ["None"] and NoneType in kinds:
            return None, texts[1:]
        if bool in kinds and (self.leaf is None or texts[:1] not in (["True"], ["False"])):
            return True, texts
        reader = _reader(self.kind)
        count = reader.nargs if isinstance(reader.nargs, int) else len(texts)
        if len(texts) < count or not (texts or self.leaf):
            raise ValueError(
                f"{self.shown} needs a value ({self.values}); write it, or leave it out"
            )
        try:
            return reader.instance_from_str(texts[:count]), texts[count:]
        except ValueError:
            got = " ".join(texts[:count])
            hint = word_answer(got) if float in kinds else ""
            if self.flag == "seeds" and (remedy := in_place_of_seeds(got, is_option=True)):
                hint = f"it is a number of seeds: write {remedy}"
            said = f"{self.shown} must be {self.values}, got {got!r}"
            raise ValueError(f"{said}; {hint}" if hint else said) from None


class CommandLine:
    """What was typed, read once: texts by the option that they follow, until they are taken."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self.given: dict[str, list[str]] = {}
        """Texts after each option, by its name without dashes, or with one if it has one alone."""
        self.free: list[str] = []
        """Texts that follow no option, or are more than it takes."""
        self.repeated: dict[str, list[str]] = {}
        """Texts of an option that is given again, by its name."""
        texts = self.free
        for argument in arguments:
            flag, equals, value = argument.partition("=")
            if argument == "--":
                texts = self.free
            elif argument.startswith("--") or argument == "-h":
                name = "help" if argument == "-h" else flag[2:].replace("_", "-")
                texts = self._begin(name, [value] if equals else [])
            elif SHORT.fullmatch(argument):
                texts = self._begin(argument, [])
            elif found := HYDRA.fullmatch(argument):
                self._begin(found[1].replace("_", "-"), [found[2]])
                texts = self.free
            else:
                texts.append(argument)

    def _begin(self, name: str, texts: list[str]) -> list[str]:
        """Keep an option, and what it was given before."""
        if name in self.given:
            self.repeated.setdefault(name, self.given[name])
        self.given[name] = texts
        return texts

    def refuse_repeated(self, options: Sequence[Option]) -> None:
        """Refuse an option that is given twice."""
        for option in options:
            for name in option.flags:
                if name in self.repeated:
                    before = " ".join(self.repeated[name]) or "nothing"
                    several = f", or write several values behind one: --{name} A B"
                    raise ValueError(
                        f"--{name} is given twice, first with {before}; leave one out"
                        f"{several if option.takes_several else ''}"
                    )

    def take(self, options: Sequence[Option]) -> dict[str, Any]:
        """Remove what was typed of options, and return their values by name."""
        values, flags = {}, {option.flag for option in options}
        for option in sorted(options, key=lambda option: option.is_positional):  # these come last
            own = {*option.flags} - (flags - {option.flag})
            if option.is_positional:
                if self.free:
                    values[option.name], self.free = option.read(self.free)
            elif names := [name for name in self.given if name in own]:
                if len(names) > 1:
                    both = listed([f"--{name}" for name in names])
                    raise ValueError(f"{both} are names of one option; leave one out")
                values[option.name], more = option.read(self.given.pop(names[0]))
                self.free += more
        return values


def _reader(kind: Any) -> Any:
    """Return how tyro reads a type from the command line, or the error that it does not."""
    return ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(kind, set()))


def _members(kind: Any) -> tuple[Any, ...]:
    """Return the types of a union, or the one type, without what annotates it."""
    kind = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


# --- what a command has ---------------------------------------------------------------------------


def task_settings() -> dict[str, Any]:
    """Return the default settings of a command that takes prompts and models of one's own."""
    from tokengym.evaluation.runs.settings import TaskSettings

    return {"task": TaskSettings()}


def check_counts(least: int, **values: int) -> None:
    """Refuse numbers below the least, by the names of their options."""
    for name, value in values.items():
        if value < least:
            raise ValueError(f"{name} must be an integer >= {least}, got {value}")


def learner_names() -> list[str]:
    """Return the names that ``--agent`` takes."""
    from tokengym.agents.learner import LEARNERS

    return LEARNERS.names()


def _is_env(text: str) -> bool:
    """Return whether a text names an environment, see `names_env`."""
    from tokengym.evaluation.measure.environments import names_env

    return names_env(text)


def _take_deciding(command: Command, line: CommandLine) -> dict[str, Any]:
    """Take the options that decide the defaults of the others; a learner may be named first."""
    is_named = _declared(command).by_learner and line.free
    first = {"agent": line.free.pop(0)} if is_named else {}
    if first and _is_env(first["agent"]):
        raise ValueError(
            f"{first['agent']} is an environment, and an agent may be named first; write --env "
            f"{first['agent']}"
        )
    typed = line.take(_deciding(command))
    if first and "agent" in typed:
        raise ValueError(
            f"{first['agent']} is named first, and --agent names another; leave one out"
        )
    return typed | first


def _declared(command: Command) -> Declared:
    return _DECLARED.get(command, Declared())


def _deciding(command: Command) -> list[Option]:
    """Return the options that decide the defaults of the others.

    What is no parameter of the command is a field of the settings whose defaults depend on it.
    """
    ours = inspect.signature(command).parameters
    options: list[Option] = []
    for name, one in inspect.signature(_declared(command).defaults).parameters.items():
        if one.kind is one.VAR_KEYWORD:
            kinds = get_type_hints(*get_args(one.annotation)).items()
            more = one.replace(kind=one.KEYWORD_ONLY, default=None)
            options += [_option(n, more.replace(annotation=kind)) for n, kind in kinds]
        elif one.kind is not one.KEYWORD_ONLY:
            options.append(_option(name, ours.get(name, one)))
    return options


def _chosen(command: Command, typed: Mapping[str, Any]) -> dict[str, Chosen]:
    """Return the default settings that follow from the options that decide them."""
    values = {one.name: typed.get(one.name, one.default) for one in _deciding(command)}
    groups = _declared(command).defaults(**values)
    return {name: Chosen.of(one) for name, one in groups.items()}


def _options(command: Command, chosen: Mapping[str, Chosen]) -> Iterator[Option]:
    """Yield a command's options in order.

    A field is no option if no text can say its value, or the command itself or earlier settings
    have an option of that name.
    """
    _, usual, by_learner = _declared(command)
    texts, parameters = _texts(command), inspect.signature(command).parameters
    taken = {"", *(name.replace("_", "-") for name in parameters if name not in chosen)}
    own = {n: one for n, one in parameters.items() if one.kind is not one.VAR_KEYWORD}
    for name in [*own, *(name for name in chosen if name not in own)]:
        if name not in chosen:
            parameter = own[name]
            if by_learner and name == "agent":
                listed = tyro.conf.arg(metavar=f"{{{','.join(learner_names())}}}")
                parameter = parameter.replace(annotation=Annotated[parameter.annotation, listed])
            option = _option(name, parameter, texts.get(name, ""))
            yield replace(option, is_used=usual is None or option.flag in usual)
            continue
        for leaf in chosen[name].leaves():
            declared = _fields(leaf.owner)[leaf.path[-1]]
            if leaf.flag in taken or (kind := _readable(declared.type)) is None:
                continue
            taken.add(leaf.flag)
            said = declared.helptext() if callable(declared.helptext) else declared.helptext
            yield Option(
                parameter=name.partition(" ")[0],
                flag=leaf.flag,
                kind=kind,
                default=leaf.value,
                text=" ".join((said or "").split()),
                is_used=leaf.flag in (USED if usual is None else usual)
                or not leaf.owner.__module__.startswith("tokengym."),
                leaf=leaf,
            )


def _option(name: str, parameter: inspect.Parameter, text: str = "") -> Option:
    """Return the option that a parameter is."""
    return Option(
        parameter=name,
        flag=name.replace("_", "-"),
        kind=parameter.annotation,
        default=parameter.default,
        text=text,
    )


def _texts(command: Command) -> dict[str, str]:
    """Return the texts of a command's parameters, from its docstring."""
    described = (inspect.getdoc(command) or "").partition("\n\nArgs:")[2]
    return {name: " ".join(text.split()) for name, text in ARGUMENT.findall(described)}


@lru_cache
def _fields(owner: type) -> dict[str, StructFieldSpec]:
    """Return a dataclass's fields by name as tyro reads them, those of its bases included."""
    # tyro reads the text below each field from the source, where it is declared.
    made = StructTypeInfo.make(owner, MISSING_NONPROP, in_union_context=False)
    spec: Any = ConstructorRegistry.get_struct_spec(made)
    return {one.name: one for one in spec.fields}


def _readable(kind: Any) -> Any:
    """Return the part of a type that texts can say; None if there is none."""
    kinds = [m for m in _members(kind) if isinstance(_reader(m), PrimitiveConstructorSpec)]
    if str in kinds:  # it takes any text, so it comes last
        kinds = [*(m for m in kinds if m not in (str, Path)), str]
    return Union[tuple(kinds)] if set(kinds) - {NoneType} else None  # noqa: UP007


# --- help -----------------------------------------------------------------------------------------


def _show_help(
    command: Command, prog: str, options: Sequence[Option], *, shows_all: bool
) -> NoReturn:
    """Print a command's options, of each group those that most need or all, and end the process."""
    shown = [option for option in options if shows_all or option.is_used]
    said, texts = (inspect.getdoc(command) or "").partition("\n\nArgs:")[0], _texts(command)
    if len(shown) < len(options):
        said += f"\n\n--help-all shows {len(options) - len(shown)} more options."
    groups: dict[str, list[tuple[str, Any, Any]]] = {"": []}
    plain = {option.name for option in options if option.leaf is None}
    for option in shown:
        name = option.parameter if option.leaf else ""
        if option.leaf and shows_all:
            group = _group_of(option.leaf)
            name = GROUP_NAME.sub("", group.__name__).lower()
            name += "s" * (name in plain)  # --reward is an option, so that its group is "rewards"
            texts.setdefault(name, (group.__doc__ or "").partition("\n")[0])
        groups.setdefault(name, []).append(_line_of(option))
    own = groups.pop("")
    for name, lines in groups.items():
        made = make_dataclass(name, lines, kw_only=True, namespace={"__doc__": texts.get(name)})
        own.append((name, made, field(default_factory=made)))
    parser = make_dataclass(command.__name__, own, kw_only=True)
    marks = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagConversionOff)
    tyro.cli(parser, prog=prog, description=said, args=["--help"], config=marks)
    raise SystemExit(0)


def _group_of(leaf: FieldPath) -> type:
    """Return the dataclass that declares a field, by which --help-all groups the options."""
    bases = filter(is_dataclass, reversed(leaf.owner.__mro__))
    return next(one for one in bases if leaf.path[-1] in names_of(one))


def _line_of(option: Option) -> tuple[str, Any, Any]:
    """Return an option as a dataclass has a field, with what tyro's help says of it."""
    is_none = option.leaf is None and option.default in (None, ())  # which stands for no value
    hint = "" if is_none or "(default" in option.text else None
    text = option.text.replace("`", "")
    shown = tyro.conf.arg(metavar=option.values, help=text, help_behavior_hint=hint)
    switch = tyro.conf.FlagConversionOff if option.leaf else tyro.conf.FlagCreatePairsOff
    is_required = option.default is inspect.Parameter.empty
    default = field() if is_required else field(default=option.default)
    return option.name, Annotated[option.kind, shown, switch], default


# --- options that are none ------------------------------------------------------------------------


def _refuse_unknown(
    command: Command,
    typed: Mapping[str, Any],
    options: Sequence[Option],
    flag: str,
    line: CommandLine,
) -> NoReturn:
    """Refuse an option that the command does not have, or that only other learners have."""
    from tokengym.agents.learner import LEARNERS

    present = _names(options)
    known = {"help", "help-all", *present}
    owners: list[str] = []
    by_learner = _declared(command).by_learner and not typed.get("agents")  # which decide alone
    usual = inspect.signature(command).parameters["agent"].default if by_learner else ""
    word = str(typed.get("agent", usual))
    for learner in learner_names() if by_learner else ():
        names = _names(_options(command, _chosen(command, {**typed, "agent": learner})))
        if flag in names:
            owners.append(learner)
        known |= names
    value = " ".join(line.given.get(flag, ())) or None
    said = answer(flag, present, value, is_option=True)
    if owners:
        more = f"; {said}" if said else ""
        raise ValueError(
            f"--{flag} has no effect on {word}; it is an option of {listed(owners)}{more}"
        )
    shown = flag if flag.startswith("-") else f"--{flag}"
    if said:
        raise ValueError(f"unknown option {shown}; {said}")
    name, setting = word.partition(":")[0], flag.replace("-", "_")
    if by_learner and setting in LEARNERS.find(name).default_values():
        raise ValueError(
            f"unknown option {shown}; it is written in the learner's word: --agent "
            f"{name}:{setting}={value or 'VALUE'}"
        )
    hint = did_you_mean(flag, sorted(known), shown={name: repr(f"--{name}") for name in known})
    raise ValueError(f"unknown option {shown}; {hint}--help-all has all of them")


def _names(options: Iterable[Option]) -> set[str]:
    """Return all names that options have on the command line."""
    return {name for one in options if not one.is_positional for name in one.flags}
