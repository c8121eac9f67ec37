"""The split holds things out of training; gains are those of the groups, by hand."""

from pathlib import Path
from typing import Any

from tokengym.envs.bundle import Bundle
from tokengym.scripts.studies import entities as study


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


def rows(golds: dict[tuple[str, int], tuple[float, float]]) -> list[dict[str, Any]]:
    """Return published rows: (group, seed) -> gold before and after."""
    return [
        {"rule": "r3-dense", "seed": float(seed), "step": step, "group": group, "gold_score": gold}
        for (group, seed), ends in golds.items()
        for step, gold in zip((15.0, 0.0), reversed(ends), strict=True)
    ]


def test_the_leak_is_the_gain_on_known_things_minus_that_on_new_ones() -> None:
    golds = {
        ("known", 0): (0.1, 0.4),
        ("new", 0): (0.2, 0.4),
        ("known", 1): (0.1, 0.6),
        ("new", 1): (0.1, 0.4),
    }
    (line,) = study.table(rows(golds)).splitlines()[2:]
    assert line.startswith("| `r3-dense` | 2 | 0.100 to 0.500 | 0.400 (")
    assert "| 0.150 to 0.400 | 0.250 (" in line
    # .1 and .2: mean .15, standard error .05, t of one degree 12.7.
    assert line.endswith("| +0.150 (\u22120.485 to 0.785), 2/2 |")


def test_one_seed_makes_no_line() -> None:
    one = {("known", 0): (0.1, 0.4), ("new", 0): (0.2, 0.4)}
    assert len(study.table(rows(one)).splitlines()) == 2
