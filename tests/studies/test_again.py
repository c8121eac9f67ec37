"""Each page of results follows from today's code, or says in its first line that it does not."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats

from studies import again, turns
from tokengym.base import read_json
from tokengym.lab.study import DOCS, write_rows

RESTS_ON = read_json(DOCS / again.RESTS_ON)
HAVE_RUNS = {path.parent.name for path in DOCS.glob("*/*.csv")}
"""Folders of published runs."""


def current(page: str) -> bool:
    return not again.says_older(page, DOCS)


@pytest.mark.parametrize("page", sorted(path.name for path in DOCS.glob("*.md")))
def test_a_page_with_runs_is_asked_or_says_why_not(page: str) -> None:
    """One with a folder of figures of its own does one run again, or is of an older learner."""
    if (
        page.removesuffix(".md") in HAVE_RUNS
        and page not in again.NOT_AGAIN
        and page != "earlier.md"
    ):
        assert (page in again.PAGES) == current(page)


@pytest.mark.parametrize("page", again.PAGES)
def test_a_page_does_a_published_run_again_by_its_own_command(page: str) -> None:
    for words in again.commands_of(page, DOCS):
        assert words[0].startswith("studies.")
        assert "--out" in words


@pytest.mark.parametrize("page", again.PAGES)
def test_what_a_page_rests_on_has_not_changed(page: str) -> None:
    """Nothing that its learner, scorer, rule or a default gives is other than when it was recorded.

    Where this fails: `python -m studies.again --pages PAGE --record` does the page's run again and
    writes down what it rests on if that holds. If it does not, make the page's runs anew, or begin
    its first line as `again.OLDER`.
    """
    assert not again.changes(RESTS_ON[page], again.resting(page, DOCS))


def resting(**changed: Any) -> dict[str, Any]:
    return {
        "settings": {"training.kl_coef": 0.05, **changed.get("settings", {})},
        "figures": {"score, update 2": 2.0, **changed.get("figures", {})},
    }


def test_a_default_that_changes_is_seen() -> None:
    now = resting(settings={"training.kl_coef": 0.02})
    assert again.changes(resting(), now) == ["training.kl_coef was 0.05 and is 0.02"]


def test_a_setting_that_came_is_no_change() -> None:
    assert not again.changes(resting(), resting(settings={"training.new": None}))


@pytest.mark.parametrize(("figure", "is_seen"), [(2.015, False), (2.03, True), (-2.0, True)])
def test_a_learner_that_learns_otherwise_is_seen(figure: float, is_seen: bool) -> None:
    now = resting(figures={"score, update 2": figure})
    assert bool(again.changes(resting(), now)) == is_seen


def test_a_figure_that_is_no_number_is_seen() -> None:
    now = resting(figures={"score, update 2": float("nan")})
    assert again.changes(resting(), now) == ["score, update 2 was 2 and is nan"]


def test_a_figure_that_is_gone_is_seen() -> None:
    now = {**resting(), "figures": {}}
    assert again.changes(resting(), now) == ["score, update 2 was 2 and is None"]


def test_a_further_run_is_as_far_as_students_t_says() -> None:
    """By scipy's interval of a further draw: mean 3, deviation sqrt(2.5), n = 5."""
    values = [1.0, 2.0, 3.0, 4.0, 5.0]
    for level in (0.5, 0.9, 0.99):
        reach = scipy.stats.t(4).ppf((1.0 + level) / 2.0) * (2.5 * 1.2) ** 0.5
        for now in (3.0 - reach, 3.0 + reach):
            assert again.p_value(values, now) == pytest.approx(1.0 - level)
    assert again.p_value([2.0, 2.0], 2.0) == 1.0
    assert again.p_value([2.0, 2.0], 2.1) == 0.0


def test_runs_of_one_law_are_called_unlike_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    runs = rng.normal(size=(4000, 5)).tolist()
    rate = np.mean([again.p_value(others, now) < 0.05 for *others, now in runs])
    assert rate == pytest.approx(0.05, abs=0.01)


@pytest.mark.parametrize(("move", "is_outside"), [(0.0, False), (0.5, True), (-0.5, True)])
def test_a_run_done_again_is_a_seed_as_any_other_of_its_cell(
    move: float, is_outside: bool, tmp_path: Path
) -> None:
    (words,) = again.commands_of("turns.md", DOCS)
    name = words[words.index("--only") + 1]
    published = turns.STUDY.published(DOCS).runs.each
    run = next(run for run in published if repr(run) == name)
    rows = [{**row, "score": row["score"] + move} for row in published[run]]
    write_rows(turns.STUDY.file(run, tmp_path), rows)
    assert bool(again.PAGES["turns.md"].outside(DOCS, tmp_path, words)) == is_outside


def test_a_first_line_says_that_a_page_is_of_an_older_learner(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text(f"# Is it?\n\n{again.OLDER}, commit x: it was.**\n\nYes.\n")
    (tmp_path / "b.md").write_text(f"# Is it?\n\nYes.\n\n{again.OLDER}, commit x: it was.**\n")
    assert again.says_older("a.md", tmp_path)
    assert not again.says_older("b.md", tmp_path)


def test_only_a_published_run_is_done_again(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape("got 'sparse'")):
        turns.STUDY.run(tmp_path, DOCS, only="sparse")
