"""Which queries are misjudged: forms, readings, and the counts of both."""

import json
from pathlib import Path

import numpy as np
import pytest

from studies import query_types as study
from tokengym.lab.makers.bundles.query_types import HELD_OUT, fit

WITH_TEXT = "Fix the sentence.\n\n### Input:\nHe go home?"


def test_a_query_has_a_form_by_its_instruction_alone():
    assert not study.is_question(WITH_TEXT)
    assert study.is_question("Tell me, is it so?")
    assert study.is_question("how do bees fly")
    assert not study.is_question("Island names, please")  # no word of a question begins it
    assert study.asks_a_number("Give me 10 tips for sleeping.")
    assert not study.asks_a_number("Say why so many people like the number three.")
    assert not study.asks_a_number("What are three tips for sleeping?")
    assert study.without_its_text(WITH_TEXT) == "Fix the sentence. #"
    assert study.without_its_text("Sing.") == "Sing."
    assert study.with_one_number("Name two or 12 of One.") == "Name several or several of One."


def test_what_was_held_out_is_not_trained_on(tmp_path: Path):
    rows = [
        {"input": f"query {i}", "qtype": ("OPENENDED", "CONSTRAINED")[i % 2]} for i in range(450)
    ]
    file = tmp_path / "queries.json"
    file.write_text(json.dumps(rows), encoding="utf-8")
    held_out, trained = study.queries_of(file)
    assert (len(held_out), len(trained)) == (HELD_OUT, 50)
    assert not {text for text, _ in held_out} & {text for text, _ in trained}


def test_counts_by_form_and_by_the_last_mark():
    queries = [("Why?", True), ("Name two colours.", False), ("Sing.", False), (WITH_TEXT, True)]
    rows = study.by_form(queries, np.array([True, True, False, False]))
    found = {row["name"]: row for row in rows}
    assert found["all"]["right"] == 2
    assert found["questions"] | {"queries": 1, "right": 1} == found["questions"]
    assert found["of these, for a number of things"]["open_called_constrained"] == 1
    assert found["of these, with a text of their own"]["right"] == 0
    weights = fit([("name it .", True), ("name it", False)] * 4)
    moved = study.end_marks([("name it.", True), ("name it", True), (WITH_TEXT, True)], weights)
    assert (moved["queries"], moved["right"]) == (2, 2)


def test_folds_judge_queries_that_they_were_not_trained_on(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(study, "bundled_queries", list)
    alike = [("name the colour", True), ("tell a story", False)] * 8
    assert study.cross_validated(alike, str).all()
    assert not study.cross_validated([(f"{i}" * 9, i % 2 == 0) for i in range(8)], str).all()
