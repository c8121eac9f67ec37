"""Logs of learners from given data, by epochs, over seeds, and drawn."""

from typing import Any

import numpy as np
import pytest

from tokengym.evaluation.report.learning import Log, by_epoch, final_figures, learning_charts

FIRST: list[dict[str, Any]] = [
    {"step": 0, "epoch": 0.0, "loss": None, "eval_loss": 0.7},
    {"step": 1, "epoch": 0.5, "loss": 0.7, "eval_loss": None},
    {"step": 2, "epoch": 1.0, "loss": 0.5, "eval_loss": 0.6},
    {"step": 3, "epoch": 1.5, "loss": 0.4, "eval_loss": None},
    {"step": 4, "epoch": 2.0, "loss": 0.1, "eval_loss": 0.5},
]
SECOND = [{**row, "eval_loss": None, "loss": row["loss"] and row["loss"] + 0.1} for row in FIRST]
LOGS = [Log(credit="dpo", seed=seed, rows=rows) for seed, rows in enumerate((FIRST, SECOND))]


def test_an_epoch_has_the_mean_of_its_steps_and_what_was_held_out_at_its_end():
    assert by_epoch(FIRST) == {
        0: {"eval_loss": 0.7},
        1: {"loss": pytest.approx(0.6), "eval_loss": 0.6},
        2: {"loss": pytest.approx(0.25), "eval_loss": 0.5},
    }
    assert by_epoch([{"step": 1, "score": 0.5}]) == {}  # a learner by rounds has no epochs


def test_the_last_epoch_is_summarised_over_the_seeds_that_have_it():
    (one,) = final_figures(LOGS)
    assert (one["credit"], one["group"]) == ("dpo", {})
    assert one["figures"] == {"loss": pytest.approx(0.3), "eval_loss": pytest.approx(0.5)}


def test_a_learner_all_of_whose_runs_are_invalid_has_no_line():
    assert learning_charts(LOGS, (), {"ppo": 0}) == []


def test_training_and_held_out_data_are_two_lines_of_one_chart():
    (panel,) = learning_charts([*LOGS, Log(credit="ppo", seed=0, rows=[])], (), {"dpo": 1})
    assert panel["label"].title == "Loss"
    trained, held_out = panel["chart"].lines
    assert (trained.name, held_out.name) == ("dpo", "dpo, held out")
    assert (trained.dashed, held_out.dashed) == (False, True)
    drawn = panel["chart"].hover["series"]
    np.testing.assert_allclose(drawn[0]["x"], [0.5, 1.0, 1.5, 2.0])
    np.testing.assert_allclose(drawn[0]["y"], [0.75, 0.55, 0.45, 0.15])  # the mean of two seeds
    assert drawn[1]["x"] == [0.0, 1.0, 2.0]
    assert learning_charts(LOGS, (("beta", "0.1"),), {"dpo": 1}) == []
