"""Which folder a comparison continues, takes over, or leaves alone."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tokengym.base.errors import SettingsError
from tokengym.base.files import content_hash, write_hashed
from tokengym.base.saved_code import check_code
from tokengym.evaluation.runs.config import ComparisonConfig
from tokengym.evaluation.runs.defaults import TaskSettings, training_settings
from tokengym.evaluation.runs.folder import check_folder, missing_runs, stored_comparison, take_over
from tokengym.evaluation.runs.run import Run

ENV = "tokengym/MovieReview-v0"


def config(
    agent: str = "dpo", task: TaskSettings | None = None, **changes: Any
) -> ComparisonConfig:
    training = training_settings(ENV, agent, **changes)
    return ComparisonConfig(
        env=ENV, rewards=("sparse",), seeds=1, training=training, task=task or TaskSettings()
    )


def begun(made: ComparisonConfig, out: Path, status: str) -> Path:
    """Write a folder in which the first run ended so, and return the run's folder."""
    for spec in made.specs(out):
        spec.write({})
    folder = made.specs(out)[0].folder
    write_hashed(folder / "run.json", {"status": status, "files": {}})
    return folder


RULE = """
from tokengym.rewards.credits.uniform import Uniform
class Reads(Uniform):
    def __init__(self, model="none"):
        super().__init__()
"""


def data_named_by(where: str, named: Path, rules: Path) -> ComparisonConfig:
    """Return a comparison of which one setting names a file or folder of data or a model."""
    task: dict[str, Any] = {where: str(named)}
    match where:
        case "agents":
            training = config("ppo", tokens=100_000).training
            agents = ("ppo", f"dpo:pairs={named}")
            return replace(config("ppo"), agents=agents, training=training)
        case "rewards":
            return replace(config("ppo"), rewards=("sparse", f"{rules}:Reads:model={named}"))
        case "advantage":
            return config("ppo", advantage=f"{rules}:Reads:model={named}")
        case "pairs" | "eval_pairs":
            return config(**task)
        case "scorer_option":
            return config("ppo", TaskSettings(scorer=f"toxicity:path={named}"))
    return config("ppo", TaskSettings(**task))


@pytest.mark.parametrize(
    ("where", "is_file"),
    [
        *((where, True) for where in ("pairs", "eval_pairs", "agents", "dataset")),
        *((where, False) for where in ("dataset", "rewards", "advantage", "scorer_option")),
        *((where, False) for where in ("bundle", "model", "tokenizer", "scorer")),
        *((where, False) for where in ("reward_model", "encoder")),
    ],
)
def test_other_contents_of_the_same_file_are_other_data(tmp_path, where, is_file):
    (tmp_path / "rules.py").write_text(RULE)
    file = tmp_path / "data" / "data.csv"
    file.parent.mkdir()
    file.write_text("prompt\nit is\n")
    named, out = file if is_file else file.parent, tmp_path / "runs" / "one"
    before = data_named_by(where, named, tmp_path / "rules.py")
    assert before.data == {str(named): content_hash(named)}
    begun(before, out, "finished")
    check_folder(before, out)
    _, settings = stored_comparison(out) or (out, {})
    assert ComparisonConfig.from_dict(settings, trust_code=True).data == before.data
    file.write_text("prompt\nit was\n")
    said = rf"holds runs of other settings: {named} has changed: its SHA-256 was"
    with pytest.raises(ValueError, match=said):
        check_folder(data_named_by(where, named, tmp_path / "rules.py"), out)
    with pytest.raises(SettingsError, match=r"has changed.*begin again"):
        check_code({}, before.data)  # which a run asks before it trains


def test_data_that_are_no_file_are_no_part_of_the_settings():
    assert config("ppo", TaskSettings(dataset="some/hub-name")).data == {}
    assert "data" not in config("ppo").as_dict()


def test_a_folder_in_which_nothing_finished_is_taken_over(tmp_path):
    failed = begun(config(), tmp_path, "failed")
    write_hashed(tmp_path / "reference_samples" / "run.json", {"status": "finished", "files": {}})
    take_over(config(), tmp_path)
    other = config(learning_rate=1e-3)
    check_folder(other, tmp_path)
    assert failed.exists()  # a look deletes nothing, nor is anything deleted of the same settings
    take_over(other, tmp_path)
    assert not failed.exists()
    missing, total = missing_runs(other, tmp_path, retry_failed=False)
    assert len(missing) == total == 2  # the samples were of other settings too


@pytest.mark.parametrize("left", ["unfinished", "iterations"])
def test_a_stopped_run_that_can_be_resumed_is_not_taken_over(tmp_path, left):
    folder = begun(config(), tmp_path, "failed")
    (folder / left).mkdir()
    with pytest.raises(ValueError, match="holds runs of other settings"):
        check_folder(config(learning_rate=1e-3), tmp_path)


@pytest.mark.parametrize("is_begun", [False, True])
def test_samples_of_a_killed_comparison_are_not_taken_over(tmp_path, is_begun):
    made, other = config(), config(learning_rate=1e-3)
    made.reference_spec(tmp_path).write({})
    samples = tmp_path / "reference_samples" / "samples.json"
    write_hashed(samples, {})
    (run,) = (spec.folder for spec in made.specs(tmp_path))
    if is_begun:  # and killed before its first checkpoint
        run.mkdir(parents=True)
    with pytest.raises(ValueError, match="learning_rate"):
        check_folder(other, tmp_path)
    check_folder(made, tmp_path)
    take_over(made, tmp_path)
    assert samples.exists()
    write_hashed(run / "run.json", {"status": "failed", "files": {}})
    check_folder(other, tmp_path)  # all runs failed: the samples were for nothing


def test_what_is_written_beside_an_agent_is_not_part_of_it(tmp_path: Path) -> None:
    weights = tmp_path / "run" / "agent" / "model" / "config.json"
    weights.parent.mkdir(parents=True)
    weights.write_text("{}")

    def hashes() -> dict[str, str]:
        return dict(config("ppo", TaskSettings(model=str(tmp_path / "run"))).data)

    before = hashes()
    (tmp_path / "run" / "report.html").write_text("a page")
    assert hashes() == before
    weights.write_text('{"n_layer": 2}')
    assert hashes() != before


def test_how_far_a_run_is_is_asked_of_it(tmp_path: Path) -> None:
    (spec,) = config().specs(tmp_path)
    run, folder = Run(spec), spec.folder
    assert (run.has_ended, run.can_resume, run.status, run.result) == (False, False, "", {})
    (folder / "unfinished").mkdir(parents=True)
    run.fail("no space")
    assert (run.status, run.is_finished, run.result["error"]) == ("failed", False, "no space")
    run.retry()
    assert (run.status, run.can_resume) == ("", True)  # what was paid for is kept
    curve = folder / "curve.csv"
    curve.write_text("step,score\n0,1.0\n10,2.0\n")
    write_hashed(
        folder / "run.json", {"status": "finished", "files": {"curve.csv": content_hash(curve)}}
    )
    (folder / ".lock").write_text("process 1 on another")
    run.clear()  # what a process left that was killed when the run had finished
    assert (Run(folder).is_finished, run.can_resume) == (True, False)
    assert not (folder / ".lock").exists()
    assert run.curve.area() == 1.5
    curve.write_text("step,score\n0,9.0\n")
    with pytest.raises(ValueError, match="was changed since its run ended"):
        run.result  # noqa: B018


def test_a_reward_that_changes_the_judge_is_not_added(tmp_path):
    """r3 has a scorer of its own, so that the gold score would judge all: beside the old scores."""

    def named(*rewards: str) -> ComparisonConfig:
        return ComparisonConfig(env="QuestionAnswer", rewards=rewards, seeds=1)

    begun(named("sparse", "abc"), tmp_path, "finished")
    check_folder(named("sparse", "abc", "uniform"), tmp_path)
    with pytest.raises(ValueError, match="the score is that of sparse there, of the gold score he"):
        check_folder(named("sparse", "abc", "r3"), tmp_path)
