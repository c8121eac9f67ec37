"""The tables of docs/results/learner.md by hand, and the figures that its text quotes."""

import re
from pathlib import Path

import numpy as np
import pytest

from studies import ppo_optimum as study
from studies.cells import read_rows
from tokengym.agents.ppo.settings import GAE_LAMBDA, PPOSettings

DOCS = Path(__file__).parents[2] / "docs" / "results"
WAYS = [
    {"n": 1, "score": 0.0, "gold_score": 0.0, "kl": 0.0},
    {"n": 16, "score": 2.0, "gold_score": 0.5, "kl": 2.0},
    {"n": 64, "score": 2.4, "gold_score": 0.6, "kl": 3.0},
]


def ended(variant: str, price: float, seed: int) -> dict[str, float]:
    """Return the last measurement of a published run."""
    rows = read_rows(DOCS / study.FOLDER / "runs.csv", text=study.TEXT)
    (found,) = [
        row
        for row in rows
        if (row["variant"], row["price"], row["seed"]) == (variant, price, seed) and row["step"]
    ]
    return found


def test_the_best_n_depends_on_the_price_and_the_way_is_measured_along_it():
    assert study.best_of(WAYS, 0.1)["n"] == 64
    assert study.best_of(WAYS, 0.5)["n"] == 16  # 2 - .5 * 2 = 1 against 2.4 - .5 * 3 = .9
    assert study.left(0.0, WAYS, 0.5) == 1.0
    assert study.left(0.75, WAYS, 0.5) == 0.25
    assert study.left(1.5, WAYS, 0.5) == -0.5


def test_the_bound_of_the_optimum_is_that_of_exponential_weights():
    scores = np.array([[0.0, 1.0], [2.0, 2.0]])
    (first, *_, last) = study.optimum_rows(scores)
    assert first["bound"] == pytest.approx((1.0 - 0.05 * np.log(2.0) + 2.0) / 2)
    assert last["bound"] == pytest.approx((2 * np.log((1 + np.exp(0.5)) / 2) + 2.0) / 2)


def test_a_gain_is_over_the_runs_own_start():
    about = {"variant": "own", "price": 0.5, "seed": 7.0, "explained": 0.5}
    start = {**about, "step": 0.0, "score": -0.25, "gold_score": 0.0, "kl": 0.0}
    end = {**about, "step": 9.0, "score": 1.0, "gold_score": 0.25, "kl": 1.0}
    (line,) = study.variants_table([start, end], WAYS).splitlines()[2:]
    assert line.endswith("| 0.5 | 7 | **0.500** | +0.75 | 50% | 1.00 | 0.250 | 1.00 | 0.50 |")


def test_a_run_spends_no_more_than_its_tokens():
    for variant in study.VARIANTS:
        training = study.Cell(variant=variant, price=0.2, seed=3).config().training
        spent = training.steps * training.batch_size * study.LENGTH
        assert 0.98 * study.TOKENS < spent <= study.TOKENS
        assert training.learner.kl_coef == 0.2


def test_the_default_is_what_was_run():
    default, chosen = PPOSettings(), study.VARIANTS[study.CHOSEN][1]
    settings = {name: getattr(default, name) for name in chosen} | {"gae_lambda": GAE_LAMBDA}
    assert settings == chosen
    text = (DOCS / "learner.md").read_text(encoding="utf-8")
    assert "| `n_epochs`, `n_minibatches` | 4, 2 | 2, 4 |" in text
    assert "| `vf_coef`, `clip_range_vf` | 0.1, 0.2 | 1, none |" in text
    assert {name: value for name, value in chosen.items() if name != "gae_lambda"} == {
        "learning_rate_schedule": "linear",
        "value_network": "own",
        "vf_coef": 1.0,
        "clip_range_vf": None,
        "n_epochs": 2,
        "n_minibatches": 4,
    }


def test_the_text_quotes_what_the_runs_gave():
    text = (DOCS / "learner.md").read_text(encoding="utf-8")
    before, decayed = ended("earlier", 0.05, 100), ended("decayed", 0.05, 100)
    averaged = ended("earlier-averaged", 0.05, 100)
    for other in (decayed, averaged):
        assert before["kl"] - other["kl"] == pytest.approx(4.4, abs=0.4)
    assert "removes 4 of 11 nats" in re.sub(r"\s+", " ", text)
    poor = [ended(variant, 0.05, 100)["explained"] for variant in ("wide-lambda-1", "wide-fitted")]
    assert "explains 0.06 to 0.10 of the variance" in text
    assert poor == [0.06, 0.1]
    own = [row for row in read_rows(DOCS / "learner" / "runs.csv", text=study.TEXT) if row["step"]]
    known = [row["explained"] for row in own if row["variant"] in ("wide-own", "own", "default")]
    assert f"explains {min(known):.2f} to {max(known):.2f}" in text
