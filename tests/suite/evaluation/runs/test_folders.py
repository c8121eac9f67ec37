"""Which folder a comparison continues, takes over, or leaves alone."""

import shutil
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.support.comparisons import comparison
from tokengym.base.errors import SettingsError
from tokengym.base.files import content_hash, read_hashed, write_hashed
from tokengym.base.identity import named
from tokengym.base.saved_code import check_code
from tokengym.evaluation.runs.comparison import Comparison
from tokengym.evaluation.runs.defaults import training_settings
from tokengym.evaluation.runs.folder import (
    check_folder,
    clear_failed,
    missing_runs,
    stored_comparison,
    stored_runs,
)
from tokengym.evaluation.runs.run import Run
from tokengym.evaluation.runs.settings import TaskSettings
from tokengym.rewards import token_credit

ENV = "tokengym/MovieReview-v0"


def config(agent: str = "dpo", task: TaskSettings | None = None, **changes: Any) -> Comparison:
    training = training_settings(ENV, agent, **changes)
    return comparison(
        env=ENV, rewards=("sparse",), seeds=1, training=training, task=task or TaskSettings()
    )


def begun(made: Comparison, out: Path, status: str) -> Path:
    """Write a folder in which the first run ended so, and return the run's folder."""
    for spec in made.specs(out):
        spec.write({})
    folder = made.specs(out)[0].folder
    write_hashed(folder / "run.json", {"status": status, "files": {}})
    return folder


RULE = """
from tokengym.rewards import on_last, token_credit
@token_credit
def reads(paid, response_mask, model="none"):
    return on_last(paid, response_mask)
"""


def data_named_by(where: str, named: Path, rules: Path) -> Comparison:
    """Return a comparison of which one setting names a file or folder of data or a model."""
    task: dict[str, Any] = {where: str(named)}
    match where:
        case "agents":
            agents = ("ppo", f"dpo:pairs={named}")
            return comparison(ENV, rewards=("sparse",), seeds=1, agents=agents, tokens=100_000)
        case "rewards":
            rewards = ("sparse", f"{rules}:reads:model={named}")
            return comparison(ENV, rewards=rewards, seeds=1)
        case "advantage":
            return config("ppo", advantage=f"{rules}:reads:model={named}")
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
    assert before.reference.data == {str(named): content_hash(named)}
    begun(before, out, "finished")
    check_folder(before, out)
    _, settings = stored_comparison(out) or (out, {})
    assert settings["data"] == before.reference.data
    file.write_text("prompt\nit was\n")
    said = rf"holds runs of other settings: {named} has changed: its SHA-256 was"
    with pytest.raises(ValueError, match=said):
        check_folder(data_named_by(where, named, tmp_path / "rules.py"), out)
    with pytest.raises(SettingsError, match=r"has changed.*begin again"):
        check_code({}, before.reference.data)  # which a run asks before it trains


@pytest.mark.parametrize("where", ["scorer", "reward"])
def test_an_object_that_a_run_changes_needs_a_name(tmp_path, where):
    """Its cache is all that changed: the refusal says how its own command can be repeated."""

    @token_credit
    class Counted:
        calls: ClassVar[list[str]] = []

        def __call__(self, response: str) -> float:
            self.calls.append(response)
            return 1.0

    def made(item: Any) -> Comparison:
        if where == "scorer":
            task = TaskSettings(scorer=item)
            return comparison(ENV, rewards=("sparse",), seeds=1, task=task)
        return comparison(ENV, rewards=("sparse", item), seeds=1)

    judge: Any = Counted() if where == "scorer" else Counted
    begun(made(judge), tmp_path / "bare", "finished")
    check_folder(made(judge), tmp_path / "bare")
    with pytest.raises(ValueError, match="holds runs of other settings") as other:
        check_folder(config(), tmp_path / "bare")
    assert "named" not in str(other.value)
    Counted.calls.append("it was")
    with pytest.raises(ValueError, match=r"Counted changed since.*tokengym.named\(Counted, "):
        check_folder(made(judge), tmp_path / "bare")
    begun(made(named(judge, "May")), tmp_path / "named", "finished")
    Counted.calls.append("it is")
    check_folder(made(judge), tmp_path / "named")
    with pytest.raises(ValueError, match="Counted changed since"):
        check_folder(made(named(judge, "June")), tmp_path / "named")


def test_data_that_are_no_file_are_no_part_of_the_settings():
    assert config("ppo", TaskSettings(dataset="some/hub-name")).reference.data == {}
    assert "data" not in config("ppo").reference.settings()


def test_a_folder_in_which_nothing_finished_is_taken_over(tmp_path):
    failed = begun(config(), tmp_path, "failed")
    write_hashed(tmp_path / "reference_samples" / "run.json", {"status": "finished", "files": {}})
    clear_failed(config(), tmp_path)
    other = config(learning_rate=1e-3)
    check_folder(other, tmp_path)
    assert failed.exists()  # a look deletes nothing, nor is anything deleted of the same settings
    clear_failed(other, tmp_path)
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
    made, other = config(), config(max_new_tokens=9)
    made.reference_spec(tmp_path).write({})
    samples = tmp_path / "reference_samples" / "samples.json"
    write_hashed(samples, {})
    (run,) = (spec.folder for spec in made.specs(tmp_path))
    if is_begun:  # and killed before its first checkpoint
        run.mkdir(parents=True)
    with pytest.raises(ValueError, match="max_new_tokens 48 there, 9 here"):
        check_folder(other, tmp_path)
    check_folder(config(learning_rate=1e-3), tmp_path)  # samples of the same untrained policy
    check_folder(made, tmp_path)
    clear_failed(made, tmp_path)
    assert samples.exists()
    write_hashed(run / "run.json", {"status": "failed", "files": {}})
    check_folder(other, tmp_path)  # all runs failed: the samples were for nothing


def test_what_is_written_beside_an_agent_is_not_part_of_it(tmp_path: Path) -> None:
    weights = tmp_path / "run" / "agent" / "model" / "config.json"
    weights.parent.mkdir(parents=True)
    weights.write_text("{}")

    def hashes() -> dict[str, str]:
        return dict(config("ppo", TaskSettings(model=str(tmp_path / "run"))).reference.data)

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

    def named(*rewards: str) -> Comparison:
        return comparison(env="QuestionAnswer", rewards=rewards, seeds=1)

    begun(named("sparse", "abc"), tmp_path, "finished")
    check_folder(named("sparse", "abc", "uniform"), tmp_path)
    with pytest.raises(
        ValueError, match="'the scorer of sparse' there, 'the gold score of all' here"
    ):
        check_folder(named("sparse", "abc", "r3"), tmp_path)


# --- runs that were put together by hand ----------------------------------------------------------


def finished(made: Comparison, out: Path) -> None:
    """Write a folder in which every run has finished."""
    for spec in made.specs(out):
        spec.write({})
        result = {"status": "finished", "credit": spec.name, "seed": spec.seed, "files": {}}
        write_hashed(spec.folder / "run.json", result)


def of_two(**changes: Any) -> Comparison:
    return comparison(ENV, rewards=("sparse", "abc"), seeds=2, **changes)


@pytest.mark.parametrize("other", ["abc/seed-0", "sparse/seed-1"])
def test_a_run_in_the_place_of_another_is_named(tmp_path, other):
    finished(of_two(), tmp_path)
    shutil.rmtree(tmp_path / other)
    shutil.copytree(tmp_path / "sparse" / "seed-0", tmp_path / other)
    with pytest.raises(ValueError, match=f"{other} has the run of sparse, seed 0"):
        check_folder(of_two(), tmp_path)
    with pytest.raises(ValueError, match=f"{other} holds the run of sparse, seed 0; move it to"):
        stored_runs(tmp_path)


def test_a_result_of_another_run_is_named(tmp_path):
    finished(of_two(), tmp_path)
    results = [tmp_path / "sparse" / f"seed-{seed}" / "run.json" for seed in (0, 1)]
    shutil.copy(*results)
    for run in (Run(of_two().spec("sparse", 1, tmp_path)), Run(results[1].parent)):
        with pytest.raises(ValueError, match=r"run\.json is that of sparse, seed 0; restore"):
            run.result  # noqa: B018


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"learning_rate": 0.05}, "learning_rate 0.0003 there, 0.05 here"),
        ({"eval_episodes": 32}, "evaluation.episodes 48 there, 32 here"),
    ],
)
@pytest.mark.parametrize("alien", ["abc", "sparse"])
def test_a_run_of_other_settings_is_named(tmp_path, changes, said, alien):
    """Beside its arm's other seed, and beside another arm, all of which are measured alike."""
    out, elsewhere = tmp_path / "one", tmp_path / "other"
    finished(of_two(), out)
    finished(of_two(**changes), elsewhere)
    shutil.rmtree(out / alien / "seed-1")
    shutil.copytree(elsewhere / alien / "seed-1", out / alien / "seed-1")
    there, here = said.split(" there, ")
    turned = f"{there.rpartition(' ')[0]} {here.removesuffix(' here')} there, "
    with pytest.raises(ValueError, match=turned):
        check_folder(of_two(), out)
    with pytest.raises(ValueError, match=f"than the runs beside it: {said}"):
        stored_runs(out)


def test_a_spec_of_another_version_is_one_line(tmp_path):
    finished(of_two(), tmp_path)
    file = tmp_path / "abc" / "seed-0" / "spec.json"
    whole = {name: value for name, value in read_hashed(file).items() if name != "versions"}
    for name in whole:
        write_hashed(file, {key: value for key, value in whole.items() if key != name})
        with pytest.raises(ValueError, match=r"spec\.json is damaged or of another version"):
            stored_runs(tmp_path)
