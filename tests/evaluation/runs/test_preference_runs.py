"""Agents that learn from preferences are measured like PPO, and gone on with where they can be."""

import pytest

from tokengym.agents.online.collecting import Sampling
from tokengym.envs.files import read_json
from tokengym.evaluation.runs.agents import load_agent
from tokengym.evaluation.runs.config import ComparisonConfig
from tokengym.evaluation.runs.defaults import EvaluationSettings, training_settings
from tokengym.evaluation.runs.preference_runs import PreferenceSettings, run_preferences


def config():
    return ComparisonConfig(
        env="MovieReview",
        rewards=("sparse",),
        training=training_settings("tokengym/MovieReview-v0", max_new_tokens=8),
        evaluation=EvaluationSettings(episodes=16),
    )


def settings(**changes):
    return PreferenceSettings(
        **{
            "num_prompts": 16,
            "n": 4,
            "epochs": 2,
            "batch_size": 8,
            "learning_rate": 1e-3,
            **changes,
        }
    )


@pytest.mark.parametrize("kind", ["dpo", "sft"])
def test_offline_learners_leave_a_curve_and_an_agent(tmp_path, kind):
    heard = []
    record = run_preferences(
        kind,
        config(),
        settings(),
        0,
        out=tmp_path,
        save=tmp_path / "agent",
        report=lambda step, score: heard.append(step),
    )
    assert heard == [point["step"] for point in record.curve] == [0, 1, 2]
    sampled = 16 * 4 * 8
    trained = 2 * 16 * 8 if kind == "dpo" else 16 * 8  # per epoch: both of a pair, or the best
    assert record.curve[0]["tokens"] == 0
    assert sampled < record.curve[1]["tokens"] <= sampled + trained
    assert record.curve[2]["tokens"] - sampled == 2 * (record.curve[1]["tokens"] - sampled)
    assert record.curve[0]["kl"] == pytest.approx(0.0, abs=1e-4)
    assert record.curve[2]["kl"] > 0.001
    run = read_json(tmp_path / kind / "seed-0" / "run.json")
    assert (run["credit"], run["status"]) == (kind, "finished")
    assert load_agent(tmp_path / "agent").policy is not None


def test_iterations_of_an_earlier_run_are_gone_on_from(tmp_path):
    first = run_preferences("online-dpo", config(), settings(iterations=1), 0, out=tmp_path)
    assert [point["step"] for point in first.curve] == [0, 1]
    second = run_preferences("online-dpo", config(), settings(iterations=2), 0, out=tmp_path)
    assert [point["step"] for point in second.curve] == [0, 2]
    again = run_preferences("online-dpo", config(), settings(iterations=2), 0, out=tmp_path)
    assert again.curve[-1]["score"] == second.curve[-1]["score"]


def test_best_of_n_is_measured_at_every_power_of_two():
    record = run_preferences("best-of-n", config(), settings(n=6, temperatures=(1.0,)), 0)
    assert [point["step"] for point in record.curve] == [0, 2, 4, 6]
    assert [point["tokens"] for point in record.curve[1:]] == [16 * n * 8 for n in (2, 4, 6)]
    assert record.curve[-1]["score"] > record.curve[0]["score"]


def test_settings_are_checked():
    assert settings().sampling() == Sampling(n=4, temperatures=(1.0, 0.7))
    with pytest.raises(ValueError, match="beta must be > 0"):
        settings(beta=-1.0)
    with pytest.raises(ValueError, match="iterations must be > 0, got 0"):
        settings(iterations=0)
    with pytest.raises(ValueError, match=r"agent must be one of dpo, .* got 'dqn'"):
        run_preferences("dqn", config(), settings(), 0)
