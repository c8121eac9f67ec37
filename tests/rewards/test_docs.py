# mypy: no-check-untyped-defs
"""The page on credit speaks of every rule, and says of each what its class declares."""

import re
from pathlib import Path

import pytest

from tokengym.rewards import registered_rewards
from tokengym.rewards.credits.base import REWARDS

PAGE = Path(__file__).parents[2] / "docs" / "rewards" / "credits.md"
NAMES = [
    *("sparse", "uniform", "abc", "abc-signed", "abc-d", "abc-d2", "red", "scar", "attribution"),
    *("r3", "r3-dense", "random", "recency", "mc", "pure", "rto"),
]


def rows():
    found = re.findall(r"^\| `([\w-]+)` \|(.*)\|$", PAGE.read_text(encoding="utf-8"), re.M)
    return {name: [cell.strip() for cell in line.split(" | ")] for name, line in found[::-1]}


def test_every_rule_has_its_row():
    assert set(NAMES) <= set(rows())
    assert set(NAMES) <= set(registered_rewards())


@pytest.mark.parametrize("name", NAMES)
def test_the_row_says_what_the_class_declares(name):
    credit = REWARDS[name].factory()
    _, _, causal, beta, *_ = rows()[name]
    assert causal == ("yes" if credit.causal else "no")
    default = getattr(credit, "beta", None)
    if name != "recency":
        assert beta == ("-" if default is None else f"{default:g}")
