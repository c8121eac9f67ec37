"""The grid's tables, on curves made so that the answer is known."""

import numpy as np
import pytest

from studies.grid_tables import (
    differences_table,
    paired_settings,
    rules_table,
    share_ratio,
    shares_table,
    steps_table,
)
from tokengym.evaluation.report.curves import Curve, Panel, make_panels

STEPS = np.arange(0.0, 31.0, 3.0)


def panel(seeds: int = 4, *, height: float = 1.0, kl: float = 10.0) -> Panel:
    """Abc rises twice as fast as sparse, to ``height`` times its end, at ``kl`` against 20."""
    curves = []
    for seed in range(seeds):
        for credit, speed, top, price in (("sparse", 1.0, 1.0, 20.0), ("abc", 2.0, height, kl)):
            rise = np.minimum(STEPS * speed / 30.0, 1.0)
            values = {"score": 3.0 * top * rise, "kl": price * rise}
            curves.append(Curve(credit=credit, seed=seed, steps=STEPS, values=values))
    (made,) = make_panels(curves, kl_coef=0.05)
    return made


def rows(table: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]
    ]


def test_twice_as_fast_is_half_the_steps():
    made = {"8 tokens": panel(10), "16 tokens": panel(4)}
    table = steps_table(made)
    assert table.splitlines()[0] == "| rule | 8 tokens | 16 tokens |"
    assert rows(table) == [["abc", "0.50 (0.50 to 0.50)", "0.50 (0.50 to 0.50), 4 pairs"]]
    (shares,) = rows(shares_table(paired_settings({"cell": panel()})))
    assert shares[1:] == ["0.50 (0.50 to 0.50)"] * 3


def test_what_never_arrives_by_score_may_by_score_less_kl():
    made = {"cell": panel(10, height=0.9, kl=2.0)}
    assert rows(steps_table(made)) == [["abc", "not reached"]]
    # sparse ends at (3 - 1) * .95; abc goes (2.7 - .1) * s / 15:  s = 1.9 * 15 / 2.6, of 28.5
    ((_, found),) = rows(steps_table(made, "net_score"))
    assert found.startswith(f"{1.9 * 15 / 2.6 / 28.5:.2f} (")


def test_what_was_not_measured_is_no_figure():
    assert rows(steps_table({"cell": panel(10)}, "gold_score")) == [["abc", "n/a"]]


def test_cells_of_too_few_pairs_are_left_out():
    assert rows(steps_table({"cell": panel(2)})) == rows(rules_table({"cell": panel(2)})) == []
    assert paired_settings({"cell": panel(2)}) == {}


def test_differences_are_the_rule_less_sparse():
    (row,) = rows(differences_table(paired_settings({"as it is": panel()})))
    assert row[0] == "as it is"
    # areas: sparse 1.5, abc 3 * (.5 * 15 + 15) / 30 = 2.25
    assert row[1].startswith("**+0.750** (0.750 to 0.750), 4/4")
    assert row[3] == "\u2013"  # no gold score
    # at the last two of eleven points, 10 each, less 18 and 20
    assert row[4].startswith("**\u22129.00**")


def test_shares_of_a_gain():
    runs = paired_settings({"cell": panel()})["cell"]
    x, y = runs.curves("score")
    assert share_ratio(STEPS, x, y, 0.5) == "0.50 (0.50 to 0.50)"
    assert share_ratio(STEPS, 0.4 * x, y, 0.5) == "not reached"
    assert float(share_ratio(STEPS, y, y, 0.9).split()[0]) == pytest.approx(1.0)
