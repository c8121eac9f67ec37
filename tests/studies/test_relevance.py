# mypy: no-check-untyped-defs
"""The study of what scorers prefer, on judges whose answers are known."""

import json

import numpy as np

from studies.relevance import (
    COMPONENTS,
    IRRELEVANT,
    Judge,
    Query,
    against_irrelevant,
    against_tricks,
    derangement,
    first_sentence,
    real_queries,
    reward_model,
    shared_word,
    tables,
)
from tokengym.envs import bundled
from tokengym.rewards import FunctionScorer, Relevance


def query(text, answer, query_type="OPENENDED"):
    return Query(text=text, answer=answer, query_type=query_type)


def test_nobody_meets_himself_or_another_group():
    groups = ["a", "b", "a", "a", None, "b", None]
    partners = derangement(groups, np.random.default_rng(0))
    assert sorted(partners) == list(range(7))
    for row, partner in enumerate(partners):
        assert partner != row
        assert groups[partner] == groups[row]


def test_tricks_by_hand():
    asked = query("Why is the grape sweet?", "The grape ripens. It is sweet, e.g. in May. Yes!")
    assert first_sentence(asked) == "The grape ripens."
    assert first_sentence(query("Why?", "No full stop")) == "No full stop"
    assert shared_word(asked) == "grape"  # "sweet" is as long, and later
    assert shared_word(query("Who comes?", "Nobody.")) == "comes"


def test_wins_and_ties_are_counted_within_the_type():
    queries = [
        *(query("1 + 1", "2"), query("1 + 2", "3"), query("1 + 3", "4")),
        *(query("x", "same", "CONSTRAINED"), query("y", "same", "CONSTRAINED")),
    ]
    knows = FunctionScorer(lambda prompt, answer: float(answer == {"1 + 1": "2"}.get(prompt)))
    (row,) = against_irrelevant("sums", queries, [Judge(name="knows one", scorer=knows)])
    assert row == {
        "queries": "sums",
        "scorer": "knows one",
        "components": "",
        "answer": "reference",
        "against": IRRELEVANT,
        "pairs": 5,
        "wins": 1,
        "ties": 4,
    }


def test_a_judge_of_ids_reads_its_own_tokens():
    judge = reward_model("dialogue")
    (score,) = judge.scores([query("what do i need to fly a kite ?", "")], ["you need the wind ."])
    ids = bundled("dialogue").tokenizer("you need the wind .").input_ids
    assert judge._ids("you need the wind .") == ids
    assert judge._end() == [bundled("dialogue").tokenizer.eos_token_id]
    assert np.isfinite(score)


def test_relevance_alone_prefers_the_query_and_its_length_incentive_does_not():
    scorer = Relevance.from_pretrained(bundled("question_answer").encoder, max_len=48)
    prompts = [p for p in bundled("question_answer").prompts("test") if p.query_type]
    queries = [query(p.text, p.reference, p.query_type) for p in prompts[:40]]
    rows = against_tricks("questions", queries, scorer, "encoder")
    opened = sum(q.query_type == "OPENENDED" for q in queries)
    assert {row["pairs"] for row in rows} == {opened}
    wins = {(r["components"], r["against"]): r["wins"] for r in rows if r["answer"] == "reference"}
    assert wins["r_x", "the query itself"] == 0
    assert wins["r_x LI", "the query itself"] == opened


def test_tables_by_hand():
    row = {"queries": "q", "scorer": "s", "components": "", "answer": "reference"}
    row["against"] = IRRELEVANT
    rows = [
        {**row, "pairs": 10, "wins": 8, "ties": 2},
        {**row, "scorer": "blind", "pairs": 10, "wins": 0, "ties": 10},
        *(
            {**row, "components": name, "against": "copy", "pairs": 4, "wins": 2, "ties": 0}
            for name in COMPONENTS
        ),
    ]
    made = tables(rows)
    # Wilson, 9 of 10: (.9 + .19207 -+ 1.96 sqrt(.009 + .0096036)) / 1.384146 = .596 and .982
    assert "| s | 90 % (60 % to 98 %) |" in made["relevant"]
    assert "| blind | all tied |" in made["relevant"]
    assert "| q | s | reference | copy | 50 % (15 % to 85 %) |" in made["tricks"]


def test_real_queries_are_cut_and_drawn_once(tmp_path):
    rows = [
        {"input": str(i), "output": "word " * (2 + 100 * i), "qtype": "OPENENDED"} for i in range(5)
    ]
    file = tmp_path / "queries.json"
    file.write_text(json.dumps(rows), encoding="utf-8")
    found = real_queries(file, 3)
    assert found == real_queries(file, 3)
    assert "0" not in {q.text for q in real_queries(file, 5)}  # two words are no answer
    assert max(len(q.answer.split()) for q in real_queries(file, 5)) == 200
