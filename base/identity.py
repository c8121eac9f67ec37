"""What an object is, as a digest: a changed object has another, in any process.

An object is its code and what it holds, as pickle would keep it, but that code is written by value.
The code of a function is its instructions, constants, names and defaults, the globals of any name
in it, and what its decorators closed over; that of a class is its attributes, text and bases; that
of a module of the user's own is all that is in it. Neither comments nor places in a file count.
What an installed package has is known by its name.
"""

import sys
import weakref
from collections.abc import Callable, Iterator, Mapping
from copyreg import dispatch_table
from functools import cache, cached_property
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from pickle import Pickler, PicklingError, whichmodule  # type: ignore[attr-defined]
from types import (
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MappingProxyType,
    MemberDescriptorType,
    ModuleType,
    SimpleNamespace,
)
from typing import Any, NewType, TypeVar

from tokengym.base.errors import SettingsError, reason_of
from tokengym.base.own_code import imported_files, with_packages

T = TypeVar("T")

PLAIN = frozenset(
    {type(None), type(...), type(NotImplemented), bool, int, float, str, bytes, bytearray}
    | {tuple, list, dict}
)
"""Types that pickle writes by value, in their order."""
UNREAD = frozenset(
    """
    __module__ __qualname__ __dict__ __weakref__ __firstlineno__ __static_attributes__
    __slotnames__ __orig_bases__ __parameters__ __abstractmethods__ _abc_impl
    __dataclass_fields__ __dataclass_params__
    """.split()
)
"""Attributes of a class that say nothing of what it does, or repeat others."""
INSTALLED = frozenset({"site-packages", "dist-packages"})
"""Names of the folders that packages are installed in."""
CALLED: dict[int, tuple[Callable[[], Any], str]] = {}
"""By their ids the objects that the user named, as long as they live, with their names."""


def named(item: T, name: str) -> T:
    """Say by a name what an object is, where its code and what it holds cannot tell, and return it.

    A client of a server, or a handle of a file, cannot be told from another. The runs of a
    comparison are resumed as long as the name stays: change it when the object changes.

    Example:
        >>> judge = named(lambda response: float(len(response)), "length, as of May")
    """
    key = id(item)

    def forget(ended: Any) -> None:
        if key in CALLED and CALLED[key][0] is ended:
            del CALLED[key]

    try:
        CALLED[key] = (weakref.ref(item, forget), name)
    except TypeError:  # a list, say, takes no weak reference
        CALLED[key] = (lambda: item, name)
    return item


def _name_of(value: Any) -> str | None:
    """Return the name that the user gave an object, None if there is none."""
    holder, name = CALLED.get(id(value), (None, None))
    return name if holder is not None and holder() is value else None


def digest(item: Any) -> str:
    """Return eight hexadecimal digits of an object's digest.

    Raises:
        SettingsError: if it holds what cannot be told from another, and has no name.
    """
    try:
        return _sha(item, {}).hex()[:8]
    except Exception as error:  # of the object's own making, too
        name = getattr(item, "__name__", type(item).__name__)
        raise SettingsError(
            f"{name} cannot be told from a changed one ({reason_of(error)}); say what it is: "
            f"tokengym.named({name}, 'a name'), and another name when it changes"
        ) from None


def _sha(value: Any, met: dict[int, tuple[Any, bytes]]) -> bytes:
    """Return the digest of a value; ``met`` has the objects that were met, with theirs, by id."""
    found = sha256()
    _ByValue(found.update, met).dump(value)
    return found.digest()


class _ByValue(Pickler):
    """Writes the digest of what an object is made of in its place, whatever pickle would write."""

    def __init__(self, write: Callable[[Any], None], met: dict[int, tuple[Any, bytes]]) -> None:
        super().__init__(SimpleNamespace(write=write), protocol=4)
        self.fast = True  # equal values are written alike, be they one object or two
        self.met = met

    def persistent_id(self, value: Any) -> Any:
        """Return what is written for an object; None of what pickle writes by value."""
        if (name := _name_of(value)) is not None:
            return "named", name
        if type(value) in PLAIN:
            return None
        if id(value) not in self.met:
            self.met[id(value)] = (value, b"itself")  # it is kept, so that its id stays its own
            self.met[id(value)] = (value, _sha(_parts(value), self.met))
        return self.met[id(value)][1]


def _parts(value: Any) -> tuple[Any, ...]:
    """Return what an object is made of."""
    if (numbers := _numbers(value)) is not None:
        return numbers
    if type(value).__module__.startswith("datasets.") and hasattr(value, "_fingerprint"):
        return "fingerprint", str(value._fingerprint)
    if isinstance(value, FunctionType | type):
        if place := _place(value, str(value.__module__), value.__qualname__):
            return "place", place
    of_kind = (parts for kind, parts in KINDS.items() if isinstance(value, kind))
    return next(of_kind, _parts_of_instance)(value)


def _parts_of_instance(value: Any) -> tuple[Any, ...]:
    """Return the class of an object and what it holds, as a copy of it would be made from."""
    reduce = dispatch_table.get(type(value))
    reduced = reduce(value) if reduce else value.__reduce_ex__(4)
    if not isinstance(reduced, str):
        made, arguments, state, *items = (*reduced, None, None, None)[:5]
        return type(value), made, arguments, state, *(each and list(each) for each in items)
    try:
        place = _place(value, whichmodule(value, reduced), reduced)
    except Exception:  # of a module that is asked for the name, where the object says none
        place = None
    if place:
        return "place", place
    if (inner := getattr(value, "__wrapped__", None)) is None:
        raise PicklingError(f"it holds a {type(value).__name__} that shows its name alone")
    return type(value), inner  # a cached function is what it caches


def _parts_of_function(function: FunctionType) -> tuple[Any, ...]:
    """Return a function's code, what it closed over, the globals and the files that it reads."""
    held = {k: v for k, v in vars(function).items() if k != "__wrapped__"}  # it is closed over
    names, space = _names_in(function.__code__), function.__globals__
    read = {name: space[name] for name in sorted(names & space.keys())}
    files = _own_files(names, str(space.get("__package__") or ""))
    defaults = function.__defaults__, function.__kwdefaults__, function.__doc__
    return function.__code__, *defaults, held, [*_closed_over(function)], read, files


def _closed_over(function: FunctionType) -> Iterator[Any]:
    """Yield what a function closed over."""
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # it has none yet
            yield "empty"


@cache
def _names_in(code: CodeType) -> frozenset[str]:
    """Return the names in code of globals, attributes and imports, of inner functions too."""
    inner = (_names_in(one) for one in code.co_consts if isinstance(one, CodeType))
    return frozenset(code.co_names).union(*inner)


def _own_files(names: frozenset[str], package: str) -> list[tuple[str, bytes]]:
    """Return the files of the user's that code with these names may import when it is called."""
    folders = cache(_own_folders)
    own = {name for name in names if folders(name.partition(".")[0])}
    around = with_packages([package] if package else [])
    inside = {f"{one}.{name}" for one in own | around for name in names if name}
    files = imported_files(with_packages(own) | inside, folders)
    return sorted((name, file.read_bytes()) for file, name in files.items())


def _numbers(value: Any) -> tuple[Any, ...] | None:
    """Return the parts of an array or a tensor; None for all else."""
    if (torch := sys.modules.get("torch")) is not None and isinstance(value, torch.Tensor):
        flat = value.detach().cpu().contiguous().reshape(-1)
        content = memoryview(flat.view(torch.uint8).numpy())
        return "tensor", str(value.dtype), tuple(value.shape), sha256(content).digest()
    numpy = sys.modules.get("numpy")
    if numpy is None or not isinstance(value, numpy.ndarray):
        return None
    if value.dtype.hasobject or isinstance(value, numpy.ma.MaskedArray):
        return "array", str(value.dtype), value.shape, value.tolist()
    flat = numpy.ascontiguousarray(value).reshape(-1).view(numpy.uint8)
    return "array", str(value.dtype), value.shape, sha256(memoryview(flat)).digest()


def _parts_of_module(module: ModuleType) -> tuple[Any, ...]:
    """Return a module's name, and of one of the user's own what is in it."""
    if _is_installed(module.__name__):
        return "module", module.__name__
    held = {name: value for name, value in vars(module).items() if not name.startswith("__")}
    return "module", module.__name__, module.__doc__, sorted(held.items(), key=lambda one: one[0])


def _own_folders(top: str) -> list[Path]:
    """Return where a module or package of the user's is read from; of any other, none."""
    if top == "__main__" or _is_installed(top):
        return []
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):  # a module that says nothing of where it is from
        return []
    places = [spec.origin, *(spec.submodule_search_locations or ())] if spec else []
    paths = [Path(place) for place in places if place and not place.endswith("__init__.py")]
    return [path.parent for path in paths if INSTALLED.isdisjoint(path.parts)]


def _parts_of_class(made: type) -> tuple[Any, ...]:
    """Return the attributes of a class and its bases."""
    held = sorted(vars(made).keys() - UNREAD)
    return "class", made.__name__, made.__bases__, type(made), [(n, vars(made)[n]) for n in held]


def _parts_of_code(code: CodeType) -> tuple[Any, ...]:
    """Return instructions, constants, names and arguments of code, without its place in a file."""
    counts = code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags
    names = code.co_names, code.co_varnames, code.co_freevars
    return "code", code.co_code, code.co_consts, names, counts


KINDS: Mapping[Any, Callable[[Any], tuple[Any, ...]]] = {
    (set, frozenset): lambda value: ("set", sorted(_sha(one, {}) for one in value)),
    MappingProxyType: lambda value: ("proxy", dict(value)),
    CodeType: _parts_of_code,
    ModuleType: _parts_of_module,
    FunctionType: _parts_of_function,
    type: _parts_of_class,
    (staticmethod, classmethod): lambda value: (type(value).__name__, value.__func__),
    (MemberDescriptorType, GetSetDescriptorType): lambda value: ("slot", value.__name__),
    (NewType, TypeVar): lambda value: ("type", value.__name__),
    property: lambda value: ("property", value.fget, value.fset, value.fdel),
    cached_property: lambda value: ("property", value.func),
}
"""What objects are made of that pickle writes by name, in no order, or not at all."""


def _place(value: Any, module: str, name: str) -> str | None:
    """Return module and name of what an installed package has under them; None of all else."""
    found: Any = sys.modules.get(module)
    if not _is_installed(module):
        return None
    for part in name.split("."):
        found = getattr(found, part, None)
    return f"{module}:{name}" if found is value else None


def _is_installed(module: str) -> bool:
    """Return whether a module is tokengym's, Python's or of an installed package."""
    top = module.partition(".")[0]
    if top == "tokengym" or top in sys.stdlib_module_names:
        return top != "__main__"
    file = getattr(sys.modules.get(top), "__file__", None)
    return file is not None and not INSTALLED.isdisjoint(Path(file).parts)
