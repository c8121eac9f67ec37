"""The page on tuning: its grid and its loop of Optuna run on seeds of their own."""

from pathlib import Path
from typing import Any

import optuna

import tokengym
from tests.checkout.pages import DOCS, blocks, run, shorter
from tests.support.checkout.documents import commands_of

SMALL = "batch_size=4, max_new_tokens=6, n_epochs=1, reference_samples=16, eval_episodes=4"
GRID, LOOP = blocks("guide/tuning.md")
SHORT = (
    ("updates=20, seeds=3", f"updates=2, {SMALL}, seeds=2"),
    (", eval_episodes=64", ""),
    ("(0.5, 0.95)", "(0.5,)"),
)


def seeds_of(folder: str) -> set[int]:
    """Return the seeds of a folder's runs."""
    return {*tokengym.read_result(folder).curves["seed"].tolist()}


def test_the_grid_is_a_comparison_on_seeds_of_its_own(tmp_path: Path, monkeypatch: Any):
    monkeypatch.chdir(tmp_path)
    found = run(shorter(GRID, *SHORT))
    assert found["result"].summary.index.tolist() == found["grid"]
    assert seeds_of("runs/grid") == {100, 101}


def test_optuna_gets_the_report_s_measure_after_each_seed(tmp_path: Path, monkeypatch: Any):
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    monkeypatch.chdir(tmp_path)
    names = run(shorter(GRID, *SHORT).partition("grid = ")[0])
    found = run(shorter(LOOP, ("n_trials=20", "n_trials=1")), names)
    (trial,) = found["study"].trials
    (arm,) = tokengym.read_result("runs/trials/0")["groups"][0]["rewards"].values()
    assert trial.intermediate_values.keys() == {1, 2}
    assert trial.value == trial.intermediate_values[2] == arm["figures"]["score"]["auc"]["mean"]
    assert seeds_of("runs/trials/0") == {100, 101}
    # One that is stopped after its first seed never trains the second.
    monkeypatch.setattr(optuna.Trial, "should_prune", lambda _: True)
    found["study"].optimize(found["trial_score"], n_trials=1)
    assert found["study"].trials[1].state is optuna.trial.TrialState.PRUNED
    assert seeds_of("runs/trials/1") == {100}


def test_seeds_of_the_search_are_not_those_of_the_comparison():
    searched, compared = commands_of(DOCS / "guide" / "tuning.md")
    assert "--first-seed" in searched
    assert "--first-seed" not in compared
