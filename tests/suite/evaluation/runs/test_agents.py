"""Comparisons of learners: their settings, their tokens, and their report."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.support.comparisons import comparison, trainings
from tests.support.evaluation.agents import BUDGET, ENV, TRAINING, learners
from tests.support.suite import of_suite
from tokengym.agents.learner import find_learner
from tokengym.agents.ppo.advantages import ADVANTAGES
from tokengym.base.errors import DatasetError, SettingsError
from tokengym.base.settings import changed
from tokengym.evaluation.runs.compare import compare
from tokengym.evaluation.runs.comparison import Comparison
from tokengym.evaluation.runs.defaults import training_settings
from tokengym.evaluation.runs.run import run
from tokengym.evaluation.runs.settings import EvaluationSettings
from tokengym.evaluation.runs.spec import run_folder

QUIET = Console(quiet=True)
SFT = "sft:num_prompts=12,n=4,batch_size=4"


def test_every_estimator_without_a_critic_is_a_learner_by_its_name():
    for name in of_suite(ADVANTAGES, "estimators"):  # the laboratory's may be loaded
        if name != "gae":
            assert find_learner(name).default_settings().advantage == name


def test_a_learner_named_by_its_estimator_takes_no_other():
    with pytest.raises(SettingsError, match="advantage is 'grpo' with agent='grpo', got 'loo'"):
        training_settings(ENV, "grpo", advantage="loo")


def test_runs_are_named_by_what_varies():
    assert learners("ppo", "dpo").names == ("ppo", "dpo")
    both = learners("ppo", "loo:group_size=2", "dpo", rewards=("sparse", "abc"))
    assert both.names == (
        *("ppo sparse", "ppo abc"),
        *("loo:group_size=2 sparse", "loo:group_size=2 abc"),
        "dpo",  # sees the scorer alone
    )
    assert both.spec("loo:group_size=2 abc", 0).reward.text == "abc"


def test_learners_share_the_settings_that_they_have_and_keep_their_own():
    training = changed(TRAINING, tokens=BUDGET, kl_coef=0.3, learning_rate=2e-4)
    config = learners("ppo", "loo:group_size=2,learning_rate=1e-3", training=training)
    ppo, loo = (spec.training for spec in config.runs)
    assert ppo == training
    assert (loo.agent, loo.learner.advantage, loo.learner.group_size) == ("loo", "loo", 2)
    assert (loo.learner.kl_coef, loo.learner.learning_rate) == (0.3, 1e-3)


def test_without_a_budget_learners_have_the_tokens_of_all_updates_at_full_length():
    config = learners("ppo", "loo", training=changed(TRAINING, steps=5))
    for spec in config.runs:
        assert spec.training.tokens == spec.training.last_step == 5 * 4 * 6


def test_collecting_data_takes_half_of_the_tokens_unless_it_is_said():
    training = changed(TRAINING, tokens=10_000)
    found = learners("ppo", "dpo", training=training)
    dpo = trainings(found)["dpo"].learner
    assert dpo.num_prompts == 10_000 // (2 * 8 * 6)
    own = learners("ppo", "dpo:num_prompts=7", training=training)
    assert trainings(own)["dpo:num_prompts=7"].learner.num_prompts == 7


@pytest.mark.parametrize(
    ("agents", "message"),
    [
        (("ppo", "dpo:num_prompts=100"), "num_prompts=100.*n=8.*4800"),
        (("ppo", "ppo"), "agents names 'ppo' twice"),
        (("ppo", "grop"), "'grop'.*'grpo'"),
        (("ppo", "loo:beta=1"), "'loo:beta=1'.*'beta'"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(agents, message):
    with pytest.raises(ValueError, match=message):
        learners(*agents)


def test_rows_that_cannot_be_learned_from_are_left_out(tmp_path, caplog):
    good = {"prompt": "the film is", "chosen": " great .", "rejected": " dull ."}
    long = {**good, "chosen": " great" * 2000}
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(map(json.dumps, (good, {**good, "rejected": ""}, long, good))))

    def config(**settings: Any) -> Comparison:
        training = training_settings(ENV, "dpo", num_train_epochs=1, max_new_tokens=4, **settings)
        evaluation = EvaluationSettings(every=1, episodes=2, samples=1, reference_samples=0)
        return comparison(
            env=ENV, rewards=("sparse",), seeds=1, training=training, evaluation=evaluation
        )

    run(config(pairs=str(file), on_error="skip", overlong_rows="drop"), "dpo", 0)
    assert "4 rows, 2 kept, 2 skipped (1 empty, 1 overlong)" in caplog.text
    with pytest.raises(DatasetError, match=r"1.*on_error='skip'"):
        run(config(pairs=str(file)), "dpo", 0)
    with pytest.raises(SettingsError, match="on_error='skip'"):
        config(on_error="skip")
    with pytest.raises(SettingsError, match="overlong_rows='left'"):
        config(overlong_rows="left")


# Twelve prompts have pairs of unequal scores; those that tie teach nothing.
ALL = ("ppo", "loo:group_size=2", "dpo:num_prompts=12,n=4,batch_size=4", SFT)
OF_ALL: dict[str, Any] = {
    "training": changed(TRAINING, tokens=600),
    "evaluation": EvaluationSettings(every=5, episodes=4, samples=1, reference_samples=0),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("agents") / "runs"
    compare(learners(*ALL, **OF_ALL), out, jobs=1, console=QUIET)
    return out


def test_every_learner_ends_with_the_first_measurement_past_its_tokens(made):
    with (made / "curves.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    by_run: dict[str, list[int]] = {}
    for row in rows:
        by_run.setdefault(row["credit"], []).append(int(row["tokens"]))
    assert len(by_run) == 4
    for tokens in by_run.values():
        assert tokens[0] == 0
        assert tokens[-2] < 600 <= tokens[-1]
    updates = by_run["ppo"]
    assert updates == [0, *range(120, 601, 120)]  # 24 an update, every fifth measured


def test_data_are_paid_for_before_anything_is_learned(made):
    curve = run_folder(made, "dpo:num_prompts=12,n=4,batch_size=4", 0) / "curve.csv"
    with curve.open(newline="") as file:
        first, paid, *_ = csv.DictReader(file)
    assert (first["tokens"], paid["tokens"]) == ("0", str(12 * 4 * 6))
    for row in (first, paid):  # the policy is still its reference
        assert float(row["kl"]) == pytest.approx(0.0, abs=1e-4)


def test_the_report_compares_learners_at_equal_tokens(made):
    summary = json.loads((made / "summary.json").read_text())
    assert summary["axis"] == "tokens"
    (group,) = summary["groups"]
    assert group["steps"] == [0.0, 600.0]
    page = (made / "report.html").read_text()
    assert "4 learners" in page
    assert group["longest"] > 600.0  # some end an update later
    assert f"4 runs · up to {group['longest']:,.0f} tokens" in page
    assert all(f"<h3>{title}</h3>" in page for title in ("Loss", "Margin of the pairs"))
    learned = {one["credit"]: one["figures"] for one in summary["learning"]}
    assert [*learned] == ["dpo:num_prompts=12,n=4,batch_size=4", SFT]
    assert {"loss", "rewards/accuracies", "rewards/margins"} <= learned[next(iter(learned))].keys()
    assert {"loss", "mean_token_accuracy"} <= learned[SFT].keys()


def test_learners_can_be_added_to_a_comparison(made):
    known = {path: path.stat().st_mtime_ns for path in made.glob("*/seed-0/run.json")}
    compare(learners(*ALL, "reinforce++", **OF_ALL), made, jobs=1, console=QUIET)
    assert run_folder(made, "reinforce++", 0).is_dir()
    assert all(path.stat().st_mtime_ns == time for path, time in known.items())
    with pytest.raises(ValueError, match=r"of other settings: .*, seed 0, is there and"):
        compare(learners("ppo", "grpo", **OF_ALL), made, jobs=1, console=QUIET)
