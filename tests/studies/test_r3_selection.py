# mypy: no-check-untyped-defs
"""The best of n answers: by parts that were scored once, as the rewards themselves would pick."""

import pytest

from studies import r3_selection
from studies.r3_selection import RULES, SIZES, select, table
from studies.relevance import COMPONENTS
from tokengym.envs import Episode, bundled
from tokengym.rewards import Relevance

QUESTION = "tell me about france ."


def episode(response, relevance, incentive, penalty=1.0):
    parts = {
        "relevance_query": relevance,
        "length_incentive": incentive,
        "repetition_penalty": penalty,
    }
    return Episode(
        prompt=QUESTION, response=response, prompt_ids=[3], response_ids=[4], score_parts=parts
    )


def test_each_rule_picks_its_own():
    answers = [
        episode("so it is .", 1.0, 0.1),
        episode(QUESTION, 3.0, 0.05),
        episode("families in france cook bread on holidays .", 2.0, 0.2, 0.5),
        episode("france france france france", 2.5, 0.04, 0.9),
    ]
    rows = {(row["reward"], row["n"]): row for row in select("copying", [answers])}
    assert len(rows) == len(RULES) * len(SIZES)
    picked = {name: rows[name, 4]["relevance_query"] for name in RULES}
    # r_x LI: .1 .15 .4 .1;  r_x RP: 1 3 1 2.25;  r_x LI RP: .1 .15 .2 .09
    assert picked == {"relevance": 3.0, "relevance x LI": 2.0, "relevance x RP": 3.0, "R3": 2.0}
    assert rows["relevance", 4]["copies"] == 1.0
    assert rows["R3", 4]["clean_sentences"] == 1
    assert {rows[name, 1]["relevance_query"] for name in RULES} == {1.0}
    text = table(list(rows.values()), "copying")  # 64 of 4 are all 4
    assert "| best of 64 by relevance | 1.00 (1.00 to 1.00) |" in text


def test_every_question_has_the_same_number_of_answers(monkeypatch):
    monkeypatch.setattr(r3_selection, "SAMPLES", 16)
    monkeypatch.setattr(r3_selection, "QUESTIONS", {"copying": 5})
    answers = r3_selection.sample("copying", bundled("question_answer").policy, None)
    assert [len(group) for group in answers] == [16] * 5


@pytest.mark.parametrize(
    ("rule", "components"),
    [
        ("relevance", "r_x"),
        ("relevance x LI", "r_x LI"),
        ("relevance x RP", "r_x RP"),
        ("R3", "r_x LI RP"),
    ],
)
def test_rules_are_the_scorer_with_components_left_out(rule, components):
    scorer = Relevance.from_pretrained(bundled("question_answer").encoder, max_len=48)
    answers = [
        Episode(prompt=QUESTION, response=text, prompt_ids=[3], response_ids=[4])
        for text in ("france is warm .", "france france france france", QUESTION)
    ]
    scores = scorer.with_components(**COMPONENTS[components]).score(answers)
    for row, value in enumerate(scores.values):
        parts = {name: float(part[row]) for name, part in scores.parts.items()}
        assert RULES[rule](parts) == pytest.approx(float(value), rel=1e-5)
