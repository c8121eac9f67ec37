"""A changed object has another digest, whichever part of it was changed."""

import cmath
import copy
import functools
import gc
import math
import subprocess
import sys
import threading
import tracemalloc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tokengym.base import identity
from tokengym.base.errors import SettingsError
from tokengym.base.identity import digest, named
from tokengym.base.objects import word_of
from tokengym.rewards import FunctionScorer


def made(source: str, name: str = "item") -> Any:
    """Return an object of a notebook's cell."""
    space: dict[str, Any] = {"__name__": "__main__"}
    exec(source, space)
    return space[name]


WRAPPED = """
import functools
def times(factor):
    def decorate(function):
        @functools.wraps(function)
        def scaled(response):
            return {body}
        return scaled
    return decorate
@times({factor})
def item(response):
    return float(len(response))
"""


CACHED = """
import functools
@functools.lru_cache
def part(r): return {number}
class C:
    @functools.lru_cache
    def f(self, r): return {number}
{item}
"""


@pytest.mark.parametrize(
    ("one", "other"),
    [
        # a global that is read, by a function that is read, inside a comprehension
        ("W = 1\ndef item(r): return W * len(r)", "W = -100\ndef item(r): return W * len(r)"),
        (
            "W = 1\ndef part(r): return W\ndef item(r): return part(r)",
            "W = 2\ndef part(r): return W\ndef item(r): return part(r)",
        ),
        (
            "W = {'a'}\ndef item(r): return [one for one in r if one in W]",
            "W = {'b'}\ndef item(r): return [one for one in r if one in W]",
        ),
        # its instructions, constants, names, defaults
        ("def item(r): return r.count('a') + 1", "def item(r): return r.count('a') - 1"),
        ("def item(r): return 1.0", "def item(r): return 2.0"),
        ("def item(r): return r.upper()", "def item(r): return r.lower()"),
        ("def item(r, scale=1): return scale", "def item(r, scale=2): return scale"),
        ("def item(r, *, scale=1): return scale", "def item(r, *, scale=2): return scale"),
        ("def item(scores): return 1", "def item(attention): return 1"),  # named inputs
        # a class: an attribute, a method, its base, its slots
        ("class item:\n    scale = 1", "class item:\n    scale = 2"),
        (
            "class item:\n    def f(self): return 1",
            "class item:\n    def f(self): return 2",
        ),
        (
            "class Base:\n    def f(self): return 1\nclass item(Base): pass",
            "class Base:\n    def f(self): return 2\nclass item(Base): pass",
        ),
        ("class item:\n    __slots__ = ('a',)", "class item:\n    __slots__ = ('b',)"),
        (
            "class C:\n    @property\n    def f(self): return 1\nitem = C()",
            "class C:\n    @property\n    def f(self): return 2\nitem = C()",
        ),
        (
            "class C:\n    @staticmethod\n    def f(): return 1\nitem = C",
            "class C:\n    @staticmethod\n    def f(): return 2\nitem = C",
        ),
        # what an instance holds
        (
            "class C: pass\nitem = C()\nitem.rule = lambda r: 1",
            "class C: pass\nitem = C()\nitem.rule = lambda r: 2",
        ),
        (
            "class C:\n    __slots__ = ('a',)\nitem = C()\nitem.a = 1",
            "class C:\n    __slots__ = ('a',)\nitem = C()\nitem.a = 2",
        ),
        (
            "import numpy\nclass C: pass\nitem = C()\nitem.rule = lambda r: r\n"
            "item.weights = numpy.arange(5000)",
            "import numpy\nclass C: pass\nitem = C()\nitem.rule = lambda r: r\n"
            "item.weights = numpy.arange(5000)\nitem.weights[2500] = 1",
        ),
        # what a cache is of: a function, a function that is read, a method
        *(
            tuple(CACHED.format(item=item, number=number) for number in (1, 2))
            for item in ("item = part", "def item(r): return part(r)", "item = C()")
        ),
        # the order of a dict, texts, a module's attribute, what is an argument
        (
            "W = {'good film': 2, 'film': 1}\ndef item(r): return [W[k] for k in W if k in r][0]",
            "W = {'film': 1, 'good film': 2}\ndef item(r): return [W[k] for k in W if k in r][0]",
        ),
        (
            "class C:\n    'From 1 to 5'\n    def f(self): return self.__doc__\nitem = C()",
            "class C:\n    'From 1 to 9'\n    def f(self): return self.__doc__\nitem = C()",
        ),
        (
            "def item(r): return item.__doc__\nitem.__doc__ = 'From 1 to 5'",
            "def item(r): return item.__doc__\nitem.__doc__ = 'From 1 to 9'",
        ),
        (
            "import types\nm = types.ModuleType('m')\nm.W = 1\ndef item(r): return m.W",
            "import types\nm = types.ModuleType('m')\nm.W = 2\ndef item(r): return m.W",
        ),
        (
            "def item(response, answer=None):\n    x = 1\n    return x",
            "def item(response, answer, x=None):\n    x = 1\n    return x",
        ),
        (
            "class C:\n    _fingerprint = 'x'\n    def f(self): return 1\nitem = C()",
            "class C:\n    _fingerprint = 'x'\n    def f(self): return 2\nitem = C()",
        ),
        # a function that calls itself
        (
            "def item(n): return n and item(n - 1)",
            "def item(n): return n and item(n - 2)",
        ),
        # its decorator, and what that was called with
        (
            WRAPPED.format(body="factor * function(response)", factor=1),
            WRAPPED.format(body="factor * function(response)", factor=2),
        ),
        (
            WRAPPED.format(body="factor * function(response)", factor=1),
            WRAPPED.format(body="factor - function(response)", factor=1),
        ),
    ],
)
def test_a_changed_object_is_another(one: str, other: str):
    assert digest(made(one)) == digest(made(one))
    assert digest(made(one)) != digest(made(other))


OWN_MODULES = {
    "own_helper.py": "import own_deep\ndef f(r): return own_deep.W\n",
    "own_plain.py": "def f(r): return 1\n",
    "own_deep.py": "W = 1\n",
    "own_pkg/__init__.py": "",
    "own_pkg/sub.py": "from .low import core\nW = core.W\n",
    "own_pkg/low/core.py": "from ..top import W\n",
    "own_pkg/top.py": "W = 1\n",
}


@pytest.mark.parametrize(
    ("source", "changed"),
    [
        ("import own_helper\ndef item(r): return own_helper.f(r)", "own_helper.py"),
        ("import own_helper\ndef item(r): return own_helper.f(r)", "own_deep.py"),
        ("from own_helper import f as item", "own_deep.py"),
        ("def item(r):\n    import own_helper\n    return own_helper.f(r)", "own_helper.py"),
        ("def item(r):\n    from own_helper import f\n    return f(r)", "own_deep.py"),
        (
            "def item(r):\n    def own():\n        import own_plain as o\n        return o.f(0)\n"
            "    return own()",
            "own_plain.py",
        ),
        ("import own_pkg.sub\ndef item(r): return own_pkg.sub.W", "own_pkg/sub.py"),
        ("import own_pkg.sub\ndef item(r): return own_pkg.sub.W", "own_pkg/low/core.py"),
        ("from own_pkg import sub\ndef item(r): return sub.W", "own_pkg/top.py"),
        ("def item(r):\n    from own_pkg.sub import W\n    return W", "own_pkg/top.py"),
        (
            "import own_pkg.sub\nclass item:\n    def f(self): return own_pkg.sub.W",
            "own_pkg/top.py",
        ),
    ],
)
def test_a_change_of_a_module_that_is_reached_is_another_object(
    tmp_path: Path, source: str, changed: str
):
    """Each in a process of its own, as a call of another day."""
    for name, text in OWN_MODULES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "cell.py").write_text(
        f"from tokengym.base.identity import digest\n{source}\nprint(digest(item))\n"
    )

    def printed() -> str:
        command = [sys.executable, "-B", "cell.py"]
        return subprocess.check_output(command, cwd=tmp_path, text=True)

    before = printed()
    assert printed() == before
    with (tmp_path / changed).open("a") as file:
        file.write("W = -100\ndef f(r): return -100\n")
    assert printed() != before


def test_what_a_function_imports_when_it_is_called_counts_as_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Whether it has been called by now says nothing."""
    (tmp_path / "own_parts").mkdir()
    (tmp_path / "own_parts" / "__init__.py").write_text("")
    (tmp_path / "own_parts" / "late.py").write_text("W = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    item = made("def item(r):\n    from own_parts import late\n    return late.W")
    before = digest(item)
    item("")
    assert digest(item) == before
    for name in ("own_parts", "own_parts.late"):
        del sys.modules[name]
    (tmp_path / "own_parts" / "late.py").write_text("W = 2\n")
    assert digest(item) != before


def test_where_it_is_written_and_what_is_said_of_it_do_not_count():
    plain = made("def item(r): return len(r)")
    assert digest(plain) == digest(made("\n\n\ndef item(r):\n    # a comment\n    return len(r)"))
    assert digest(plain) == digest(made("OTHER = 3\ndef item(r): return len(r)"))


def test_functions_of_two_names_that_do_the_same_differ_in_what_they_call():
    space: dict[str, Any] = {}
    exec("def one(r): return left(r)\ndef other(r): return right(r)", space)
    space |= {"left": lambda r: 1.0, "right": lambda r: 2.0}
    assert digest(space["one"]) != digest(space["other"])


def test_arrays_and_tensors_are_their_numbers():
    for one, other in (
        (np.arange(3.0), np.arange(3)),
        (np.arange(6), np.arange(6).reshape(2, 3)),
        (np.array([{1}, None]), np.array([{2}, None])),
        (torch.zeros(2), torch.ones(2)),
        (torch.zeros(2, dtype=torch.bfloat16), torch.ones(2, dtype=torch.bfloat16)),
    ):
        assert digest(one) == digest(one.copy() if isinstance(one, np.ndarray) else one.clone())
        assert digest(one) != digest(other)


def test_an_array_is_its_numbers_whatever_its_layout_and_what_it_masks():
    square = np.arange(6.0).reshape(2, 3)
    assert digest(square) == digest(np.asfortranarray(square)) == digest(square[::-1][::-1])
    days = np.array(["2026-01-01", "2026-01-02"], dtype="datetime64[D]")
    assert digest(days) != digest(days[::-1])
    one, other = (
        np.ma.masked_array([1, 2], mask=[is_left_out, False]) for is_left_out in (False, True)
    )
    assert digest(one) != digest(other)
    assert digest(torch.zeros(0)) == digest(torch.zeros(0)) != digest(np.zeros(0))


def test_weights_are_not_copied():
    weights = np.zeros(4_000_000)
    tracemalloc.start()
    try:
        for held in (weights, torch.from_numpy(weights), bytes(weights.nbytes)):
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            digest(held)
            assert tracemalloc.get_traced_memory()[1] - before < weights.nbytes / 10
    finally:
        tracemalloc.stop()


def test_what_shows_a_name_alone_is_known_in_packages_only():
    for one, other in ((math.log, cmath.log), (np.add, np.multiply), (len, any)):
        assert digest(one) == digest(one) != digest(other)
    digest(torch.nn.functional.gelu)
    digest(made("from typing import NewType\nS = NewType('S', float)\ndef item(r): return S(1)"))
    with pytest.raises(SettingsError, match="holds a ufunc that shows its name alone"):
        digest(np.frompyfunc(lambda r: r, 1, 1))


def test_functions_and_scorers_of_packages_have_one_digest():
    assert digest(functools.partial(np.mean, axis=0)) != digest(functools.partial(np.mean, axis=1))
    one, other = (FunctionScorer(made(f"def item(response): return {n}")) for n in (1.0, 2.0))
    assert digest(one) == digest(FunctionScorer(made("def item(response): return 1.0")))
    assert digest(one) != digest(other)
    assert digest(torch.nn.Linear(2, 1, bias=False)) != digest(torch.nn.Linear(2, 1, bias=False))


def test_an_object_that_holds_itself_has_a_digest():
    item = made("class C: pass\nitem = C()\nitem.me = item\nitem.all = [item, 1]")
    other = made("class C: pass\nitem = C()\nitem.me = item\nitem.all = [item, 2]")
    assert digest(item) != digest(other)


def test_a_set_of_texts_is_the_same_in_every_process():
    source = (
        "from tokengym.base.identity import digest\n"
        "class C: pass\n"
        "item = C()\n"
        "item.words = {'good', 'bad', 'dull', 'fine', 'great'}\n"
        "item.rule = lambda r: r in {'one', 'two', 'three', 'four'}\n"
        "print(digest(item))"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", source],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(printed) == 1


def test_what_cannot_be_told_apart_is_refused_unless_it_has_a_name():
    class Asks:
        def __init__(self) -> None:
            self.lock = threading.Lock()

        def __call__(self, response: str) -> float:
            return 1.0

    with pytest.raises(
        SettingsError, match=r"^Asks cannot be told .* '_thread.lock' object.*tokengym.named"
    ):
        word_of(Asks())
    one, other = named(Asks(), "May"), named(Asks(), "June")
    assert digest(one) == digest(named(Asks(), "May")) != digest(other)


def test_a_name_keeps_no_object_and_ends_with_it():
    class Judge:
        def __init__(self) -> None:
            self.lock = threading.Lock()

    class Slotted:
        __slots__ = ("lock",)

    alive, before = weakref.WeakSet[Judge](), len(identity.CALLED)
    for month in range(6):
        judge = named(Judge(), f"month {month}")
        alive.add(judge)
        assert digest(judge) == digest(named(Judge(), f"month {month}"))
        del judge
        gc.collect()
    assert (len(alive), len(identity.CALLED)) == (0, before)
    one, other, unnamed = named(Judge(), "May"), named(Slotted(), "May"), Judge()
    assert digest(one) == digest(other)
    assert digest(named(one, "June")) != digest(other)
    # The name is of that object, not of its place in memory.
    identity.CALLED[id(unnamed)] = identity.CALLED[id(one)]
    with pytest.raises(SettingsError, match="cannot be told"):
        digest(unnamed)
    del identity.CALLED[id(unnamed)], identity.CALLED[id(other)]


def test_what_python_notes_of_a_class_at_a_copy_does_not_count():
    source = (
        "class Inner:\n    level = 1\n\nclass Outer:\n    def made(self):\n        return Inner()\n"
    )
    source += "\nitem = Outer(), Inner"
    outer, inner = made(source)
    before = [digest(one) for one in (outer, inner)]
    copy.deepcopy(inner()), copy.deepcopy(outer)
    assert [digest(one) for one in (outer, inner)] == before
