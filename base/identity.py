"""What an object is, as a digest: a changed object has another, in any process.

An object is its code and what it holds. The code of a function is its instructions, constants and
names, the globals that it reads, and what its decorators closed over; that of a class is its
attributes, slots and bases. Neither comments nor places in a file count. Functions and classes of
installed packages are known by their names. A module of the user's own is its file and the files
that this imports; a package is all its files, as any of them may be an attribute of it.
"""

import dis
import os
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from copyreg import dispatch_table
from functools import cache, cached_property
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from pickle import whichmodule  # type: ignore[attr-defined]
from sysconfig import get_paths
from types import (
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MappingProxyType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
)
from typing import Any, NewType, TypeVar

from tokengym.base.errors import SettingsError
from tokengym.base.own_code import (
    imported_files,
    imported_names,
    names_of_import,
    with_packages,
)

T = TypeVar("T")

PLAIN = (type(None), type(...), type(NotImplemented), bool, int, float, complex, str)
GLOBAL_READS = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"})
"""Instructions that read a global; the latter two in the body of a class."""
UNREAD = frozenset(
    """
    __module__ __qualname__ __doc__ __dict__ __weakref__ __annotations__ __firstlineno__
    __static_attributes__ __orig_bases__ __parameters__ __abstractmethods__ _abc_impl
    __dataclass_fields__ __dataclass_params__
    """.split()
)
"""Attributes of a class that say nothing of what it does, or repeat others."""
CALLED: dict[int, tuple[Callable[[], Any], str]] = {}
"""By their ids the objects that the user named, as long as they live, with their names."""
_TAKEN_APART: set[type] = set()
"""Classes of the objects that the present digest took apart."""


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
    _TAKEN_APART.clear()
    try:
        return _digest(item, {}).hex()[:8]
    except (_Unknown, RecursionError) as error:
        name = getattr(item, "__name__", type(item).__name__)
        raise SettingsError(
            f"{name} cannot be told from a changed one ({error}); say what it is: "
            f"tokengym.named({name}, 'a name'), and another name when it changes"
        ) from None


class _Unknown(Exception):
    """Raised where an object is met that shows nothing of what it is."""


def _digest(value: Any, met: dict[int, tuple[Any, bytes]]) -> bytes:
    """Return the digest of a value; ``met`` has those of the objects that were met before."""
    if type(value) in (bytes, memoryview):  # as they are: they may be all weights of a model
        found = sha256(f"{type(value).__name__} ".encode())
        found.update(value)
        return found.digest()
    if type(value) in PLAIN:
        return sha256(
            f"{type(value).__name__} {value!r}".encode(errors="backslashreplace")
        ).digest()
    if id(value) in met:
        return met[id(value)][1]
    met[id(value)] = (value, b"itself")  # it is kept, so that its id stays its own
    if (name := _name_of(value)) is not None:
        parts = [b"named", name.encode()]
    elif type(value) in (set, frozenset):
        parts = [b"set", *sorted(_digest(one, met) for one in value)]
    elif type(value) in (dict, MappingProxyType):
        pairs = sorted((_digest(k, met), _digest(v, met)) for k, v in value.items())
        parts = [type(value).__name__.encode(), *(part for pair in pairs for part in pair)]
    elif type(value) in (tuple, list):
        parts = [type(value).__name__.encode(), *(_digest(one, met) for one in value)]
    else:
        parts = [_digest(part, met) for part in _parts(value)]
    joined = sha256(b"".join(parts)).digest()
    met[id(value)] = (value, joined)
    return joined


def _parts(value: Any) -> Iterable[Any]:
    """Return what an object is made of; the first part says of what kind it is."""
    if (fingerprint := getattr(value, "_fingerprint", None)) is not None:  # a datasets.Dataset
        return "fingerprint", str(fingerprint)
    if (numbers := _numbers(value)) is not None:
        return numbers
    if isinstance(value, FunctionType | type):
        place = _place(value, str(value.__module__), value.__qualname__)
        if place:
            return "place", place
    return next((of(value) for kind, of in KINDS.items() if isinstance(value, kind)), None) or (
        _parts_of_instance(value)
    )


def _parts_of_function(function: FunctionType) -> Iterator[Any]:
    """Yield the code of a function, what it closed over, and the globals that it reads."""
    held = {k: v for k, v in vars(function).items() if k != "__wrapped__"}  # it is closed over
    yield from ("function", function.__code__, function.__defaults__, function.__kwdefaults__, held)
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # it has none yet
            yield "empty"
    read = sorted(_globals_of(function.__code__) & function.__globals__.keys())
    yield {name: function.__globals__[name] for name in read}
    package = function.__globals__.get("__package__") or ""
    imports = (names_of_import(*one, package) for one in _imports_of(function.__code__))
    yield from _own_files(with_packages(name for names in imports for name in names))


@cache
def _globals_of(code: CodeType) -> frozenset[str]:
    """Return the names of globals that code reads, those of inner functions included."""
    read = {
        instruction.argval
        for instruction in dis.get_instructions(code)
        if instruction.opname in GLOBAL_READS
    }
    inner = (_globals_of(one) for one in code.co_consts if isinstance(one, CodeType))
    return frozenset(read).union(*inner)


@cache
def _imports_of(code: CodeType) -> frozenset[tuple[str, tuple[str, ...], int]]:
    """Return module, names and level of the imports in code, those of inner functions included."""
    steps = [one for one in dis.get_instructions(code) if one.opname != "EXTENDED_ARG"]
    triples = zip(steps, steps[1:], steps[2:], strict=False)
    imports = {
        (name.argval, tuple(listed.argval or ()), level.argval)  # in the order of the stack
        for level, listed, name in triples
        if name.opname == "IMPORT_NAME"
    }
    inner = (_imports_of(one) for one in code.co_consts if isinstance(one, CodeType))
    return frozenset(imports).union(*inner)


def _numbers(value: Any) -> tuple[Any, ...] | None:
    """Return the parts of an array or a tensor; None for all else."""
    if (torch := sys.modules.get("torch")) is not None and isinstance(value, torch.Tensor):
        flat = value.detach().cpu().contiguous().reshape(-1)
        content = memoryview(flat.view(torch.uint8).numpy())
        return "tensor", str(value.dtype), tuple(value.shape), content
    numpy = sys.modules.get("numpy")
    if numpy is None or not isinstance(value, numpy.ndarray):
        return None
    if value.dtype.hasobject or isinstance(value, numpy.ma.MaskedArray):
        return "array", str(value.dtype), value.shape, value.tolist()
    flat = numpy.ascontiguousarray(value).reshape(-1).view(numpy.uint8)
    return "array", str(value.dtype), value.shape, memoryview(flat)


def _parts_of_module(module: ModuleType) -> Iterator[Any]:
    """Yield a module's name, and of one of the user's own its file and those that it reaches."""
    yield from ("module", module.__name__)
    if _is_installed(module.__name__):
        return
    file = getattr(module, "__file__", None)
    yield Path(file).read_bytes() if file else None
    places = [*getattr(module, "__path__", ())]
    package = module.__name__ if places else module.__name__.rpartition(".")[0]
    names = imported_names(Path(file), package) if file else set()
    yield from _own_files(names.union(*(_names_below(place, package) for place in places)))


def _names_below(place: str, package: str) -> Iterator[str]:
    """Yield the full names of the modules of a package that is in a folder, and of packages."""
    for folder, inner, files in os.walk(place):
        inner[:] = [name for name in inner if name.isidentifier() and name != "__pycache__"]
        parts = [package, *Path(folder).relative_to(place).parts]
        stems = [Path(file).stem for file in files if file.endswith(".py")]
        yield from (".".join((*parts, name)) for name in (*inner, *stems) if name != "__init__")


def _own_files(names: set[str]) -> Iterator[list[tuple[str, bytes]]]:
    """Yield the files of the user's that imports reach, with their names; nothing if none is."""
    files = imported_files(names, cache(_own_folders))
    if files:
        yield sorted((name, file.read_bytes()) for file, name in files.items())


def _own_folders(top: str) -> list[Path]:
    """Return where a module or package of the user's is read from; of any other, none."""
    if top == "__main__" or _is_installed(top):
        return []
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):  # a module that says nothing of where it is from
        return []
    places = [spec.origin, *(spec.submodule_search_locations or ())] if spec else []
    apart = {"site-packages", "dist-packages"}
    paths = [Path(place) for place in places if place and not place.endswith("__init__.py")]
    return [path.parent for path in paths if apart.isdisjoint(path.parts)]


def _parts_of_class(made: type) -> Iterator[Any]:
    """Yield the attributes of a class and its bases."""
    held = {name: value for name, value in vars(made).items() if name not in UNREAD}
    # Python notes it at the first copy of an object, which may have been anywhere.
    if made not in _TAKEN_APART:
        held.pop("__slotnames__", None)
    yield from ("class", made.__name__, made.__bases__, type(made), held)


def _parts_of_code(code: CodeType) -> Iterator[Any]:
    """Yield instructions, constants and names of code, without its place in a file."""
    yield from ("code", code.co_code, code.co_consts, code.co_names, code.co_varnames)
    yield from (code.co_freevars, code.co_flags)


KINDS: Mapping[Any, Callable[[Any], Iterable[Any]]] = {
    CodeType: _parts_of_code,
    ModuleType: _parts_of_module,
    FunctionType: _parts_of_function,
    type: _parts_of_class,
    MethodType: lambda value: ("method", value.__func__, value.__self__),
    (staticmethod, classmethod): lambda value: (type(value).__name__, value.__func__),
    (MemberDescriptorType, GetSetDescriptorType): lambda value: ("slot", value.__name__),
    (NewType, TypeVar): lambda value: ("type", value.__name__),
    property: lambda value: ("property", value.fget, value.fset),
    cached_property: lambda value: ("property", value.func),
}
"""What objects are made of that no copy can be made of."""


def _parts_of_instance(value: Any) -> Iterator[Any]:
    """Yield the class of an object and what it holds, as a copy of it would be made from."""
    try:
        reduced = dispatch_table[type(value)](value) if type(value) in dispatch_table else None
        reduced = value.__reduce_ex__(4) if reduced is None else reduced
        _TAKEN_APART.add(type(value))
    except Exception:  # of the object's own making
        raise _Unknown(f"it holds a {type(value).__name__}") from None
    if isinstance(reduced, str):
        place = _place(value, _module(value, reduced), reduced)
        inner = getattr(value, "__wrapped__", None)
        if place is None and inner is None:
            raise _Unknown(f"it holds a {type(value).__name__} that shows its name alone")
        # A cached function is what it caches.
        yield from ("global", type(value), place or reduced, None if place else inner)
        return
    made, arguments, state, *items = (*reduced, None, None, None)[:5]
    yield from ("instance", type(value), made, arguments, state)
    for each in items:
        yield None if each is None else list(each)


def _module(value: Any, name: str) -> str:
    """Return the module of an object that is known by its name, "" if it is found in none."""
    try:
        return whichmodule(value, name)
    except Exception:  # of a module that is asked for the name, where the object names none
        return ""


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
    return file is not None and any(
        Path(file).is_relative_to(get_paths()[kind]) for kind in ("purelib", "platlib")
    )
