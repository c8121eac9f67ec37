"""The tables of docs/results/gradients.md, and the study on a rule of one's own."""

import csv
from pathlib import Path

import pytest

from studies import gradients
from tokengym.lab.gradients.oracle import SmallOracle


def test_weights_have_mean_1_over_a_response():
    small = SmallOracle.make(horizon=2)
    probs = small.legal.double() / small.legal.sum(1, keepdim=True)
    mask = small.responses.mask
    weight = gradients.proportional(small, probs)
    assert weight.sum(1).tolist() == pytest.approx(mask.sum(1).tolist())
    assert not weight[~mask].any()


def test_a_climb_along_a_right_gradient_ends_at_the_best_response(monkeypatch):
    monkeypatch.setattr(gradients, "STEPS", 100)
    found = gradients.climb("sparse", "loo", 2)
    assert found["response"] == "film good"
    assert found["score"] == pytest.approx(1.0, abs=0.05)


def test_the_check_writes_a_row_per_policy_rule_and_estimator(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(gradients, "SHARES", (0.0,))
    gradients.check(rules=("sparse", "uniform"), estimators=("reinforce",), out=tmp_path)
    with (tmp_path / "gradients.csv").open() as file:
        rows = list(csv.DictReader(file))
    found = {(row["eos"], row["rule"]): float(row["cosine"]) > 0.9999 for row in rows}
    expected = {"sparse": True, "sparse, scores + 3": True, "uniform": False}
    assert found == {(eos, r): v for eos in ("True", "False") for r, v in expected.items()}
    assert "| `sparse` | 1.000 |" in capsys.readouterr().out
