"""The study of reward and preference models: its pairs and its table."""

import json
from pathlib import Path

import numpy as np
import pytest

from studies.reward_training import dialogue_pairs, movie_pairs, pooled, report
from tokengym.lab.makers.corpora.dialogue_world import RULES
from tokengym.lab.makers.corpora.movie_words import LEXICON
from tokengym.rewards.gold.rules import gold_parts
from tokengym.rewards.gold.sentiment_lexicon import gold_score


def test_the_chosen_answer_is_the_better_one() -> None:
    pairs = dialogue_pairs(20, np.random.default_rng(0))
    assert len(pairs) >= 20
    for pair in pairs:
        gold = [
            sum(gold_parts(RULES, pair.prompt.split(), text.split()).values())
            for text in (pair.chosen, pair.rejected)
        ]
        assert gold[0] > gold[1]


def test_the_chosen_review_is_the_kinder_one() -> None:
    pairs = movie_pairs(20, np.random.default_rng(0))
    for pair in pairs:
        better, worse = (
            gold_score((pair.prompt + text).split(), LEXICON)
            for text in (pair.chosen, pair.rejected)
        )
        assert better > worse
    assert pairs == movie_pairs(20, np.random.default_rng(0))


ROW = {"low": 0.5, "high": 1.0}


def test_pooled_bins_by_hand() -> None:
    (one,) = pooled(
        [
            [ROW | {"pairs": 1, "confidence": 0.6, "accuracy": 1.0}],
            [ROW | {"pairs": 3, "confidence": 0.8, "accuracy": 0.0}],
        ]
    )
    assert (one.pairs, one.accuracy) == (4, 0.25)
    assert one.confidence == pytest.approx(0.75)
    (none,) = pooled([[ROW | {"pairs": 0, "confidence": None, "accuracy": None}]])
    assert none.accuracy is None


def test_the_report_fills_the_page(tmp_path: Path) -> None:
    for seed, accuracy in enumerate((0.6, 0.8)):
        folder = tmp_path / "runs" / f"hh-reward-{seed}"
        folder.mkdir(parents=True)
        held_out = {
            "pairs": 50,
            "accuracy": accuracy,
            "longer_accuracy": 0.5,
            "loss": 0.6,
            "calibration_error": 0.1,
            "length_correlation": -0.2,
            "reliability": [ROW | {"pairs": 50, "confidence": 0.7, "accuracy": accuracy}],
        }
        (folder / "measures.json").write_text(json.dumps({"held_out": held_out}))
    page = tmp_path / "training.md"
    page.write_text("<!-- measures -->\n<!-- end measures -->\n")
    report(tmp_path / "runs", tmp_path)
    assert "| hh | reward | 2 | 50 | 0.700 (0.600 to 0.800) |" in page.read_text()
    assert (tmp_path / "training" / "hh-reward.png").exists()
