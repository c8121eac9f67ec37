"""The laboratory's learners are measured like PPO, resumed where they can be, and compared."""

from pathlib import Path
from typing import Any

import pytest

from tests.suite.evaluation.runs.test_config import test_every_learner_survives_the_file
from tests.support.comparisons import comparison, trainings
from tests.support.evaluation.agents import TRAINING, learners
from tests.support.evaluation.run import SMALL, config
from tests.support.suite import of_laboratory
from tokengym.agents.errors import CheckpointError
from tokengym.base.settings import changed
from tokengym.evaluation.runs.record import RunRecord
from tokengym.evaluation.runs.run import run
from tokengym.scripts.cli import main

BUDGET = 100
survives = test_every_learner_survives_the_file
del test_every_learner_survives_the_file


@pytest.mark.parametrize("agent", of_laboratory("agents"))
def test_every_learner_survives_a_file(agent: str, tmp_path: Path):
    survives(agent, tmp_path)


def test_the_command_line_names_the_learner():
    ours = comparison(
        env="MovieReview",
        rewards=("sparse",),
        agent="raft",
        iterations=2,
    )
    assert "--agent raft --iterations 2" in ours.reference.command
    assert ours.price is None


def test_learners_share_the_settings_that_they_have_and_keep_their_own() -> None:
    training = changed(TRAINING, tokens=BUDGET, kl_coef=0.3, learning_rate=2e-4)
    raft = trainings(learners("ppo", "raft", training=training))["raft"]
    assert raft.learner.learner.tuning.learning_rate == 2e-4
    assert raft.max_new_tokens == 6


def test_collecting_data_takes_half_of_the_tokens_unless_it_is_said() -> None:
    found = learners("ppo", "online-dpo", training=changed(TRAINING, tokens=10_000))
    online = trainings(found)["online-dpo"].learner
    assert online.learner.prompts_per_iteration == 10_000 // (2 * 3 * 8 * 6)


def test_what_trains_nothing_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match=r"best-of-n.*trains nothing"):
        learners("ppo", "best-of-n")


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match=r"iterations.*>= 1, got 0"):
        config("raft", iterations=0)


def iterated(iterations: int, out: Path, agent: str = "online-dpo") -> RunRecord:
    settings = config(agent, prompts_per_iteration=16, iterations=iterations, **SMALL)
    return run(settings, agent, 0, out=out)


def without_time(record: RunRecord) -> list[dict[str, Any]]:
    return [{k: v for k, v in point.items() if not k.endswith("_s")} for point in record.points]


@pytest.mark.parametrize("agent", ["online-dpo", "raft"])
def test_resumed_curve_equals_an_uninterrupted_one(tmp_path: Path, agent: str):
    whole = iterated(3, tmp_path / "whole", agent)
    assert [point["step"] for point in whole.points] == [0, 1, 2, 3]
    stopped = tmp_path / "stopped"
    assert without_time(iterated(2, stopped, agent)) == without_time(whole)[:3]
    folder = stopped / agent / "seed-0" / "iterations"
    # Stopped after the iteration and before its measurement.
    (folder / "iteration-002" / "measured.json").unlink()
    assert without_time(iterated(3, stopped, agent)) == without_time(whole)
    assert without_time(iterated(3, stopped, agent)) == without_time(whole)


def test_iterations_of_another_run_are_refused(tmp_path: Path):
    iterated(1, tmp_path)
    before = (tmp_path / "online-dpo" / "seed-0" / "run.json").read_bytes()
    same: dict[str, Any] = {"env": "MovieReview", "rewards": "sparse", "agent": "online-dpo"}
    same |= {"num_prompts": 16, "iterations": 2, "max_new_tokens": 8, **SMALL}
    same |= {"eval_episodes": 16}
    others: dict[str, dict[str, Any]] = {
        "prompts_per_iteration = 16, here it is 8": {"num_prompts": 8},
        "reward = sparse, here it is r3": {"rewards": "r3"},
        "env = tokengym/MovieReview-v0, here it is tokengym/Detox-v0": {"env": "Detox"},
        "max_new_tokens = 8, here it is 6": {"max_new_tokens": 6},
        "dataset = None, here it is own.jsonl": {"dataset": "own.jsonl"},
    }
    for match, changes in others.items():
        with pytest.raises(CheckpointError, match=f"{match}.*; name another output_dir"):
            run(comparison(**{**same, **changes}), "online-dpo", 0, out=tmp_path)
    assert (tmp_path / "online-dpo" / "seed-0" / "run.json").read_bytes() == before


def test_nlpo_is_run_by_name():
    settings = config("nlpo", steps=1, batch_size=4, n_epochs=1, mask_top_p=0.5)
    record = run(settings, "sparse", 0)
    assert [point["step"] for point in record.points] == [0, 1]
    assert record.points[-1]["episodes"] == 4


def test_best_of_n_is_measured_at_every_power_of_two():
    record = run(config("best-of-n", n=6), "best-of-n", 0)
    assert [point["step"] for point in record.points] == [0, 2, 4, 6]
    assert [point["tokens"] for point in record.points[1:]] == [16 * n * 8 for n in (2, 4, 6)]
    assert record.points[-1]["score"] > record.points[0]["score"]


@pytest.mark.parametrize(
    ("n", "temperatures", "sizes"),
    [
        (12, (1.0, 0.9, 0.7), [3, 6, 12]),
        (8, (1.0, 0.9, 0.8, 0.7), [4, 8]),
        (6, (1.0, 0.7), [2, 4, 6]),
        (3, (1.0, 0.9, 0.7), [3]),
        (1, (None,), [1]),
    ],
)
def test_best_of_n_divides_every_number_among_the_temperatures(
    n: int, temperatures: tuple[float | None, ...], sizes: list[int]
) -> None:
    record = run(config("best-of-n", n=n, temperatures=temperatures), "best-of-n", 0)
    assert [point["step"] for point in record.points] == [0, *sizes]


def test_several_processes_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["train", "--agent", "raft", "--out", str(tmp_path / "out")]) == 2
    assert "--agent raft trains" in capsys.readouterr().err
