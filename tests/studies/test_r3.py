# mypy: no-check-untyped-defs
"""The study of R3's components: its measures by hand, its page from known rows."""

import numpy as np
import pytest

from studies.cells import read_rows
from studies.r3 import (
    COLUMNS,
    GOLDS,
    MEASURES,
    REWARDS,
    TEXT,
    Run,
    golds_of,
    measure,
    publish,
)
from studies.r3_page import TITLES, table, win_rate, wins_table
from tokengym.base.files import write_csv
from tokengym.envs import Episode
from tokengym.evaluation.measure.evaluate import Evaluation
from tokengym.evaluation.report.verdict import number
from tokengym.rewards import make_reward

ANSWER = "the capital of france is paris ."


def episode(prompt, response, query_type, **parts):
    given = {"relevance_query": 0.0, "relevance_reference": 0.0, "repetition_penalty": 1.0} | parts
    return Episode(
        prompt=prompt,
        response=response,
        prompt_ids=[3],
        response_ids=list(range(len(response.split()))),
        query_type=query_type,
        score_parts=given,
    )


def test_measures_by_hand():
    asked = "tell me about france ."
    episodes = (
        # copies 3 of the question's 3 trigrams, then says two clean sentences and half of one
        episode(
            asked,
            f"{asked} families in france cook bread on holidays . "
            "children in france learn to read in french . the capital of",
            "OPENENDED",
            relevance_query=3.0,
            repetition_penalty=0.75,
        ),
        # 1 of 3 trigrams; all 4 words stand in the question
        episode(asked, "about france . france", "OPENENDED", relevance_query=1.0),
        episode("what is the capital of france ?", ANSWER, "CONSTRAINED", relevance_reference=2.0),
        episode("what is the capital of france ?", "it is rome .", "CONSTRAINED"),
    )
    metrics = {"score": 1.5, "kl": 2.0, "entropy": 0.5}
    found = measure(Evaluation(metrics=metrics, episodes=episodes, gold_scores=None))
    assert set(found) == set(MEASURES)
    assert found == pytest.approx(
        {
            "score": 1.5,
            "kl": 2.0,
            "entropy": 0.5,
            "length": (25 + 4) / 2,
            "relevance_query": 2.0,
            "relevance_reference": 1.0,
            "repetition": 0.125,
            "copies": 0.5,
            # in the first: the five, "france" and "." twice more each
            "copied_words": (9 / 25 + 1) / 2,
            "clean_sentences": 1.0,
            "right_answers": 0.5,
        }
    )


def test_rewards_leave_out_what_they_say():
    from tokengym.envs import bundled

    for name, options in {
        "relevance": (False, False, False),
        "relevance x LI": (True, False, False),
        "relevance x RP": (False, True, False),
        "R3": (True, True, True),
        "R3 dense": (True, True, True),
    }.items():
        scorer = make_reward(REWARDS[name], bundle=bundled("question_answer")).scorer
        found = scorer.length_incentive, scorer.repetition_penalty, scorer.reward_branching
        assert found == options


def rows(seeds, reward="relevance"):
    named = {"world": "bundled", "recipe": "gentle", "reward": reward}
    golds = {0: ("1 0 0", "0 1"), 16: ("2 0 1", "0 0")}
    return [
        {**named, "seed": seed, "step": step, **dict.fromkeys(MEASURES, float(step * (seed + 1)))}
        | dict(zip(GOLDS, golds[step], strict=True))
        for seed in range(seeds)
        for step in (0, 16)
    ]


def test_the_page_is_made_from_the_runs(tmp_path):
    for seed in range(2):
        run = Run(world="bundled", recipe="gentle", reward="relevance", seed=seed)
        own = [row for row in rows(2) if row["seed"] == seed]
        write_csv(run.file(tmp_path), own, COLUMNS)
        assert read_rows(run.file(tmp_path), text=TEXT) == own
    page = tmp_path / "docs" / "r3.md"
    page.parent.mkdir()
    places = [
        f"<!-- {name} -->\n<!-- end {name} -->\n"
        for name in ("r3 bundled gentle", "wins bundled gentle")
    ]
    page.write_text("".join(places), encoding="utf-8")
    publish(tmp_path, page.parent)
    text = page.read_text(encoding="utf-8")
    assert f"| before training |  | {number(0.0)} | " in text
    assert "| relevance | 2 | 24.0 (16.0 to 32.0) | " in text  # the mean of 16 and 32
    assert "| relevance against the start | 2 | 0.833 (" in text  # two of three better, one alike
    assert read_rows(page.parent / "r3" / "curves.csv", text=TEXT) == rows(2)
    assert (page.parent / "r3" / "curves.png").stat().st_size > 1000
    write_csv(run.file(tmp_path), [row | {"score": 9.0} for row in own], COLUMNS)
    Run(world="bundled", recipe="gentle", reward="relevance", seed=0).file(tmp_path).unlink()
    publish(tmp_path, page.parent)  # a published run stays, one that was made again is replaced
    found = read_rows(page.parent / "r3" / "curves.csv", text=TEXT)
    assert [row["score"] for row in found] == [0.0, 16.0, 9.0, 9.0]


def test_wins_by_hand():
    assert win_rate("2 0 1", "1 0 0") == pytest.approx((1 + 0.5 + 1) / 3)
    one, other = rows(2, "R3"), rows(2, "relevance")
    for row in other:
        row["golds_open"] = "3 0 0" if row["step"] else row["golds_open"]
    *_, line = wins_table([*one, *other]).splitlines()
    # open "2 0 1" against "3 0 0": one lost, one alike, one won; constrained all alike
    assert line == "| R3 against relevance | 2 | 0.500 (0.500 to 0.500) | 0.500 (0.500 to 0.500) |"


def test_golds_are_apart_by_type():
    asked = "tell me about france ."
    said = "children in france learn to read in french ."
    episodes = [
        episode(asked, f"{said} {said} families in france cook bread on holidays .", "OPENENDED"),
        episode("what is the capital of france ?", ANSWER, "CONSTRAINED"),
        episode(asked, "it is far .", "OPENENDED"),
        episode("what is the capital of france ?", "it is rome .", "CONSTRAINED"),
    ]
    assert golds_of(episodes) == {"golds_open": "2 0", "golds_constrained": "1 0"}


def test_five_seeds_have_an_interval():
    line = table(rows(5)).splitlines()[-1]
    values = 16.0 * np.arange(1, 6)  # interquartile mean of five: the middle three
    assert line.startswith(f"| relevance | 5 | {values[1:4].mean():.1f} (")
    assert line.count("(") == len(TITLES)
