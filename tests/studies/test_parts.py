"""What pages tell of runs, by hand."""

import pytest

from studies.parts import by_seed, lead, leads, speed
from tokengym.lab.protocol import PRICE
from tokengym.lab.study import Cell, Row, Runs

ARM, BASE = Cell(rule="abc", length=48), Cell(rule="sparse", length=48)
DRAWN = [{"length": 48, "n": n, "score": score, "kl": 0.0} for n, score in ((1, 0.0), (16, 2.0))]


def run(cell: Cell, seed: int, scores: list[float], kl: float) -> list[Row]:
    """Return a run measured after every update of 100 tokens; gold is half of the score."""
    about = {**cell, "seed": seed, "kl": kl}
    return [
        {**about, "step": step, "tokens": 100 * step, "score": score, "gold_score": score / 2}
        for step, score in enumerate(scores)
    ]


def two_pairs() -> Runs:
    rows = [
        row
        for seed in (0, 1)
        for row in (
            *run(ARM, seed, [0.0, 3.0 + seed, 3.0 + seed], kl=2.0),
            *run(BASE, seed, [0.0, 1.0, 2.0], kl=4.0),
        )
    ]
    return Runs(rows, ("rule", "length"))


def test_a_lead_and_its_parts() -> None:
    """Straight lines: 0, 3, 3 and 0, 4, 4 have means of 2.25 and 3; 0, 1, 2 has 1."""
    own, base = (two_pairs().runs[cell] for cell in (ARM, BASE))
    assert by_seed(own, "score") == pytest.approx({0: 2.25, 1: 3.0})
    assert by_seed(own) == pytest.approx({0: 2.25 - PRICE * 2, 1: 3.0 - PRICE * 2})
    assert by_seed(base, kind="final") == pytest.approx({0: 1.8, 1: 1.8})
    found = lead(own, base, "score")
    assert (found.difference, found.pairs) == pytest.approx((1.625, 2))
    assert lead(own, base).difference == pytest.approx(1.625 + PRICE * 2)


def test_leads_are_told_in_one_order_with_the_price_of_kl_in_the_first() -> None:
    """Gold is half of the score, in the last tenth 1.5 or 2 where the baseline has 1."""
    own, base = (two_pairs().runs[cell] for cell in (ARM, BASE))
    net, gold, score, kl = leads({"arm": (own, base)}, ends=())["arm"]
    assert (net, gold, score, kl) == ("+1.72", "+0.750", "+1.62", "\N{MINUS SIGN}2.00")
    with_ends = leads({"arm": (own, base)})["arm"]
    assert with_ends[0].startswith("+1.72 (")
    assert with_ends[1:] == [gold, score, kl]


def test_speed_is_the_ratio_of_areas_with_gold_and_kl_where_it_is_read() -> None:
    """To 1.5 of a way of 2: the areas are 0.75 and 1 + 0.25, over 1.5 at 0.5 and 0.833 updates."""
    own = {seed: run(ARM, seed, [0.0, 2.0, 2.0], kl=3.0) for seed in (0, 1, 2)}
    base = {seed: run(BASE, seed, [0.0, 1.0, 2.0], kl=4.0) for seed in (0, 1, 2)}
    times, gold, kl = speed(own, base)
    assert kl == "3.00, 4.00"
    assert times == "**1.67** (1.67 to 1.67)"
    assert gold == "0.500, 0.417"
    assert speed(base, {0: run(ARM, 0, [2.0, 1.0, 0.0], 1.0)})[0] == "\N{EN DASH}"
