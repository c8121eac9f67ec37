"""A run that was killed goes on from its checkpoint to the numbers it would have had."""

import shutil
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from tests.suite.evaluation.runs.killed import Killed, files, killed_at
from tests.support.comparisons import comparison
from tokengym.base.errors import FolderInUseError, StorageError
from tokengym.base.files import read_json, read_jsonl, write_text
from tokengym.base.folders import locked, write_folder
from tokengym.base.settings import changed
from tokengym.evaluation.measure import evaluate as evaluate_module
from tokengym.evaluation.measure.evaluate import Evaluation, Evaluator
from tokengym.evaluation.runs.compare import compare
from tokengym.evaluation.runs.comparison import Comparison
from tokengym.evaluation.runs.executors import here
from tokengym.evaluation.runs.record import RunRecord, response_rows
from tokengym.evaluation.runs.run import Run, run
from tokengym.evaluation.runs.settings import EvaluationSettings, TaskSettings, TrainingSettings
from tokengym.evaluation.runs.spec import run_folder
from tokengym.rewards import ScorerError

QUIET = Console(quiet=True)
BASE: dict[str, Any] = dict(
    env="MovieReview",
    rewards=("sparse", "abc"),
    seeds=1,
    training=changed(
        TrainingSettings(),
        steps=4,
        batch_size=4,
        max_new_tokens=6,
        n_epochs=1,
        kl_target=1.0,
        normalize="running",
    ),
    evaluation=EvaluationSettings(every=1, episodes=4, samples=2, reference_samples=0),
)
CONFIG = comparison(**BASE)


def other(**changes: Any) -> Comparison:
    """Return the same comparison with other settings."""
    return comparison(**{**BASE, **changes})


@pytest.mark.parametrize(
    ("every", "changes", "calls"),
    # Of steps 0 to 4, those after the checkpoint are measured.
    [(1, {}, 2), (2, {}, 3), (1, {"seeds": 2, "rewards": ("sparse", "abc", "uniform")}, 2)],
)
def test_a_killed_run_goes_on_to_the_same_numbers(tmp_path, every, changes, calls, monkeypatch):
    """Also where its comparison has grown since."""
    run(CONFIG, "abc", 0, out=tmp_path / "whole")
    out = tmp_path / "killed"
    with pytest.raises(Killed):  # in the report of step 3; the checkpoint is of step 2 or 1
        run(CONFIG, "abc", 0, out=out, report=killed_at(4), checkpoint_every=every)
    folder = run_folder(out, "abc", 0)
    assert not (folder / "run.json").exists()
    measured: list[Any] = []
    evaluate = Evaluator.__call__

    def counted(self: Evaluator, agent: Any, **options: Any) -> Evaluation:
        measured.append(agent)
        return evaluate(self, agent, **options)

    monkeypatch.setattr(Evaluator, "__call__", counted)
    run(other(**changes), "abc", 0, out=out, checkpoint_every=every)
    assert len(measured) == calls
    assert files(folder) == files(run_folder(tmp_path / "whole", "abc", 0))
    assert not (folder / "unfinished").exists()


def test_what_older_checkpoints_hold_is_taken_over(tmp_path):
    run(CONFIG, "abc", 0, out=tmp_path / "whole")
    with pytest.raises(Killed):
        run(CONFIG, "abc", 0, out=tmp_path, report=killed_at(4), checkpoint_every=1)
    folder = run_folder(tmp_path, "abc", 0)
    checkpoint = folder / "unfinished" / "last"
    stored = read_json(checkpoint / "measured.json")
    responses = response_rows(checkpoint / "responses.npz")
    assert [*responses[0]["prompt"]] == [*responses[2]["prompt"]]
    assert len(responses) == len(stored["measured"]["curve"]) == 3

    def fill(part: Path) -> dict[str, Any]:  # as it was written before they had a file
        shutil.copytree(checkpoint / "agent", part / "agent")
        measured = {**stored["measured"], "responses": responses}
        return {name: stored[name] for name in ("format", "settings")} | {"measured": measured}

    write_folder(tmp_path / "older", "measured.json", fill)
    shutil.rmtree(checkpoint)
    shutil.move(tmp_path / "older", checkpoint)
    seen: list[int] = []
    run(CONFIG, "abc", 0, out=tmp_path, report=lambda *a: seen.append(a[0]), checkpoint_every=1)
    assert seen == [3, 4]
    assert files(folder) == files(run_folder(tmp_path / "whole", "abc", 0))


def test_a_checkpoint_writes_no_numbers_of_single_responses_as_text(tmp_path):
    sizes = []
    for prompts in (10, 1000):
        record = RunRecord(replace(CONFIG.spec("sparse", 0), folder=tmp_path / str(prompts)))
        values = [float(np.float32(n / 7)) if n % 3 else None for n in range(prompts)]
        record.responses = [
            {"score": values[:], "prompt": [float(n) for n in range(prompts)]} for _ in range(20)
        ]
        record.save(lambda folder: write_text(folder / "agent.txt", "an agent"))
        sizes.append((record.checkpoint / "measured.json").stat().st_size)
        again = RunRecord(record.spec)
        assert again.load(lambda _: SOMEBODY) is SOMEBODY
        assert again.responses == record.responses
    assert sizes[1] < sizes[0] + 200  # of the hashes and the folder's name


def test_a_killed_run_begins_anew_where_another_scorer_judges_it(tmp_path: Path):
    config = other(env="QuestionAnswer")
    with pytest.raises(Killed):
        run(config, "abc", 0, out=tmp_path, report=killed_at(2), checkpoint_every=1)
    grown = other(
        env="QuestionAnswer", rewards=("sparse", "abc", "r3")
    )  # the gold score judges these
    seen: list[int] = []
    run(grown, "abc", 0, out=tmp_path, report=lambda *a: seen.append(a[0]), checkpoint_every=1)
    assert seen == [0, 1, 2, 3, 4]


SOMEBODY: Any = object()
"""Stands for an agent."""


@pytest.mark.parametrize("unread", [(0.0, 1.0), (1.0, 0.0)])
def test_a_run_decides_once_whether_the_gold_score_counts(tmp_path, monkeypatch, unread):
    for share in unread:  # of the words at the run's start, and where it is resumed
        monkeypatch.setattr(evaluate_module, "gold_oov_fraction", lambda *_, share=share: share)
        report = killed_at(2) if share == unread[0] else None
        with pytest.raises(Killed) if report else nullcontext():
            run(CONFIG, "abc", 0, out=tmp_path, report=report, checkpoint_every=1)
    points = Run(run_folder(tmp_path, "abc", 0)).points
    assert {point["step"] for point in points} == {0, 1, 2, 3, 4}
    assert {point["gold_score"] is not None for point in points} == {unread[0] == 0.0}


def test_a_run_that_was_killed_as_it_ended_still_says_what_measured_it():
    """Resumed from its last checkpoint it measures nothing more."""
    spec = CONFIG.spec("sparse", 0)
    killed, resumed = RunRecord(spec), RunRecord(spec)
    killed.measured_by = "a judge"
    resumed.resume(killed.state())
    assert resumed.measured_by == "a judge"


@pytest.mark.parametrize("length", [{"steps": 4}, {"tokens": 4 * 4 * 6}])
def test_a_rate_that_falls_belongs_to_the_whole_run(tmp_path, length):
    """It falls in a line to 0 at the run's end, and a killed run continues on the same line."""
    own: Any = {"learning_rate": 0.004, "learning_rate_schedule": "linear"}
    training = changed(BASE["training"], fixed_length=True, **own, **length)
    learner = replace(training.learner, gae_lambda=None)
    config = other(training=replace(training, learner=learner))
    run(config, "sparse", 0, out=tmp_path / "whole")
    whole = files(run_folder(tmp_path / "whole", "sparse", 0))
    rates = [float(row["learning_rate"]) for row in whole["train.csv"]]
    assert rates == pytest.approx([0.004, 0.003, 0.002, 0.001])
    assert {row["gae_lambda"] for row in whole["train.csv"]} == {"0.95"}  # sparse declares none
    with pytest.raises(Killed):
        run(config, "sparse", 0, out=tmp_path, report=killed_at(4), checkpoint_every=1)
    run(config, "sparse", 0, out=tmp_path, checkpoint_every=1)
    assert files(run_folder(tmp_path, "sparse", 0)) == whole
    ended = read_json(run_folder(tmp_path, "sparse", 0) / "run.json")
    assert (ended["gae_lambda"], ended["loss_mean"]) == (0.95, "token")


def test_a_checkpoint_of_other_settings_is_not_gone_on_from(tmp_path):
    with pytest.raises(Killed):
        run(CONFIG, "abc", 0, out=tmp_path, report=killed_at(3), checkpoint_every=1)
    changed_rate = other(training=changed(BASE["training"], learning_rate=1e-3))
    record = run(changed_rate, "abc", 0, out=tmp_path, checkpoint_every=1)
    assert [point["step"] for point in record.points] == [0, 1, 2, 3, 4]


def test_what_was_killed_is_kept_when_failed_runs_are_done_again(tmp_path):
    config = other(rewards=("sparse",))
    with pytest.raises(Killed):
        run(config, "sparse", 0, out=tmp_path, report=killed_at(3), checkpoint_every=1)
    Run(config.spec("sparse", 0, tmp_path)).fail("its process ended with code -9")
    with pytest.raises(ValueError, match="1 failed, the first: its process ended with code -9"):
        compare(config, tmp_path, console=QUIET)
    summary = compare(config, tmp_path, retry_failed=True, jobs=1, console=QUIET)
    assert summary["failed"] == []
    whole = run(config, "sparse", 0)
    again = files(run_folder(tmp_path, "sparse", 0))["curve.csv"]
    assert [float(row["score"]) for row in again] == pytest.approx(
        [point["score"] for point in whole.points], rel=1e-6
    )
    with pytest.raises(ValueError, match=r"checkpoint_every.*>= 0, got -1; 0"):
        compare(config, tmp_path, checkpoint_every=-1, console=QUIET)


def test_a_damaged_checkpoint_begins_anew(tmp_path):
    with pytest.raises(Killed):
        run(CONFIG, "abc", 0, out=tmp_path, report=killed_at(2), checkpoint_every=1)
    unfinished = run_folder(tmp_path, "abc", 0) / "unfinished"
    for path in unfinished.rglob("*.safetensors"):
        path.write_bytes(b"")
    record = run(CONFIG, "abc", 0, out=tmp_path, checkpoint_every=1)
    assert [point["step"] for point in record.points] == [0, 1, 2, 3, 4]


# --- faults that may pass, and other processes ----------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "kept"),
    [
        (ConnectionError("the judge is away"), True),
        (MemoryError("no memory"), True),
        (ValueError("wrong"), False),
    ],
)
def test_a_fault_that_may_pass_keeps_the_checkpoint(tmp_path, fault, kept):
    def fail(step: int, point: Mapping[str, Any]) -> None:
        if step == 2:
            try:
                raise fault
            except Exception:  # a library raises another error about it
                raise RuntimeError("scoring failed")  # noqa: B904

    with pytest.raises(RuntimeError, match="scoring failed"):
        run(CONFIG, "abc", 0, out=tmp_path, report=fail, checkpoint_every=1)
    folder = run_folder(tmp_path, "abc", 0)
    assert (folder / "unfinished").exists() == kept
    assert read_json(folder / "run.json")["status"] == "failed"


HANGING = """
import time
from pathlib import Path
def score(prompt, response):
    if Path(__file__).with_name("away").exists():
        time.sleep(600)
    return len(response) / 100
"""


def test_a_scorer_that_hangs_fails_the_run_which_resumes(tmp_path):
    (tmp_path / "judge.py").write_text(HANGING)
    away, out = tmp_path / "away", tmp_path / "out"
    judge = f"{tmp_path / 'judge.py'}:score"
    config = other(rewards=("sparse",), task=TaskSettings(scorer=judge))
    whole = run(config, "sparse", 0)

    def report(step: int, _: Mapping[str, Any]) -> None:
        if step == 2:
            away.write_text("")

    config = other(rewards=("sparse",), task=TaskSettings(scorer=judge, scorer_timeout=2.0))
    with pytest.raises(ScorerError, match=r"TimeoutError.*scorer_timeout=2"):
        run(config, "sparse", 0, out=out, report=report, checkpoint_every=1)
    folder = run_folder(out, "sparse", 0)
    kept = read_jsonl(folder / "unscored.jsonl")
    assert {(row["score"], bool(row["response_ids"])) for row in kept} == {(None, True)}
    assert len(kept) == BASE["training"].batch_size
    where = f"({len(kept)} finished episodes are kept in {folder / 'unscored.jsonl'})"
    result = read_json(folder / "run.json")
    assert where in result["error"]
    assert "unscored.jsonl" in result["files"]  # a change of it is seen
    away.unlink()
    config = other(rewards=("sparse",), task=TaskSettings(scorer=judge, scorer_timeout=60.0))
    played: list[int] = []
    again = run(
        config, "sparse", 0, out=out, report=lambda s, _: played.append(s), checkpoint_every=1
    )
    assert played == [3, 4]
    assert [point["score"] for point in again.points] == [point["score"] for point in whole.points]


def test_a_run_ends_without_checkpoints_that_cannot_be_written(tmp_path, monkeypatch, caplog):
    def fail(*_: Any) -> None:
        raise StorageError("cannot write there: No space left on device")

    monkeypatch.setattr("tokengym.evaluation.runs.record.RunRecord.save", fail)
    record = run(CONFIG, "abc", 0, out=tmp_path, checkpoint_every=1)
    assert [point["step"] for point in record.points] == [0, 1, 2, 3, 4]
    assert "no checkpoint after step 1: cannot write there" in caplog.text


def test_with_room_again_the_same_comparison_resumes(tmp_path, monkeypatch):
    """A run that a full disk stopped has no result, rather than one that failed for good."""
    whole = compare(CONFIG, tmp_path / "whole", executor=here, console=QUIET)
    save, out = RunRecord.write, tmp_path / "out"

    def fail(record: RunRecord, error: BaseException | None = None) -> None:
        if record.spec.key[0] == "abc":
            raise StorageError("cannot write there: No space left on device")
        save(record, error)

    with monkeypatch.context() as full:
        full.setattr(RunRecord, "write", fail)
        compare(CONFIG, out, executor=here, console=QUIET)  # of the run that could be kept
    assert not (run_folder(out, "abc", 0) / "run.json").exists()
    again = compare(CONFIG, out, executor=here, console=QUIET)
    assert read_json(run_folder(out, "abc", 0) / "run.json")["status"] == "finished"
    files = [(path / "curves.csv").read_text() for path in (tmp_path / "whole", out)]
    of_whole, of_again = ([row.rsplit(",", 1)[0] for row in text.splitlines()] for text in files)
    assert of_whole == of_again  # but for wall_s, the last column
    assert whole.keys() == again.keys()


def test_a_comparison_that_another_process_writes_is_refused(tmp_path):
    with locked(tmp_path), pytest.raises(FolderInUseError, match="is in use by process"):
        compare(CONFIG, tmp_path, console=QUIET)
    # the worker of a killed comparison still holds its run
    with locked(run_folder(tmp_path, "abc", 0)):
        CONFIG.spec("abc", 0, tmp_path).write({})
        with pytest.raises(FolderInUseError, match="is in use by process"):
            compare(CONFIG, tmp_path, console=QUIET)
        with pytest.raises(FolderInUseError, match="is in use by process"):
            run(CONFIG, "abc", 0, out=tmp_path)
