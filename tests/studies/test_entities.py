"""The split holds things out of training; the text quotes its table."""

import re
from pathlib import Path
from typing import Any

import pytest

from studies import entities as study
from tokengym.base.bundle import Bundle
from tokengym.lab.tables import NOT_YET


def test_no_training_question_asks_about_what_is_held_out(tmp_path: Path) -> None:
    about, without = study.asked_about(), study.held_out(0)
    assert len(without) == 24
    bundle = Bundle(study.split(0, tmp_path))
    asked = {about[prompt.text] for prompt in bundle.prompts("train")}
    assert asked
    assert not asked & without
    test = [about[prompt.text] for prompt in bundle.prompts("test")]
    assert len(test) == study.TEST_QUESTIONS
    assert without <= set(about.values())
    assert {name in without for name in test} == {True, False}
    assert bundle.has("gold")  # which knows the questions by their words


def test_another_seed_holds_other_things_out() -> None:
    assert study.held_out(0) != study.held_out(1)
    assert study.held_out(0) == study.held_out(0)


def rows(golds: dict[tuple[str, int], float]) -> list[dict[str, Any]]:
    """Return published rows: (group, seed) -> gold at the end; single responses began at 0.9."""
    return [
        {"rule": "r3-dense", "seed": float(seed), "step": step, "group": group, "gold_score": gold}
        for (group, seed), end in golds.items()
        for step, gold in ((15.0, end), (0.0, 0.9))
    ]


def start() -> list[dict[str, Any]]:
    """Return gold before training: 0.1, and 0.2 for what seed 0 holds out."""
    about, without = study.asked_about(), study.held_out(0)
    return [
        {"question": question, "gold_score": 0.2 if name in without else 0.1}
        for question, name in about.items()
    ]


def test_the_untrained_gold_is_that_of_the_groups_questions() -> None:
    assert study.before(start(), 0) == pytest.approx({"known": 0.1, "new": 0.2})
    other = study.before(start(), 1)
    assert 0.1 < other["known"] < 0.2


def test_one_seed_makes_no_line() -> None:
    one = {("known", 0): 0.4, ("new", 0): 0.4}
    assert study.table(rows(one), start()) == NOT_YET


def test_the_text_quotes_the_table() -> None:
    docs = Path(__file__).parents[2] / "docs" / "results"
    text = (docs / "rewards.md").read_text(encoding="utf-8")
    line, sparse = (line for line in text.splitlines() if re.match(r"\| `[a-z3-]+` \| 5 \|", line))
    outside = "\n".join(line for line in text.splitlines() if not line.startswith("|"))
    _, _, known, gain, new, gain_on_new, _ = (cell.strip() for cell in line.split("|")[1:-1])
    quoted = [*known.split(" to "), gain.split()[0], *new.split(" to "), gain_on_new.split()[0]]
    quoted += [sparse.split("|")[column].split()[0] for column in (4, 6)]
    assert [figure for figure in quoted if figure not in outside] == []
    leak = 1 - float(gain_on_new.split()[0]) / float(gain.split()[0])
    assert leak == pytest.approx(2 / 3, abs=0.05)  # "two thirds"
