"""Settings that are declared once, as frozen dataclasses, and carried from there.

A constructor takes them as keyword arguments (`from_keywords` builds and checks the dataclass,
`accepts_settings` shows its fields in the signature). Command-line flags, checkpoints and reports
read the same fields and the text below each. The checks, which rules and scorers share, refuse a
value in one line that names it, what is accepted, and the remedy.
"""

import inspect
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from functools import wraps
from math import inf, isfinite
from numbers import Real
from operator import index
from typing import Any, NoReturn, ParamSpec, TypeVar, get_type_hints

from tokengym.base.errors import SettingsError
from tokengym.base.registry import did_you_mean

P = ParamSpec("P")
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


def names_of(*declared: type) -> list[str]:
    """Return the names of all fields, in order."""
    return [field.name for cls in declared for field in fields(cls)]


def from_keywords(
    declared: type[T],
    keywords: Mapping[str, Any],
    *,
    owner: str,
    others: Collection[str] = (),
) -> T:
    """Return a settings dataclass built from keyword arguments.

    Args:
        declared: The dataclass.
        keywords: Values by field name; a field that is left out has its default.
        owner: Name of the caller, for the message.
        others: Further arguments of the caller, for the message.

    Raises:
        TypeError: if a keyword is not a field, with what other tools mean by it, or near matches.
        ValueError: if a value is out of range.
    """
    known = [one.name for one in fields(declared)]  # type: ignore[arg-type]
    if unknown := [name for name in keywords if name not in known]:
        name = unknown[0]
        raise TypeError(no_argument(owner, name, keywords[name], [*others, *known]))
    return declared(**keywords)


def no_argument(owner: str, name: str, value: Any, known: Collection[str]) -> str:
    """Return what is said of an argument that a function does not have."""
    from tokengym.base.spellings import answer  # a table that only errors need

    said = answer(name, known, value, is_option=False)
    hint = f"{said}; " if said else did_you_mean(name, known)
    return f"{owner}() got an unexpected keyword argument {name!r}; {hint}known: {', '.join(known)}"


def answers_keywords(function: Callable[P, T]) -> Callable[P, T]:
    """Have a function answer an unknown keyword as `from_keywords` does."""
    known = [name for name in inspect.signature(function).parameters if name != "self"]

    @wraps(function)
    def answering(*args: P.args, **kwargs: P.kwargs) -> T:
        for name, value in kwargs.items():
            if name not in known:
                raise TypeError(no_argument(function.__name__, name, value, known))
        return function(*args, **kwargs)

    return answering


def shown_signature(function: Callable[..., Any], *declared: type) -> inspect.Signature:
    """Return a function's signature with fields in it, keyword-only, for its ``**keywords``."""
    signature = inspect.signature(function)
    declared_parameters = [
        parameter
        for name, parameter in signature.parameters.items()
        if parameter.kind != parameter.VAR_KEYWORD and name != "self"
    ]
    names = {parameter.name for parameter in declared_parameters}
    shown = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=_default(field),
            annotation=field.type,
        )
        for cls in declared
        for field in fields(cls)
        if field.name not in names
    ]
    return signature.replace(parameters=[*declared_parameters, *shown])


def accepts_settings(*declared: type) -> Callable[[F], F]:
    """Show the fields of settings dataclasses in the signature of what takes them.

    `inspect.signature`, `help` and editors then show what is accepted.
    """

    def decorate(function: F) -> F:
        shown = shown_signature(function, *declared)
        first = list(inspect.signature(function).parameters.values())[:1]
        myself = [parameter for parameter in first if parameter.name == "self"]
        function.__signature__ = shown.replace(parameters=[*myself, *shown.parameters.values()])  # type: ignore[attr-defined]
        return function

    return decorate


def _default(field: Any) -> Any:
    if field.default is not MISSING:
        return field.default
    return inspect.Parameter.empty if field.default_factory is MISSING else field.default_factory()


def all_optional(cls: type[T]) -> type[T]:
    """Leave open, as None, the fields of a settings dataclass's first base that are not given.

    It stands below ``@dataclass``. Types and texts stay where the fields are declared.
    """
    kinds = get_type_hints(cls.__bases__[0])
    left = {name: kinds[name] | None for name in names_of(cls.__bases__[0])}
    cls.__annotations__ = left | inspect.get_annotations(cls)
    for one in fields(cls.__bases__[0]):
        setattr(cls, one.name, field(default=None, metadata=one.metadata))
    return cls


def check_given(settings: object, declared: type, **stand_ins: Any) -> None:
    """Check, as their base does, the fields that `all_optional` left open and that are given."""
    values = {name: getattr(settings, name) for name in names_of(declared)}
    given = {name: value for name, value in values.items() if value is not None}
    made = declared(**{**stand_ins, **given})
    for name in given:
        object.__setattr__(settings, name, getattr(made, name))


# --- nested settings ------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class FieldPath:
    """One field of a settings dataclass, or of one that it holds."""

    path: tuple[str, ...]
    """Names of the fields that lead to it."""
    flag: str
    """Command-line option without dashes: ``metadata["flag"]`` of the field, else its name; empty
    if the field is no option, but an argument of its class and in a learner's word alone."""
    value: Any
    """Its value."""
    owner: type
    """The dataclass that declares it."""
    aliases: tuple[str, ...] = ()
    """Further command-line options for it: ``metadata["aliases"]`` of the field."""
    is_data: bool = False
    """Whether it may name a file or folder of data or a model, whose contents decide the numbers:
    ``metadata["is_data"]`` of the field."""

    @property
    def keywords(self) -> tuple[str, ...]:
        """Its names as keyword arguments: its options with ``_`` for ``-``; () if it is none."""
        return tuple(n.replace("-", "_") for n in (self.flag, *self.aliases) if n)


def field_paths(settings: Any, path: tuple[str, ...] = ()) -> Iterator[FieldPath]:
    """Yield the fields of a settings dataclass in order, those of nested ones in their place.

    Args:
        settings: An instance, or the class, whose fields have their defaults.
        path: Names of the fields that lead to it.
    """
    owner = settings if isinstance(settings, type) else type(settings)
    for one in fields(settings):
        value = _default(one) if owner is settings else getattr(settings, one.name)
        if is_dataclass(value):
            yield from field_paths(value, (*path, one.name))
        else:
            flag = one.metadata.get("flag", one.name.replace("_", "-"))
            yield FieldPath(
                path=(*path, one.name),
                flag=flag,
                value=value,
                owner=owner,
                aliases=one.metadata.get("aliases", ()),
                is_data=one.metadata.get("is_data", False),
            )


@dataclass(frozen=True)
class Chosen:
    """Settings of which some fields have no effect, and are therefore no options."""

    settings: Any
    without: frozenset[str] = frozenset()
    """Names of these fields, of the outer dataclass, or "inner.name" of a nested one."""

    @classmethod
    def of(cls, settings: Any) -> "Chosen":
        """Return settings as they are, or those of which all fields have an effect."""
        return settings if isinstance(settings, cls) else cls(settings)

    def leaves(self) -> Iterator[FieldPath]:
        """Yield the fields that have an effect, in order."""
        for leaf in field_paths(self.settings):
            if {leaf.path[0], ".".join(leaf.path)}.isdisjoint(self.without):
                yield leaf


def keywords_of(groups: Mapping[str, Chosen]) -> dict[str, tuple[str, FieldPath]]:
    """Return the keywords of several settings, each with its group and field.

    The first field of a name counts, and a name before another field's further name.
    """
    known: dict[str, tuple[str, FieldPath]] = {}
    leaves = [(name, leaf) for name, chosen in groups.items() for leaf in chosen.leaves()]
    for part in (slice(1), slice(1, None)):
        for group, leaf in leaves:
            for keyword in leaf.keywords[part]:
                known.setdefault(keyword, (group, leaf))
    return known


def filled(groups: Mapping[str, Chosen], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return several settings with values by keyword, see `keywords_of`.

    An error names what was given, as ``eval_every`` for the field ``every``.
    """
    known = keywords_of(groups)
    given: dict[str, dict[tuple[str, ...], Any]] = {name: {} for name in groups}
    names: dict[str, str] = {}
    for keyword, value in values.items():
        group, leaf = known[keyword]
        if leaf.path in given[group]:
            raise TypeError(f"got {keyword!r} twice, by two of its names; leave one out")
        given[group][leaf.path] = value
        names[leaf.path[-1]] = leaf.keywords[0]
    with as_given(names):
        return {name: with_values(one.settings, given[name]) for name, one in groups.items()}


@contextmanager
def as_given(names: Mapping[str, str]) -> Iterator[None]:
    """Have a refused setting named as it was given, by the names of fields: ``eval_every``."""
    try:
        yield
    except SettingsError as error:
        field_name, _, rest = str(error).partition(" ")
        if (name := names.get(field_name, field_name)) == field_name:
            raise
        raise type(error)(f"{name} {rest}") from error


def explicit(settings: Any) -> dict[str, Any]:
    """Return by keyword the values of a settings dataclass that are not the declared defaults.

    Example:
        >>> @dataclass
        ... class Grid:
        ...     every: int = 3
        ...     episodes: int = 128
        >>> explicit(Grid(every=1))
        {'every': 1}
    """
    defaults = {leaf.path: leaf.value for leaf in field_paths(type(settings))}
    return {
        (*leaf.keywords, leaf.path[-1])[0]: leaf.value
        for leaf in field_paths(settings)
        if leaf.value != defaults.get(leaf.path)
    }


def values_by_name(settings: Any) -> dict[str, Any]:
    """Return the values of all fields by name, those of nested dataclasses in their place."""
    return {one.path[-1]: one.value for one in field_paths(settings)}


def with_values(settings: T | type[T], values: Mapping[tuple[str, ...], Any]) -> T:
    """Return settings with fields replaced by `FieldPath.path`; what changes is checked again."""
    changes: dict[str, Any] = {path[0]: value for path, value in values.items() if not path[1:]}
    for name in dict.fromkeys(path[0] for path in values if path[1:]):
        inner = {path[1:]: value for path, value in values.items() if path[0] == name}
        (leaf,) = (one for one in fields(settings) if one.name == name)  # type: ignore[arg-type]
        held = _default(leaf) if isinstance(settings, type) else getattr(settings, name)
        changes[name] = with_values(held, inner)
    if isinstance(settings, type):
        return settings(**changes)
    return replace(settings, **changes) if changes else settings  # type: ignore[type-var]


def changed(settings: T | type[T], **changes: Any) -> T:
    """Return settings with fields changed by name, nested ones included; None is no change."""
    known = {leaf.path[-1]: leaf.path for leaf in reversed(list(field_paths(settings)))}
    for name in changes:
        if name not in known:
            owner = settings if isinstance(settings, type) else type(settings)
            from tokengym.base.spellings import answer

            said = answer(name, known, changes[name], is_option=False)
            said = "" if "(" in said else said  # a call is no setting of a learner's word
            hint = said or did_you_mean(name, known) or f"it has {', '.join(known)}"
            raise TypeError(f"{owner.__name__} has no setting {name!r}; {hint}".rstrip())
    return with_values(settings, {known[k]: v for k, v in changes.items() if v is not None})


def from_json(declared: type[T], data: Mapping[str, Any]) -> T:
    """Return the settings that `to_json` wrote; one that it lacks is newer and has its default."""
    values = dict(data)
    if unknown := sorted({*values} - {*names_of(declared)}):
        raise SettingsError(f"{declared.__name__} of another version: {unknown[0]} is unknown")
    for one in fields(declared):  # type: ignore[arg-type]
        default = _default(one)
        if one.name not in data:
            if default is not inspect.Parameter.empty:
                continue
            raise SettingsError(f"{declared.__name__} of another version: {one.name} is missing")
        value = data[one.name]
        if is_dataclass(default) and not is_dataclass(value):
            values[one.name] = from_json(type(default), value)
        elif isinstance(value, list):
            values[one.name] = tuple(value)
    return declared(**values)


# --- checks ---------------------------------------------------------------------------------------
# The owner is a settings dataclass in its __post_init__, or a rule or scorer in its constructor.
# All raise the class ``error``; ``hint`` is the remedy at the end of the message.


def check_count(
    owner: object,
    *names: str,
    least: int = 1,
    most: float = inf,
    optional: bool = False,
    hint: str = "",
    error: type[ValueError] = SettingsError,
) -> None:
    """Refuse attributes that are not integers within bounds; NumPy's become Python's."""
    wanted = f">= {least}" if most == inf else f"within {least} and {most}"
    for name in names:
        value = getattr(owner, name)
        if value is None and optional:
            continue
        try:
            count = index(value)
        except TypeError:
            count = None
        if count is None or isinstance(value, bool) or not least <= count <= most:
            _refuse(name, value, f"an integer {wanted}", optional, hint, error)
        object.__setattr__(owner, name, count)


def check_number(
    owner: object,
    *names: str,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    most: float | None = None,
    finite: bool = False,
    optional: bool = False,
    hint: str = "",
    error: type[ValueError] = SettingsError,
) -> None:
    """Refuse attributes outside a range; NaN is outside every range, infinity if ``finite``.

    NumPy's numbers become Python's, and integers of more than 64 bits floats: torch overflows.
    """
    wanted = "a finite number" if finite else ""
    if (top := below if most is None else most) is not None:
        opens, closes = "[" if above is None else "(", ")" if most is None else "]"
        wanted = f"within {opens}{least or above or 0:g}, {top:g}{closes}"
    elif above is not None or least is not None:
        wanted += f" > {above:g}" if above is not None else f" >= {least:g}"
    for name in names:
        value = getattr(owner, name)
        if value is None and optional:
            continue
        is_number = isinstance(value, Real) and not isinstance(value, bool)
        kind = "" if is_number or "number" in wanted else "a number"
        try:
            number = float(value) if is_number else None
        except OverflowError:
            number = None
        if not (
            number is not None
            and (above is None or value > above)
            and (least is None or value >= least)
            and (below is None or value < below)
            and (most is None or value <= most)
            and (not finite or isfinite(number))
        ):
            said = f"{kind} {wanted.strip()}".strip() or "a number"
            _refuse(name, value, said, optional, hint, error)
        if type(value) is not float and not (isinstance(value, int) and abs(value) < 2**63):
            object.__setattr__(owner, name, number)


def check_choice(
    owner: object,
    name: str,
    choices: Collection[object],
    *,
    hint: str = "",
    error: type[ValueError] = SettingsError,
) -> None:
    """Refuse an attribute that is none of the choices."""
    value = getattr(owner, name)
    if not isinstance(value, Hashable) or value not in choices:  # `in` fails on an array
        *rest, last = map(repr, choices)
        _refuse(name, value, f"{', '.join(rest)} or {last}" if rest else last, False, hint, error)


def check_memory(name: str, value: int, *, bytes_each: int) -> None:
    """Refuse a number of things that memory cannot hold, before the system ends the process.

    Args:
        name: Setting that says how many there are, for the message.
        value: Its value.
        bytes_each: Least memory that one more takes, bytes.

    Raises:
        SettingsError: naming the largest value that fits.
    """
    import psutil  # takes as long as half of this package

    available = psutil.virtual_memory().available
    if value * bytes_each > available:
        raise SettingsError(
            f"{name} must be at most {available // bytes_each:,} with {available / 2**30:.1f} GiB "
            f"of memory at hand, got {value:,}; lower it, or play fewer rows at once"
        )


def _refuse(
    name: str, value: Any, wanted: str, optional: bool, hint: str, error: type[ValueError]
) -> NoReturn:
    also, end = ", or None" if optional else "", f"; {hint}" if hint else ""
    is_huge = isinstance(value, int) and value.bit_length() > 128  # Python prints not all of them
    shown = f"an integer of {value.bit_length()} bits" if is_huge else repr(value)
    raise error(f"{name} must be {wanted}{also}, got {shown}{end}")
