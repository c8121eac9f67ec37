"""Tables of the studies, and their place in a document."""

from dataclasses import replace

import pytest

from tokengym.evaluation.statistics import PairedDifference, paired_difference
from tokengym.lab.tables import (
    after_holm,
    difference,
    fill,
    markdown_table,
    share_of,
    with_interval,
)


def test_figures_are_written_with_their_intervals():
    assert with_interval({"mean": 1.234, "low": -0.5, "high": 2.0}) == "1.23 (\u22120.500 to 2.00)"
    clear = PairedDifference(
        difference=0.2, low=0.1, high=0.3, level=0.95, p_value=0.01, wins=9, ties=0, pairs=10
    )
    assert difference(clear) == "**+0.200** (0.100 to 0.300), 9/10"
    assert difference(replace(clear, low=-0.1)) == "+0.200 (\u22120.100 to 0.300), 9/10"
    assert difference(None) == "\u2013"


def test_of_two_differences_that_are_clear_alone_correction_leaves_the_clearer_one():
    far = paired_difference([1.0, 1.2, 0.9, 1.1], [0.0] * 4)
    near = paired_difference([1.0, 2.0, 0.2, 2.2], [0.0] * 4)
    assert far.p_value < 0.025 < near.p_value < 0.1
    shown = after_holm({"far": far, "near": near})
    assert list(shown) == ["far", "near"]
    assert shown["far"].startswith("**+1.05** (")
    assert shown["far"].endswith("), 4/4")
    assert shown["near"].startswith("+1.35 (")
    assert after_holm({"far": far}, with_wins=False)["far"].endswith(")")
    assert after_holm({}) == {}


def test_a_difference_and_its_mirror_image_are_one_test():
    one, other = [1.0, 2.0, 0.5, 1.6], [0.0] * 4
    ahead, behind = paired_difference(one, other), paired_difference(other, one)
    assert 0.025 < ahead.p_value < 0.05  # clear as one test of one, not as one of two
    shown = after_holm({"ahead": ahead, "behind": behind})
    assert shown["ahead"].startswith("**+1.27** (")
    assert shown["behind"].startswith("**\u22121.27** (")


def test_a_table_takes_its_place_and_nothing_else(tmp_path):
    page = tmp_path / "page.md"
    rest = "between\n<!-- b -->\n<!-- end b -->\n"
    page.write_text(f"before\n<!-- a -->\nold\n<!-- end a -->\n{rest}")
    table = markdown_table(["x"], [["\\1"]])  # no reference to a group
    fill(page, {"a": table})
    fill(page, {"a": table})
    assert page.read_text() == f"before\n<!-- a -->\n| x |\n|---|\n| \\1 |\n<!-- end a -->\n{rest}"
    with pytest.raises(ValueError, match=r"page\.md.*'c'.*<!--"):
        fill(page, {"c": table})


def test_shares_have_wilsons_interval() -> None:
    assert share_of(8, 10) == "80.0% (49.0% to 94.3%)"  # Wilson 1927, by hand: .4902 to .9433
    assert share_of(0, 0) == ""
