"""Stored responses scored again: differences by hand, clustered by prompt, and their file."""

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import t

from tests.support.lab.replay import replay_of
from tokengym.envs import Episode, bundled
from tokengym.lab.replay.page import render_replay
from tokengym.lab.replay.replay import Replay, Scored
from tokengym.lab.replay.rescoring import clustered, scores_by_name, scorings, write_scores
from tokengym.scripts.cli import main


def scored(
    prompts: Sequence[int], stored: Sequence[float], *scores: Sequence[float], name: str = "judge"
) -> Replay:
    """Return a replay of responses to prompts of one token, scored by rules "r0", "r1", ..."""
    rules = {f"r{index}": np.array(row, dtype=float) for index, row in enumerate(scores)}
    episodes = [
        Episode(prompt=f"p{p}", response="=a", prompt_ids=(p,), response_ids=(5,)) for p in prompts
    ]
    one = replay_of(episodes[0], ["a"], {rule: [1.0] for rule in rules}, 1.0)
    return replace(
        one,
        episodes=tuple(episodes),
        tokens=(("a",),) * len(episodes),
        credits={rule: (np.ones(1),) * len(episodes) for rule in rules},
        scores=rules,
        scorers={rule: f"{name}{index}" for index, rule in enumerate(rules)},
        read=Scored(episodes=tuple(episodes), scores=rules, stored=np.array(stored, dtype=float)),
        numbers=tuple(range(len(episodes))),
    )


def test_the_difference_is_of_responses_and_its_error_of_prompts():
    prompts, stored, new = [1, 1, 1, 2, 3], [1.0, 0.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0, 2.0]
    first, second = scorings(scored(prompts, stored, new))
    assert (first.name, first.mean, first.difference, first.higher) == ("stored", 0.6, 0.0, 0)
    d = np.subtract(new, stored)
    sums = np.array([(d[:3] - d.mean()).sum(), d[3] - d.mean(), d[4] - d.mean()])
    error = np.sqrt(3 / 2 * (sums**2).sum()) / 5
    half = t.ppf(0.975, 2) * error
    assert (second.name, second.higher, second.lower) == ("judge0", 1, 2)
    assert (second.mean, second.difference) == pytest.approx((0.6, 0.0))
    assert (second.low, second.high) == pytest.approx((-half, half), rel=1e-12)
    # One response a prompt: Student's interval of the differences themselves.
    alone = scorings(scored(range(5), stored, new))[1]
    half = t.ppf(0.975, 4) * d.std(ddof=1) / np.sqrt(5)
    assert (alone.low, alone.high) == pytest.approx((-half, half), rel=1e-12)


def test_copies_of_a_response_do_not_make_a_difference_surer():
    x = np.array([0.0, 1.0, 4.0])
    copied = clustered([0, 1, 2] * 4, np.tile(x, 4))
    np.testing.assert_allclose(copied, clustered([0, 1, 2], x), rtol=1e-12)
    np.testing.assert_allclose(copied, x, rtol=1e-12)


def test_each_set_of_scores_stands_once():
    stored, new = [1.0, 0.0], [0.0, 0.0]
    assert [*scores_by_name(scored([1, 2], stored, stored, new, new))] == ["stored", "judge1"]
    assert scorings(scored([1, 2], stored, stored)) == []
    # Scores of another batch differ in the last bits.
    assert scorings(scored([1, 2], stored, [1.0 + 1e-6, 0.0])) == []
    # What was stored of some responses alone is compared with nothing.
    unknown = scored([1, 2], [1.0, np.nan], stored, new)
    assert [*scores_by_name(unknown)] == ["judge0", "judge1"]
    alike = replace(unknown, scorers=dict.fromkeys(unknown.scorers, "judge"))
    assert [*scores_by_name(alike)] == ["r0", "r1"]


def test_the_file_has_a_row_for_each_response(tmp_path: Path):
    write_scores(tmp_path / "scores.csv", scored([1, 2], [1.0, 0.0], [0.0, 0.5]))
    with (tmp_path / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [*rows[0]] == ["episode", "prompt", "response", "stored", "judge0"]
    assert [float(row["judge0"]) for row in rows] == [0.0, 0.5]
    assert rows[0]["response"] == "'=a"  # a spreadsheet would run it


def test_two_verifiers_of_a_file_score_another_trainer_s_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    texts = [("i saw", "a dull film", "dull", 0.0), ("the plot was", "great", "slow", 1.0)]
    rows = [{"input": p, "output": r, "gts": g, "score": s} for p, r, g, s in texts]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("verifier.py").write_text(
        "def loose(response, gts):\n    return float(gts in response.split())\n"
        "def strict(response, reference):\n    return float(response.split()[-1] == reference)\n"
    )
    rewards = ["--rewards", "verifier.py:loose", "verifier.py:strict"]
    words = ["replay", "--episodes", "rows.jsonl", "--out", "out", *rewards]
    assert main([*words, "--tokenizer", str(bundled("movie_review").tokenizer.name_or_path)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "Scores of the same 2 responses; intervals over 2 prompts" in printed
    assert "stored 0.500 loose 0.500 0.000 \u221212.7 to 12.7 1 1 strict 0.000" in printed
    with Path("out/scores.csv").open(newline="") as file:
        found = [(r["stored"], r["loose"], r["strict"]) for r in csv.DictReader(file)]
    assert found == [("0", "1", "0"), ("1", "0", "0")]


def test_columns_of_the_file_keep_their_names(tmp_path: Path):
    result = scored([1, 2], [1.0, 0.0], [0.0, 0.5], [0.0, 0.25], [0.0, 0.75], [0.5, 0.5])
    names = ["response", "prompt", "episode", "stored"]
    result = replace(result, scorers=dict(zip(result.scorers, names, strict=True)))
    write_scores(tmp_path / "scores.csv", result)
    with (tmp_path / "scores.csv").open(newline="") as file:
        _, row = csv.DictReader(file)
    assert [row[name] for name in ("episode", "prompt", "response", "stored")] == [
        *("1", "p2", "'=a", "0")
    ]
    others = [row[f"{name} (scorer)"] for name in names[:3]]
    assert [*others, row["r3"]] == ["0.5", "0.25", "0.75", "0.5"]
    # Where nothing was stored, a scorer of that name is not taken for what was.
    unknown = scored([1, 2], [1.0, np.nan], [0.0, 0.5])
    assert [*scores_by_name(replace(unknown, scorers={"r0": "stored"}))] == ["stored (scorer)"]
    # The name of a rule that is another scorer's.
    twice = scored([1, 2], [1.0, np.nan], [0.0, 0.5], [0.0, 0.25], [0.0, 0.75])
    scorers = {"r0": "judge", "r1": "judge", "r2": "r0"}
    assert [*scores_by_name(replace(twice, scorers=scorers))] == ["r0", "r1", "r0 (scorer)"]


def test_a_response_without_a_score_keeps_its_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    texts, stored = ["one", "two", "three", "four", "five", "six"], [1, 0, 1, 0, 1, 1]
    rows = [
        {"input": "a film", "output": o, "score": s} for o, s in zip(texts, stored, strict=True)
    ]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("verifier.py").write_text(
        "def shy(response):\n    return None if response == 'two' else float(len(response) > 3)\n"
    )
    words = ["replay", "--episodes", "rows.jsonl", "--out", "out", "--rewards", "verifier.py:shy"]
    assert main([*words, "--tokenizer", str(bundled("movie_review").tokenizer.name_or_path)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "left out: the credit of response 1, to which a scorer gave no score" in printed
    said = "the same 6 responses; of one prompt, which leaves no interval; 1 have no score by shy"
    assert said in printed
    # 3 of 5; -1, 0, 1, 0, -1 of them: one is higher, two are lower, and no interval stands between.
    assert "stored 0.667 shy 0.600 \u22120.200 1 2" in printed
    with Path("out/scores.csv").open(newline="") as file:
        found = [(r["episode"], r["response"], r["stored"], r["shy"]) for r in csv.DictReader(file)]
    assert [row[:2] for row in found] == [(str(i), text) for i, text in enumerate(texts)]
    assert [row[2] for row in found] == ["1", "0", "1", "0", "1", "1"]
    assert [row[3] for row in found] == ["0", "", "1", "1", "1", "0"]
    with Path("out/credit.csv").open(newline="") as file:
        numbers = dict.fromkeys(row["episode"] for row in csv.DictReader(file))
    assert [*numbers] == ["0", "2", "3", "4", "5"]


def test_scorers_read_the_columns_that_episodes_are_stored_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    told = [("a film", "good", "good good"), ("the film", "bad", "a good"), ("a plot", "a", "a")]
    rows = [
        Episode(
            prompt=prompt,
            response=response,
            prompt_ids=(5, 6),
            response_ids=(7, 8),
            metadata={"answer": answer},
            score=1.0,
        )
        for prompt, answer, response in told
    ]
    lines = [json.dumps(episode.to_record()) + "\n" for episode in rows]
    Path("mine.jsonl").write_text("".join(lines))
    Path("v.py").write_text(
        "def counts(response, answer):\n    return float(response.count(answer))\n"
    )
    assert main(["replay", "--episodes", "mine.jsonl", "--rewards", "v.py:counts"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "gold" not in printed, "words that a film's gold score counts say nothing of this scorer"
    with Path("runs/replay-MovieReview/scores.csv").open(newline="") as file:
        found = [float(row["counts"]) for row in csv.DictReader(file)]
    assert found == [2.0, 0.0, 1.0]


def test_the_page_compares_scores_where_they_differ():
    stored, new = [1.0, 0.0], [0.0, 0.0]
    page = render_replay(scored([1, 2], stored, new, name="<judge>"))
    assert "Scores of the same 2 responses; intervals over 2 prompts" in page
    assert '<th scope="row">&lt;judge&gt;0</th><td>0.000</td><td>\u22120.500</td>' in page
    assert "Scored again" not in render_replay(scored([1, 2], stored, stored))
