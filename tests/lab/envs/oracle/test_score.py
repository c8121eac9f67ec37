"""The Oracle's rules, each by hand, alone and together."""

from typing import Any

import pytest

from tokengym.lab.envs.oracle.gold import OracleRules
from tokengym.lab.envs.oracle.score import (
    RULES,
    WORDS,
    oracle_score,
    oracle_text_score,
    removal_effects,
)


@pytest.mark.parametrize(
    ("words", "rules", "score"),
    [
        ("", RULES, 0.0),
        ("good bad the not but film good", (), 1.5),
        ("not good", ("negation",), -1.0),
        ("not bad", ("negation",), 0.5),
        ("not not good", ("negation",), 1.0),
        ("not the good", ("negation",), 1.0),  # only the opinion right behind it
        ("not good good", ("negation",), 0.0),
        ("good not", ("negation",), 1.0),
        ("bad but good", ("selection",), 1.0),
        ("good but good but the", ("selection",), 0.0),
        ("good film", ("order",), 0.0),
        ("film good bad", ("order",), 0.5),
        ("good film but good", ("order", "selection"), 1.0),  # a film stays named
        ("film good but not bad the good", RULES, 1.5),
        ("film not but good", RULES, 1.0),  # "but" stands between
        ("unheard film words good", RULES, 1.0),
    ],
)
def test_by_hand(words: str, rules: tuple[str, ...], score: float) -> None:
    assert oracle_score(words.split(), rules) == score  # type: ignore[arg-type]
    assert oracle_text_score("any", words, rules=rules) == score  # type: ignore[arg-type]


def test_without_rules_order_and_neighbours_do_not_matter() -> None:
    words = [*WORDS, "good", "not"]
    assert oracle_score(words, ()) == oracle_score(words[::-1], ()) == 1.5
    assert oracle_score(words) != oracle_score(words[::-1])


@pytest.mark.parametrize(
    ("words", "rules", "effects"),
    [
        ("", RULES, []),
        ("good the bad", (), [1.0, 0.0, -0.5]),
        # Without "film" nothing counts; the second "good" loses what "but" took from the first.
        ("film good but good", RULES, [1.0, 0.0, -1.0, 1.0]),
        ("film not bad", RULES, [0.5, 1.0, 0.5]),
        ("film film good", RULES, [0.0, 0.0, 1.0]),  # one of them is enough
        ("good film", RULES, [0.0, 0.0]),
    ],
)
def test_what_each_word_has_to_do_with_it(
    words: str, rules: tuple[Any, ...], effects: list[float]
) -> None:
    assert removal_effects(words.split(), rules) == effects


def test_the_oracles_gold_is_its_score_by_the_rules_that_hold():
    words = "good film not bad".split()
    assert OracleRules().parts(["the"], words) == {"opinions": 0.5}
    assert OracleRules(rules=["negation"]).parts(["the"], words) == {"opinions": 1.5}
    with pytest.raises(ValueError, match=r"rules.*got 'oder'"):
        OracleRules(rules=["oder"])  # type: ignore[list-item]
