"""Preferences that people give."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tokengym.lab.label import Labels
from tokengym.rewards import read_pairs
from tokengym.scripts.cli import main

ROWS = [{"prompt": f"film {i}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(4)]


def labels(folder: Path, who: str = "ann", **settings: Any) -> Labels:
    return Labels(read_pairs(ROWS), folder, who=who, **settings)


def answer_all(of: Labels, better: Any) -> None:
    for question in of.waiting():
        of.answer(question, better(question))


def test_every_pair_is_asked_in_both_orders_and_none_again_before_all(tmp_path: Path):
    questions = labels(tmp_path).questions
    assert {q.pair for q in questions[:4]} == {q.pair for q in questions[4:]} == {0, 1, 2, 3}
    orders: dict[int, list[str]] = {}
    for question in questions:
        orders.setdefault(question.pair, []).append(question.first)
    assert all(sorted(sides) == ["chosen", "rejected"] for sides in orders.values())
    assert len(labels(tmp_path, once=True).questions) == 4


def test_answers_outlive_the_session_and_can_be_undone(tmp_path: Path):
    first = labels(tmp_path)
    asked = first.waiting()[0]
    first.answer(asked, "chosen")
    again = labels(tmp_path)
    assert again.waiting() == first.questions[1:]
    assert labels(tmp_path, "bob").waiting() == labels(tmp_path, "bob").questions
    assert not labels(tmp_path, "bob").undo()
    assert again.undo()
    assert labels(tmp_path).waiting()[0] == asked
    with pytest.raises(ValueError, match=r"other pairs.*--out"):
        Labels(read_pairs(ROWS[:2]), tmp_path, who="ann")


def test_two_people_at_once_keep_each_others_answers(tmp_path: Path):
    ann, bob = labels(tmp_path), labels(tmp_path, "bob")
    for of in (ann, bob, ann, bob):
        of.answer(of.waiting()[0], "chosen")
    assert ann.undo()
    stored = labels(tmp_path)
    assert [answer.who for answer in stored.answers].count("ann") == 1
    assert [answer.who for answer in stored.answers].count("bob") == 2


def test_only_what_is_preferred_in_both_orders_is_kept(tmp_path: Path):
    def better(question: Any) -> str | None:
        says = {0: "chosen", 1: "rejected", 2: question.first, 3: None}
        return says[question.pair]

    ann = labels(tmp_path)
    answer_all(ann, better)
    assert ann.preferences("ann") == {0: "chosen", 1: "rejected"}
    kept = read_pairs(str(tmp_path / "pairs.jsonl"))
    assert [(p.prompt, p.chosen, p.rejected) for p in kept] == [
        ("film 0", "good 0", "bad 0"),
        ("film 1", "bad 1", "good 1"),
    ]
    said = dict(ann.report())
    assert said["the same in both orders"].startswith("2 of 3 (")
    assert said["the first shown"].startswith("4 of 6 (")
    assert said["as in the file"].startswith("1 of 2 (")


def test_people_who_disagree_cancel_out(tmp_path: Path):
    answer_all(labels(tmp_path), lambda question: "chosen")
    bob = labels(tmp_path, "bob")
    answer_all(bob, lambda question: "chosen" if question.pair else "rejected")
    assert [pair.prompt for pair in bob.kept()] == ["film 1", "film 2", "film 3"]
    assert dict(bob.report())["as ann"].startswith("3 of 4 (")


def test_everyone_is_judged_by_what_they_were_asked(tmp_path: Path):
    ann = labels(tmp_path, once=True)
    answer_all(ann, lambda question: "chosen")
    assert len(ann.kept()) == 4
    bob = labels(tmp_path, "bob")
    bob.answer(bob.waiting()[0], "rejected")  # one order of the two
    kept = read_pairs(str(tmp_path / "pairs.jsonl"))
    assert [pair.chosen for pair in kept] == [f"good {i}" for i in range(4)]
    ann = labels(tmp_path, once=True)
    assert ann.preferences("bob") == {}
    labels(tmp_path).write()  # ann is asked both orders from now on
    assert labels(tmp_path, "bob").kept() == []


def test_the_command_asks_and_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    hostile = {**ROWS[1], "prompt": "[red]\x1b[31mfilm"}
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, [ROWS[0], hostile])))
    said: Iterator[str] = iter(["x", "a", "u", "u", "a", "b", "q"])
    monkeypatch.setattr("builtins.input", lambda *_: next(said))
    assert main(["label", "rows.jsonl", "--who", "ann"]) == 0
    shown = capsys.readouterr().out
    assert "nothing to undo" in shown
    assert "[red]␛[31mfilm" in shown
    assert "0 of 2 pairs" in shown
    said = iter(["s", "s"])
    assert main(["label", "rows.jsonl", "--who", "ann"]) == 0
    assert "[3/4]" in capsys.readouterr().out
    answers = json.loads(Path("runs/labels/answers.json").read_text())["answers"]
    assert [answer["better"] is None for answer in answers] == [False, False, True, True]


def test_without_a_terminal_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def nobody(*_: object) -> str:
        raise EOFError

    (tmp_path / "rows.jsonl").write_text(json.dumps(ROWS[0]))
    monkeypatch.setattr("builtins.input", nobody)
    assert main(["label", str(tmp_path / "rows.jsonl"), "--out", str(tmp_path / "out")]) == 0
