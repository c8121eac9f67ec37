"""Settings that hold settings: their fields by path, by name, and as JSON."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tokengym.base.errors import SettingsError
from tokengym.base.files import to_json
from tokengym.base.settings import (
    Chosen,
    changed,
    check_count,
    check_number,
    field_paths,
    filled,
    from_json,
    keywords_of,
    with_values,
)


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 0.5
    names: tuple[str, ...] = ("a",)


@dataclass(frozen=True, kw_only=True)
class Outer:
    count: int | None = None
    every: int = field(default=3, metadata={"flag": "tell-every"})
    inner: Inner = Inner()
    place: object = None

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"every must be >= 1, got {self.every}")


def test_leaves_are_the_fields_in_order():
    found = [(leaf.path, leaf.flag, leaf.value, leaf.owner) for leaf in field_paths(Outer())]
    assert found == [
        (("count",), "count", None, Outer),
        (("every",), "tell-every", 3, Outer),
        (("inner", "rate"), "rate", 0.5, Inner),
        (("inner", "names"), "names", ("a",), Inner),
        (("place",), "place", None, Outer),
    ]


def test_fields_are_changed_by_path_and_by_name():
    expected = Outer(every=4, inner=Inner(rate=0.25))
    assert with_values(Outer(), {("every",): 4, ("inner", "rate"): 0.25}) == expected
    assert changed(Outer(), every=4, rate=0.25, count=None) == expected
    assert changed(Outer(count=1), count=None) == Outer(count=1)  # None is no change
    with pytest.raises(TypeError, match=r"Outer.*'rat'.*'rate'"):
        changed(Outer(), rat=1.0)
    with pytest.raises(ValueError, match=r"every.*>= 1, got 0"):
        changed(Outer(), every=0)


@dataclass(frozen=True, kw_only=True)
class Steps:
    steps: int = field(default=3, metadata={"flag": "updates", "aliases": ("steps",)})

    def __post_init__(self) -> None:
        check_count(self, "steps")


def test_several_settings_are_filled_by_keyword():
    groups = {"one": Chosen(Outer(), frozenset({"place"})), "two": Chosen(Steps())}
    names = ["count", "tell_every", "rate", "names", "updates", "steps"]
    assert list(keywords_of(groups)) == names
    assert filled(groups, {"tell_every": 4, "rate": 0.25, "steps": 5}) == {
        "one": Outer(every=4, inner=Inner(rate=0.25)),
        "two": Steps(steps=5),
    }
    with pytest.raises(SettingsError, match=r"^updates must be an integer >= 1, got 0"):
        filled(groups, {"steps": 0})
    with pytest.raises(TypeError, match="got 'steps' twice, by two of its names"):
        filled(groups, {"updates": 1, "steps": 2})

    @dataclass(frozen=True)
    class Taken:
        steps: int = 0

    both = {"one": Chosen(Steps()), "two": Chosen(Taken())}
    assert filled(both, {"steps": 5}) == {"one": Steps(), "two": Taken(steps=5)}


def test_settings_survive_json():
    ours = Outer(count=2, inner=Inner(names=("x", "y")), place=Path("a"))
    plain = json.loads(json.dumps(to_json(ours)))
    assert plain["inner"] == {"rate": 0.5, "names": ["x", "y"]}
    assert from_json(Outer, plain) == replace(ours, place="a")
    with pytest.raises(SettingsError, match="numbers or texts"):
        to_json(Outer(place=len))
    with pytest.raises(SettingsError, match=r"Inner.*speed is unknown"):
        from_json(Outer, {**plain, "inner": {**plain["inner"], "speed": 1}})
    assert from_json(Outer, {"every": 4}) == Outer(every=4)  # written before the others existed

    @dataclass(frozen=True)
    class Named:
        name: str

    with pytest.raises(SettingsError, match=r"Named.*name is missing"):
        from_json(Named, {})


@pytest.mark.parametrize("given", [np.float64(0.25), np.float32(0.25), np.int64(3), 3, 0.25])
def test_a_numpy_number_becomes_pythons(given):
    settings = Inner(rate=given)
    check_number(settings, "rate", least=0.0)
    assert settings.rate == given
    assert type(settings.rate) in (int, float)
    assert to_json(settings)["rate"] == given


@pytest.mark.parametrize(
    ("bounds", "inside", "outside"),
    [
        ({"above": 0.0}, 0.1, 0.0),
        ({"least": 0.0}, 0.0, -0.1),
        ({"least": 0.0, "below": 1.0}, 0.9, 1.0),
        ({"least": 0.0, "most": 1.0}, 1.0, 1.1),
        ({"finite": True}, 1.0, np.nan),
    ],
)
def test_numbers_are_within_their_bounds(bounds, inside, outside):
    check_number(Inner(rate=inside), "rate", **bounds)
    with pytest.raises(SettingsError, match=rf"rate must be .*, got {outside}"):
        check_number(Inner(rate=outside), "rate", **bounds)


@pytest.mark.parametrize(
    ("bounds", "wanted"),
    [
        ({}, "a number"),
        ({"finite": True}, "a finite number"),
        ({"above": 0.0}, "a number > 0"),
        ({"least": 0.0, "finite": True}, "a finite number >= 0"),
        ({"least": 0.0, "most": 1.0}, r"a number within \[0, 1\]"),
    ],
)
def test_what_is_no_number_is_told_what_is_wanted(bounds, wanted):
    with pytest.raises(SettingsError, match=f"^rate must be {wanted}, got 'abc'$"):
        check_number(Inner(rate="abc"), "rate", **bounds)  # type: ignore[arg-type]


def test_integers_that_torch_cannot_hold_become_floats_or_are_refused():
    settings = Inner(rate=10**30)
    check_number(settings, "rate", above=0.0, finite=True)
    assert (type(settings.rate), settings.rate) == (float, 1e30)
    assert (torch.ones(2) / settings.rate).tolist() == pytest.approx([1e-30, 1e-30])
    huge = Inner(rate=10**5000)  # Python prints no integer of more than 4300 digits
    for check in (
        lambda: check_number(huge, "rate", above=0.0, hint="lower it"),
        lambda: check_number(huge, "rate", above=0.0, finite=True),
        lambda: check_number(huge, "rate", least=0.0, most=1.0),
        lambda: check_count(huge, "rate", most=9),
    ):
        with pytest.raises(SettingsError, match=r"rate must be .*, got an integer of 16610 bits"):
            check()
