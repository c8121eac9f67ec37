"""The grid's plan, its choice of a learning rate, and what it publishes; no run is trained."""

import csv
from pathlib import Path

import pytest

from studies import credit_grid
from tokengym.base.files import read_json, write_csv, write_json
from tokengym.evaluation.report.curves import COLUMNS
from tokengym.evaluation.runs.config import SETTINGS_FILE, run_folder


def write_run(out: Path, cell: str, reward: str, seed: int, score: float, kl: float) -> None:
    folder = run_folder(out / cell, reward, seed)
    rows = [
        {"credit": reward, "seed": seed, "step": 0, "tokens": 0, "episodes": 0, "score": 0.0}
        | {"kl": 0.0},
        {"credit": reward, "seed": seed, "step": 30, "tokens": 9, "episodes": 3, "score": score}
        | {"kl": kl},
    ]
    write_csv(folder / "curve.csv", rows, COLUMNS)
    write_json(folder / "run.json", {"status": "finished"})


def test_every_stage_is_in_the_grid_and_the_pairs_come_first():
    known = credit_grid.cells()
    stages = list(credit_grid.stages())
    runs: dict[str, set[tuple[str, int]]] = {name: set() for name in known}
    for name, rules, seeds in stages:
        assert seeds <= known[name].seeds
        runs[name] |= {(rule, seed) for rule in rules for seed in range(seeds)}
    for name, cell in known.items():
        assert len(runs[name]) == len(cell.rewards) * cell.seeds
    assert stages[0] == ("MovieReview-32", ("sparse", "abc"), 3)


def test_only_one_setting_differs_in_a_cell_of_one_change(tmp_path: Path):
    base = credit_grid.cells()["MovieReview-32"].config(tmp_path).training
    changed = credit_grid.cells()["when-no-critic"].config(tmp_path).training
    assert (base.learner.vf_coef, changed.learner.vf_coef) == (0.1, 0.0)
    assert base.max_new_tokens == changed.max_new_tokens == 32
    assert base.learner.learning_rate == changed.learner.learning_rate == 3e-4


def test_the_rate_is_sparse_best_by_score_less_kl(tmp_path: Path):
    # score - 0.05 KL at the end: 1 - .05 * 2 = .9;  2 - .05 * 15 = 1.25;  3 - .05 * 60 = 0
    for rate, score, kl in ((1e-4, 1.0, 2.0), (3e-4, 2.0, 15.0), (1e-3, 3.0, 60.0)):
        for seed in (1000, 1001):
            write_run(tmp_path, f"Oracle-rate-{rate:g}", "sparse", seed, score, kl)
    assert credit_grid.tuned_rate("Oracle", tmp_path) == 3e-4
    assert credit_grid.cells()["Oracle"].config(tmp_path).training.learner.learning_rate == 3e-4


def test_no_rate_is_taken_from_an_unfinished_sweep(tmp_path: Path):
    with pytest.raises(ValueError, match=r"rate-0\.0001 has runs to do; run the sweep before"):
        credit_grid.tuned_rate("Oracle", tmp_path)


def test_finished_runs_are_published(tmp_path: Path):
    name, out, docs = "MovieReview-48", tmp_path / "runs", tmp_path / "docs"
    write_run(out, name, "sparse", 20, 1.25, 2.0)
    write_run(out, name, "abc", 20, 1.5, 2.0)
    write_json(run_folder(out / name, "abc", 21) / "run.json", {"status": "failed"})
    write_json(out / name / SETTINGS_FILE, {"env": "tokengym/MovieReview-v0"})
    credit_grid.publish(out, docs)
    with (docs / f"{name}.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["credit"], r["seed"], r["step"], r["score"]) for r in rows] == [
        ("sparse", "20", "0", "0"),
        ("sparse", "20", "30", "1.25"),
        ("abc", "20", "0", "0"),
        ("abc", "20", "30", "1.5"),
    ]
    assert read_json(docs / f"{name}.json") == {"env": "tokengym/MovieReview-v0"}
    assert [path.name for path in docs.glob("*.csv")] == [f"{name}.csv"]


def test_the_misaligned_reward_model_is_published_by_name_and_with_its_figures(tmp_path: Path):
    name, out, docs = "when-misaligned", tmp_path / "runs", tmp_path / "docs"
    write_run(out, name, "sparse", 20, 1.25, 2.0)
    config = credit_grid.cells()[name].config(out)
    write_json(out / name / SETTINGS_FILE, config.as_dict())
    write_json(out / "misaligned" / "figures.json", {"pair_accuracy": 0.9})
    credit_grid.publish(out, docs)
    assert read_json(docs / f"{name}.json")["task"]["scorer"] == "misaligned"
    assert str(tmp_path) not in (docs / f"{name}.json").read_text()
    assert read_json(docs / "misaligned.json") == {"pair_accuracy": 0.9}
