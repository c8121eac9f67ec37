"""Triplets of a query, an answer about the thing asked and one about another."""

import json
from pathlib import Path

import numpy as np
import pytest

from studies import relevance as study
from tokengym.lab.study import DOCS, read_rows

PUBLISHED = read_rows(DOCS / study.PUBLISHED, text=("set", "scorer", "sha256"))
TEXTS = {
    "a": ("Describe the moon over water.", "The moon is round and pale over water tonight."),
    "b": ("Describe a train in winter.", "A train is long and quick and often too late."),
    "c": ("Describe a garden in spring.", "A garden is green and full of birds."),
    "d": ("Describe the moon in spring.", "It is round."),
}


@pytest.fixture(scope="module")
def bundled() -> dict[str, list[study.Triplet]]:
    return study.bundled_triplets()


def test_published_counts_are_of_these_triplets(bundled: dict[str, list[study.Triplet]]):
    for name, triplets in bundled.items():
        rows = [row for row in PUBLISHED if row["set"] == name]
        assert {row["sha256"] for row in rows} == {study.fingerprint(triplets)}
        assert {row["triplets"] for row in rows} == {len(triplets)} == {260}
    main = {row["set"]: row["triplets"] for row in PUBLISHED if row["set"] in study.MAIN}
    assert sum(main.values()) == study.TRIPLETS


def test_the_other_answer_is_about_another_thing_and_as_long(
    bundled: dict[str, list[study.Triplet]],
):
    asked = {query.text: query for query in study.questions("test")}
    for name in ("questions", "same kind"):
        for triplet in bundled[name]:
            (thing,) = asked[triplet.query].about
            assert thing in study.words(triplet.answer)
            assert thing not in study.words(triplet.other)
        pairs = [(t.query, text) for t in bundled[name] for text in (t.answer, t.other)]
        sizes = study.length(pairs)
        assert np.abs(sizes[::2] - sizes[1::2]).mean() < 0.1
    names = set(study._names())
    for triplet in bundled["no name"]:
        assert not names & {*study.words(triplet.answer), *study.words(triplet.other)}


def test_typed_queries_give_the_nearest_answer_about_something_else(tmp_path: Path):
    rows = [
        {"input": query, "output": answer, "qtype": "OPENENDED"} for query, answer in TEXTS.values()
    ]
    rows.append(
        {"input": "Fix it.\n\n### Input:\nA b.", "output": "a b c d e", "qtype": "OPENENDED"}
    )
    file = tmp_path / "queries.json"
    file.write_text(json.dumps(rows), encoding="utf-8")
    found = {
        kind: {triplet.query: triplet.other for triplet in triplets}
        for kind, triplets in study.typed_triplets(file, 9).items()
    }
    query, answer = zip(*TEXTS.values(), strict=True)
    assert query[3] not in found["typed"]  # its answer is too short
    assert found["typed"][query[0]] == answer[1]  # nearer in length than the garden's
    assert query[0] not in found["shared word"]
    assert len(found["typed"]) == 3


def test_counts_of_words_are_worked_by_hand():
    pairs = [("tell about the moon", "the moon"), ("tell about the moon", "trees")]
    assert study.shared_words(pairs).tolist() == [1.0, 0.0]  # "tell" and "about" say nothing
    one, other = study.bag_of_words(pairs)
    assert one > other == 0.0
    assert study.length(pairs).tolist() == [2.0, 1.0]


def test_accuracy_counts_a_tie_as_a_half_and_the_table_pools_the_paper_s_sets():
    rows = [
        {"set": kind, "scorer": "length in words", "triplets": 10, "wins": wins, "ties": ties}
        for kind, wins, ties in (("questions", 4, 2), ("typed", 9, 0))
    ]
    line = study.table(rows).splitlines()[2].split(" | ")
    assert line[1].startswith("70.0% (")
    assert [cell.split(" ")[0] for cell in line[2:4]] == ["50.0%", "90.0%"]
    assert line[4] == "\N{EN DASH}"
    assert study.table(rows).splitlines()[0].split(" | ")[1] == "the 20 triplets"
