"""Things that users name, found by that name: tasks, rewards, scorers, learners and their parts.

A word is a name with options, "abc:beta=1", or an object of a file of the user's own with options,
"rules.py:Half:share=0.5". A `Registry` takes a word apart into a `Spec` and finds what it names:
what was registered, what installed packages declare (entry points of ``tokengym.tasks`` and so on,
imported when one of their names is used), and what files define.
"""

from __future__ import annotations

import difflib
import inspect
import logging
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NoReturn, TypeVar

from tokengym.base.errors import SettingsError, TokenGymError
from tokengym.base.objects import HERE, NAME
from tokengym.base.own_code import defined_names, load_from_file, running_user_code
from tokengym.base.plugins import missing_laboratory, plugins

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class Spec:
    """A user's word for one thing, taken apart."""

    text: str
    """As it was written."""
    name: str
    """Registered name, or that of an object in ``file``."""
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Options by name: numbers, switches and texts."""
    file: Path | None = None
    """File of the user's own that defines the object; None for registered names."""

    @property
    def without_options(self) -> str:
        """The word up to its options: "abc", "rules.py:Half"."""
        return f"{self.file}:{self.name}" if self.file else self.name

    def __str__(self) -> str:
        return self.text


def split_file_word(text: str) -> tuple[Path, str, str] | None:
    """Return file, name and options of "file.py:Name:option=value"; None for any other word.

    Example:
        >>> split_file_word("rules.py:Half:share=0.5")[1:], split_file_word("abc:beta=1")
        (('Half', 'share=0.5'), None)
        >>> split_file_word("ppo:advantage=mine.py:Mean")  # a file in an option, not before it
    """
    file, dot, rest = text.partition(".py:")
    if not dot or re.match(r"[^:=]+:[^:=,]+=", file):
        return None
    name, _, options = rest.partition(":")
    return Path(f"{file}.py"), name, options


def texts_in_options(text: str) -> list[str]:
    """Return the texts that the options of a word have as values, and the options within those.

    Example:
        >>> texts_in_options("ppo:weight=teacher:path=runs/dpo,n_epochs=1")
        ['teacher:path=runs/dpo', 'runs/dpo']
    """
    texts, words = [], [text]  # a stored word may be nested deeper than Python calls functions
    while words:
        word = words.pop()
        texts.append(word)
        values = [v for v in _written(word).values() if v and isinstance(option_value(v), str)]
        words += reversed(values)
    return texts[1:]


def _written(text: str) -> dict[str, str]:
    in_file = split_file_word(text)
    options = in_file[2] if in_file else text.partition(":")[2]
    return {key: value for key, _, value in _parted_options(options)}


def _parted_options(options: str) -> Iterator[tuple[str, str, str]]:
    """Yield the name, "=" and value of each option of a word; one without "=" is a name alone."""
    for option in filter(None, options.split(",")):
        name, equals, value = option.partition("=")
        yield name.strip(), equals, value.strip()


def name_of(text: str) -> str:
    """Return a word without its options.

    Example:
        >>> name_of("abc:beta=1"), name_of("rules.py:Half:share=0.5")
        ('abc', 'rules.py:Half')
    """
    in_file = split_file_word(text)
    return f"{in_file[0]}:{in_file[1]}" if in_file else text.partition(":")[0]


def option_value(text: str) -> Any:
    """Return the number, switch or text that an option's value is."""
    for convert in (int, float):
        try:
            return convert(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text.lower(), text)


def _is_text(parameter: inspect.Parameter) -> bool:
    """Return whether a parameter is a text or path, and no number: a folder may be named 007."""
    kind = parameter.annotation
    names = {*re.findall(r"\w+", kind.__name__ if isinstance(kind, type) else str(kind))}
    numbers = ("int", "float", "bool", "Any", "object")
    return not names.isdisjoint(("str", "Path")) and names.isdisjoint(numbers)


# --- what a name stands for -----------------------------------------------------------------------

EntryPointGroup = Literal[
    "tasks",
    "rewards",
    "scorers",
    "agents",
    "models",
    "formats",
    "partners",
    "readings",
    "estimators",
    "weights",
    "losses",
    "measures",
    "gold",
    "commands",
]


def did_you_mean(
    name: str,
    known: Iterable[str],
    *,
    n: int = 2,
    cutoff: float = 0.6,
    shown: Mapping[str, str] | None = None,
) -> str:
    """Return a sentence with the near matches of a name, and a space after it; "" without any.

    Names that differ from it in upper and lower case alone are near before all others.

    Args:
        name: What the user wrote.
        known: The names.
        n: Most matches that are named.
        cutoff: Least likeness of a match, in [0, 1].
        shown: How each name is written; None quotes it.

    Example:
        >>> did_you_mean("abd", ["abc", "red"]), did_you_mean("sparse", ["red"])
        ("did you mean 'abc'? ", '')
        >>> did_you_mean("PPO", ["ppo", "weighted-ppo"])
        "did you mean 'ppo'? "
    """
    known = list(known)
    near = [word for word in known if word.casefold() == name.casefold()][:n]
    near = near or difflib.get_close_matches(name, known, n=n, cutoff=cutoff)
    words = [shown[word] if shown else repr(word) for word in near]
    return f"did you mean {' or '.join(words)}? " if near else ""


def imported(address: str) -> Any:
    """Import and return what ``module:name`` names, which only some runs need."""
    module, _, name = address.partition(":")
    return getattr(import_module(module), name)


def _makes(found: Any) -> bool:
    """Return whether an object of a package or file is a class, or a method of one."""
    return isinstance(found, type) or isinstance(getattr(found, "__self__", None), type)


class Registry(Mapping[str, T]):
    """Things of one kind by name; as a mapping, those registered so far.

    Args:
        kind: Noun for one of them in messages.
        group: Group of installed packages' entry points that are of this kind; None has none.
        error: Class of its errors.
        from_files: Whether "file.py:Name" names an object of a file of the user's, which is run.
        adopt: Function of a name and an object that a package or file has under it, which returns
            the object as an entry, or refuses it; None takes objects as they are.
        import_names: Function that imports what registers a name, or, for None, all names.
        bare: Option that a value without an option's name sets, as in "textarena:Wordle-v0"; None
            refuses such values.
        replaced: Names, and names of options, of before, with what is written in their place.
        packages: Short names of packages whose objects are named as in "sb3:A2C:n_steps=5". Where
            there are any, an object of another module is named as in "mylab.agents:Mine"; a module
            without a dot in its name has none.
    """

    def __init__(
        self,
        kind: str,
        *,
        group: EntryPointGroup | None = None,
        error: type[TokenGymError] = SettingsError,
        from_files: bool = False,
        adopt: Callable[[str, Any], T] | None = None,
        import_names: Callable[[str | None], None] | None = None,
        bare: str | None = None,
        replaced: Mapping[str, str] | None = None,
        packages: Mapping[str, str] | None = None,
    ) -> None:
        self.kind = kind
        self._group = group
        self._error = error
        self._from_files = from_files
        self._adopt: Callable[[str, Any], T] = adopt or (lambda _, made: made)
        self._import_names = import_names
        self._bare = bare
        self._replaced = replaced or {}
        self.packages = packages or {}
        self._entries: dict[str, T] = {}
        self._objects = set[str]()  # names of entries that are objects of packages, not factories

    def __getitem__(self, name: str) -> T:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def register(self, name: str, entry: T) -> T:
        """Make an entry known by name, and return it; an equal one may be registered again."""
        if not name or any(mark in name for mark in ":=, "):
            raise self._error(f"name must be free of ':', '=', ',' and spaces, got {name!r}")
        if self._entries.setdefault(name, entry) != entry:
            raise self._error(
                f"a {self.kind} named {name!r} is registered already; choose another name"
            )
        return entry

    def plugins(self) -> list[str]:
        """Return the names that installed packages declare, without importing them."""
        return sorted({point.name for point in plugins(self._group)}) if self._group else []

    def import_plugins(self) -> None:
        """Import what installed packages declare; what cannot be is named in a warning."""
        for name in self.plugins():
            try:
                self.find(name)
            except TokenGymError as error:
                logger.warning("%s", error)

    def names(self) -> list[str]:
        """Return all names in order, those of installed packages included."""
        if self._import_names:
            self._import_names(None)
        return sorted({*self._entries, *self.plugins()})

    def parse(self, text: str | Spec) -> Spec:
        """Return a word taken apart; one that is so already is returned as it is.

        Example:
            >>> word = Registry("reward", from_files=True).parse("rules.py:Half:share=0.5")
            >>> word.name, word.file.name, word.options
            ('Half', 'rules.py', {'share': 0.5})
        """
        if isinstance(text, Spec):
            return text
        in_file = split_file_word(text) if self._from_files else None
        file, name, options = in_file or (None, *self._parted(text))
        return Spec(text, name, self._values(text, options) if options else {}, file)

    def _parted(self, text: str) -> tuple[str, str]:
        """Return the name, with the module that has it, and the options of a word."""
        name, _, options = text.partition(":")
        if options and self.packages and (name in self.packages or "." in name):
            inside, _, options = options.partition(":")
            name = f"{name}:{inside}"
        return name, options

    def _values(self, text: str, options: str) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for name, equals, value in _parted_options(options):
            if name in values:
                raise self._error(f"{self.kind} {text!r} has {name} twice; leave one out")
            if equals:
                values[name] = option_value(value)
            elif self._bare and not values:
                values[self._bare] = name
            elif said := _other_word(text):
                raise self._error(f"unknown {self.kind} {text!r}; {said}")
            else:
                raise self._error(
                    f"{self.kind} {text!r} has the option {name!r}; write it as option=value, "
                    f"such as '{text.partition(':')[0]}:{name}=1.0'"
                )
        return values

    def knows(self, word: str | Spec) -> bool:
        """Return whether a name or word is of a file, registered, or of an installed package."""
        word = self._as_word(word)
        if self._import_names:
            self._import_names(word.name)
        is_declared = word.name in {*self._entries, *HERE} or word.name in self.plugins()
        return bool(word.file) or self._in_module(word.name) is not None or is_declared

    def _in_module(self, name: str) -> tuple[str, str] | None:
        """Return module and object of a name such as "sb3:A2C"; None of any other."""
        module, _, inside = name.partition(":")
        return (self.packages.get(module, module), inside) if self.packages and inside else None

    def check(self, word: str | Spec) -> None:
        """Refuse a name or word that stands for nothing; none of a package or file is loaded."""
        if not self.knows(word):
            self._refuse_unknown(self._as_word(word).name)

    def _refuse_unknown(self, name: str) -> NoReturn:
        known = self.names()
        if self._from_files and name.endswith(".py"):
            raise self._error(
                f"{self.kind} {name!r} is a file; name what it defines: {name}:Name"
                f"{defined_names(Path(name))}"
            )
        if NAME.fullmatch(name):
            raise self._error(
                f"{self.kind} {name!r} is an object of the process that passed it; pass it again "
                "with jobs=1, or name file.py:Name"
            )
        if said := _other_word(name):
            raise self._error(f"unknown {self.kind} {name!r}; {said}")
        raise self._error(
            f"unknown {self.kind} {name!r}; {self._remedy(name) or did_you_mean(name, known)}"
            f"known: {', '.join(known)}{missing_laboratory() if self._group else ''}"
        )

    def _remedy(self, name: str) -> str:
        """Return what is written in place of a word of before, and a space; "" of any other."""
        return f"write {self._replaced[name]}; " if name in self._replaced else ""

    def find(self, word: str | Spec) -> T:
        """Return the entry of a name, "abc" or "rules.py:Half", or of a word; or refuse it."""
        if isinstance(word, str):
            if word in self._entries:
                return self._entries[word]
            word = self._as_word(word)
        is_own = word.file or word.name in HERE or self._in_module(word.name) is not None
        if is_own:  # it may be another one the next time
            return self._adopt(word.without_options, self.load(word))
        if word.name not in self._entries:
            self.check(word)  # which imports the file of its name
        if word.name not in self._entries:
            made = self.load(word)
            if word.name not in self._entries:  # else the package's module registers it itself
                self._entries[word.name] = self._adopt(word.name, made)
                if not _makes(made):
                    self._objects.add(word.name)
        return self._entries[word.name]

    def load(self, word: str | Spec) -> Any:
        """Return the object that a file or an installed package has under a name, as it is."""
        word = self._as_word(word)
        if word.file:
            return load_from_file(word.file, word.name, error=self._error)
        if word.name in HERE:
            return HERE[word.name]
        if (place := self._in_module(word.name)) is not None:
            return self._load_from_module(*place)
        points = plugins(self._group, word.name) if self._group else []
        if not points:
            raise self._error(
                f"no installed package declares the {self.kind} {word.name!r}; "
                "write path/to/file.py:Name"
            )
        packages = [point.dist.name if point.dist else point.value for point in points]
        if len(points) > 1:
            raise SettingsError(
                f"{word.name!r} of tokengym.{self._group} is declared by "
                f"{' and by '.join(sorted(packages))}; uninstall one of them"
            )
        said = f"{word.name!r} of tokengym.{self._group} in {packages[0]} cannot be imported"
        with running_user_code(said):  # also where a module ends the process, by sys.exit
            return points[0].load()

    def _load_from_module(self, module: str, name: str) -> Any:
        said = f"{self.kind} {module}:{name} cannot be imported"
        with running_user_code(said, None, self._error):
            inside = vars(import_module(module))
        if isinstance(inside.get(name, sys), ModuleType):  # sb3:a2c is the module of sb3:A2C
            classes = sorted(one for one, value in inside.items() if isinstance(value, type))
            short = {full: short for short, full in self.packages.items()}.get(module, module)
            words = {one: f"{short}:{one}" for one in classes}
            hint = did_you_mean(name, classes, shown=words)
            hint += f"it has {', '.join(classes) or 'no class'}"
            raise self._error(f"{module} has no {name!r}; {hint}")
        return inside[name]

    def make(self, text: str | Spec) -> Any:
        """Return what a word stands for, made with its options; see `call`."""
        word = self.parse(text)
        return self.call(word, self.find(word))

    def _as_word(self, name: str | Spec) -> Spec:
        if isinstance(name, Spec):
            return name
        in_file = split_file_word(name) if self._from_files and ".py:" in name else None
        return Spec(name, in_file[1], file=in_file[0]) if in_file else Spec(name, name)

    def call(self, word: Spec, factory: Any, *, also: tuple[str, ...] = ()) -> Any:
        """Return what a factory makes of a word's options.

        An object of a package or file is itself unless it is a class, a method of one such as
        ``from_pretrained``, or has options. Somebody else takes the options ``also``.
        """
        options = {key: value for key, value in word.options.items() if key not in also}
        is_own = word.file or word.name in HERE
        is_object = not _makes(factory) if is_own else word.name in self._objects
        if is_object and not options:
            return factory
        if word.options:
            self.check_options(word, factory, also=also)
        written = _written(word.text)
        said = f"{self.kind} {word.without_options} cannot be made"
        with running_user_code(said, word.file, self._error):
            for key, parameter in inspect.signature(factory).parameters.items():
                if key in options and key in written and _is_text(parameter):
                    options[key] = written[key]
            return factory(**options)

    def check_options(self, word: Spec, factory: Any, *, also: tuple[str, ...] = ()) -> None:
        """Refuse options that a factory does not take, and switches that are not true or false."""
        parameters = inspect.signature(factory).parameters
        accepted = [*parameters, *also]
        takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
        unknown = [key for key in word.options if key not in accepted]
        if unknown and not takes_any:
            raise self._error(
                f"{self.kind} {word.name!r} has no option {unknown[0]!r}; "
                f"{self._remedy(unknown[0])}it has "
                f"{', '.join(accepted) or 'none'}"
            )
        for key, value in word.options.items():
            is_switch = key in parameters and parameters[key].annotation in (bool, "bool")
            if is_switch and not isinstance(value, bool):
                raise self._error(
                    f"option {key!r} of {self.kind} {word.name!r} is a switch; write {key}=true or "
                    f"{key}=false, got {value!r}"
                )


def _other_word(word: str) -> str | None:
    """Return what to write for a word of another tool, see `spellings.word_answer`."""
    from tokengym.base.spellings import word_answer  # a table that only errors need

    return word_answer(word)
