"""Executors: what each asks of its library, and what is recorded of the runs."""

import io
import os
import pickle
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from rich.console import Console

from tests.support.comparisons import comparison
from tokengym.base.errors import SettingsError, Stopped, is_fault
from tokengym.base.files import read_json
from tokengym.base.folders import locked
from tokengym.evaluation.runs import RunSettings, RunSpec
from tokengym.evaluation.runs.compare import compare, do_run, execute
from tokengym.evaluation.runs.display import ProgressDisplay
from tokengym.evaluation.runs.executors import (
    EXECUTORS,
    Ended,
    Executor,
    Fault,
    RemoteRun,
    _SlurmRun,
)
from tokengym.evaluation.runs.run import Run
from tokengym.rewards import ScorerError

QUIET = Console(quiet=True)
CONFIG = comparison(env="MovieReview", rewards=("sparse", "abc:beta=0.8"), seeds=1)
KILLED = "abc:beta=0.8"


class UncompletedJobError(RuntimeError):
    pass


class FailedJobError(UncompletedJobError):
    pass


def do(
    spec: RunSpec,
    *,
    seen: Callable[[RunSpec], None],
    error: BaseException = UncompletedJobError("killed"),  # noqa: B008
) -> Fault | None:
    """Stand in for a run: one reward's job ends with an error."""
    seen(spec)
    if spec.name == KILLED:
        raise error
    return None


def result(spec: RunSpec) -> Path:
    return spec.folder / "run.json"


def job_of(function: Any) -> Mock:
    """Return a job of submitit's, done when it is submitted."""
    job = Mock(exception=Mock(return_value=None))
    try:
        job.result.return_value = function()
    except UncompletedJobError as error:
        job.exception.return_value = error
    except RuntimeError as error:
        job.exception.return_value = FailedJobError(str(error))
    job.done.return_value = job.exception() is not None
    return job


def submitit(asked: dict[str, Any]) -> Any:
    """Return a stand-in for submitit."""

    class AutoExecutor:
        def __init__(self, folder: str, cluster: str) -> None:
            assert cluster == "slurm"  # else submitit runs all of them here, at once
            asked["folder"] = folder

        def update_parameters(self, **parameters: Any) -> None:
            asked["parameters"] = parameters

        def batch(self) -> Any:
            return nullcontext()

        def submit(self, function: Any) -> Mock:
            asked.setdefault("jobs", []).append(job_of(function))
            return asked["jobs"][-1]

    helpers = SimpleNamespace(
        as_completed=lambda jobs: jobs, DelayedSubmission=lambda function: function
    )
    core = SimpleNamespace(utils=SimpleNamespace(FailedJobError=FailedJobError))
    return SimpleNamespace(AutoExecutor=AutoExecutor, helpers=helpers, core=core)


def ray(asked: dict[str, Any]) -> Any:
    """Return a stand-in for Ray."""

    class RayError(Exception):
        pass

    class RayTaskError(RayError):
        pass

    def remote(**options: Any) -> Any:
        asked["options"] = options
        return lambda function: SimpleNamespace(remote=partial(partial, function))

    def get(task: Callable[[], Any]) -> Any:
        try:
            return task()
        except UncompletedJobError as error:
            raise RayError(str(error)) from error
        except RuntimeError as error:
            raise RayTaskError(str(error)) from error

    return SimpleNamespace(
        init=lambda **_: None,
        remote=remote,
        wait=lambda tasks, num_returns: (tasks[:num_returns], tasks[num_returns:]),
        get=get,
        cancel=lambda task, force: asked.setdefault("cancelled", []).append(force),
        exceptions=SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError),
    )


@pytest.mark.parametrize("word", ["slurm:slurm_partition=gpu,timeout_min=60", "ray:num_gpus=1"])
@pytest.mark.parametrize("error", [UncompletedJobError("killed"), RuntimeError("of the run")])
def test_runs_are_handed_to_the_library_and_recorded(word, error, tmp_path, monkeypatch):
    asked: dict[str, Any] = {}
    monkeypatch.setitem(sys.modules, "submitit", submitit(asked))
    monkeypatch.setitem(sys.modules, "ray", ray(asked))
    executor: Executor = EXECUTORS.make(word)
    done: list[RunSpec] = []
    monkeypatch.chdir(tmp_path)
    text = Console(record=True, file=io.StringIO(), width=200)
    with ProgressDisplay(text, total=2, done=0, steps=1) as board:
        execute(
            CONFIG.specs(Path("out")), board, executor, partial(do, seen=done.append, error=error)
        )
    assert [spec.key for spec in done] == [("sparse", 0), (KILLED, 0)]
    assert all(spec.folder is not None and spec.folder.is_absolute() for spec in done)
    shown = text.export_text()
    assert "sparse, seed 0: finished" in shown  # a run's death ends no other
    is_killed = isinstance(error, UncompletedJobError)
    assert f"abc:beta=0.8, seed 0: {'stopped' if is_killed else 'failed'}: " in shown
    # The same command does a run that was killed again, as one that reached its time limit.
    stored = tmp_path / "out" / "abc_beta=0.8" / "seed-0" / "run.json"
    assert stored.exists() is not is_killed
    if not is_killed:
        assert read_json(stored)["status"] == "failed"
        assert "of the run" in read_json(stored)["error"]
    if word.startswith("slurm"):
        assert asked["parameters"] == {"slurm_partition": "gpu", "timeout_min": 60}
    else:
        assert asked["options"] == {"max_calls": 1, "num_gpus": 1}


def limited(spec: RunSpec) -> Fault | None:
    """Stand in for a run that the signal before a time limit reaches."""
    try:
        os.kill(os.getpid(), signal.SIGUSR2)
        time.sleep(60)
    except BaseException as error:
        if is_fault(error):
            return Fault("it takes the limit for a fault of its own")
        raise
    return None


def test_a_time_limit_of_slurm_is_no_fault_of_the_run_which_is_queued_again(tmp_path, monkeypatch):
    asked: dict[str, Any] = {}
    monkeypatch.setitem(sys.modules, "submitit", submitit(asked))
    (spec, _) = CONFIG.specs(tmp_path)
    run = _SlurmRun(limited, spec)
    assert run.checkpoint() is run

    def interrupt(*_: object) -> None:  # as submitit does in the job
        raise UncompletedJobError("timed-out too many times")

    before = signal.signal(signal.SIGUSR2, interrupt)
    try:
        with pytest.raises(Stopped, match="timed-out too many times"):
            run()
    finally:
        signal.signal(signal.SIGUSR2, before)


def of_runs(faults: dict[str, Fault | None]) -> Executor:
    """Return an executor that ends runs with these faults, by name, and the others well."""

    def execute(function: Any, specs: Sequence[RunSpec]) -> Ended:
        yield from ((spec, faults.get(spec.name)) for spec in specs)

    return execute


def test_a_run_that_another_process_holds_is_not_recorded_as_failed(tmp_path):
    held, free = CONFIG.specs(tmp_path)
    faults: dict[str, Fault | None] = {name: Fault("it failed") for name in CONFIG.names}
    board = ProgressDisplay(QUIET, total=2, done=0, steps=1)
    with locked(held.folder):
        execute([held, free], board, of_runs(faults), do_nothing)
    assert (result(held).exists(), result(free).exists()) == (False, True)


def do_nothing(spec: RunSpec) -> None: ...


def test_the_device_of_runs_elsewhere_is_that_of_the_other_machine(tmp_path):
    config = comparison("MovieReview", rewards=CONFIG.names, seeds=1, device="cuda:77")
    with pytest.raises(ValueError, match="cuda:77"):
        compare(config, tmp_path / "here", executor=EXECUTORS.make("here"), console=QUIET)
    limit: dict[str, Fault | None] = {
        name: Fault("time limit", resumes=True) for name in ("reference samples", *CONFIG.names)
    }
    with pytest.raises(ValueError, match="the same command resumes them"):
        compare(config, tmp_path / "there", executor=of_runs(limit), console=QUIET)
    assert not list(tmp_path.glob("**/run.json"))


PLAYER = """
class Player:
    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        raise NotImplementedError
"""


def environment_of(spec: RunSpec) -> Fault:
    return Fault(f"{spec.agent.text} in {os.getcwd()}")


def test_relative_paths_start_where_the_command_was_given(tmp_path, monkeypatch):
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
    (here / "player.py").write_text(PLAYER)
    monkeypatch.chdir(here)
    config = comparison(
        env="MovieReview", rewards=("sparse",), agents=("player.py:Player",), seeds=1
    )
    run = pickle.dumps(RemoteRun(environment_of, config.specs(Path("out"))[0]))
    monkeypatch.chdir(there)
    assert pickle.loads(run)() == Fault(f"player.py:Player in {here}")
    monkeypatch.chdir(there)
    shutil.move(here, tmp_path / "gone")  # a disk that this machine does not share
    fault = pickle.loads(run)()
    assert (str(here) in fault.text, fault.resumes) == (True, True)


FAULT = Fault("ScorerError: mine raised TypeError", of_scorer="mine raised TypeError")
OTHER = Fault("OSError: the disk is full")
LATER = Fault("ScorerError: mine raised TypeError")  # the run had measured before


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(
    ("of_samples", "of_runs_", "refused"),
    [
        (FAULT, FAULT, True),
        (FAULT, LATER, True),
        (FAULT, OTHER, True),
        (None, FAULT, False),
        (OTHER, FAULT, False),
    ],
)
def test_a_scorer_that_fails_on_the_reference_samples_ends_the_comparison(
    tmp_path, of_samples, of_runs_, refused, order
):
    specs = [*CONFIG.specs(tmp_path), CONFIG.reference_spec(tmp_path)]
    for spec in specs:
        fault = of_samples if spec.is_reference else of_runs_
        if fault is not None:
            Run(spec).fail(fault.text)
        if fault in (FAULT, LATER):  # a curve of no point has a header
            (spec.folder / "curve.csv").write_text("step\n0\n" if fault is LATER else "step\n")
    faults = {"reference samples": of_samples, **dict.fromkeys(CONFIG.names, of_runs_)}
    board = ProgressDisplay(QUIET, total=3, done=0, steps=2)
    refusal = pytest.raises(ScorerError, match=r"^no run can be measured: mine raised TypeError$")
    with refusal if refused else nullcontext():
        execute(specs[::order], board, of_runs(faults), do_nothing)
    # Runs that failed for the same reason are done again by the same command.
    kept = not refused or of_runs_ is not FAULT
    assert [result(spec).exists() for spec in specs[:-1]] == [kept, kept]
    assert result(specs[-1]).exists() == (of_samples is OTHER)


def test_a_run_of_another_process_keeps_its_progress(tmp_path):
    (spec, _) = CONFIG.specs(tmp_path)
    told: list[Any] = [3, {"score": 1.0}]
    with locked(spec.folder):
        Run(spec).keep_progress(*told)
        fault = do_run(spec)
        assert fault is not None
        assert fault.text.startswith("FolderInUseError")
        assert Run(spec).progress == (True, told)


def test_a_scorer_that_fails_at_once_on_more_samples_is_known_as_the_cause(tmp_path):
    config = comparison("MovieReview", rewards=CONFIG.names, seeds=1, reference_samples=16)
    assert do_run(config.reference_spec(tmp_path)) is None
    scorer = tmp_path / "scorer.py"
    scorer.write_text("def mine(response): raise TypeError('no')")
    spec = config.reference_spec(tmp_path)
    task = replace(spec.task, scorer=f"{scorer}:mine")
    more = replace(spec.evaluation, reference_samples=32)
    fault = do_run(replace(spec, groups=RunSettings.of(spec.training, more, task)))
    assert fault is not None
    assert "TypeError" in str(fault.of_scorer)


def test_runs_are_shown_from_when_they_begin_wherever_they_are(tmp_path):
    (first, second) = CONFIG.specs(tmp_path)
    text = Console(record=True, file=io.StringIO(), width=200)
    board = ProgressDisplay(text, total=2, done=0, steps=9, specs=[first, second])

    def execute_first(function: Any, specs: Sequence[RunSpec]) -> Ended:
        board.look()
        assert not board._runs.tasks  # both are queued
        (one, _) = specs
        with locked(one.folder):
            board.look()
            (task,) = board._runs.tasks
            assert (task.fields["name"], task.completed) == ("sparse, seed 0", 0)
            Run(one).keep_progress(3, {"score": 1.5, "kl": None, "tokens": 60, "wall_s": 2.0})
            board.look()
            (task,) = board._runs.tasks
            assert (task.completed, task.fields["figures"]) == (3, "score 1.500, 30 tokens/s")
        yield one, None
        assert not board._runs.tasks
        yield specs[1], None

    execute([first, second], board, execute_first, do_nothing)
    assert (board.done, "abc:beta=0.8, seed 0: finished" in text.export_text()) == (2, True)


@pytest.mark.parametrize("word", ["slurm", "ray"])
def test_what_is_stopped_is_cancelled(word, monkeypatch, tmp_path):
    asked: dict[str, Any] = {}
    monkeypatch.setitem(sys.modules, "submitit", submitit(asked))
    monkeypatch.setitem(sys.modules, "ray", ray(asked))
    ended: Any = EXECUTORS.make(word)(do_nothing, CONFIG.specs(tmp_path))
    assert next(ended)[0].name == "sparse"
    ended.close()  # as after Ctrl-C
    assert any(job.cancel.called for job in asked.get("jobs", ())) or asked["cancelled"]


def test_what_is_not_there_is_named(monkeypatch):
    def no_cluster(**_: Any) -> None:
        raise RuntimeError('Could not detect "srun", are you indeed on a slurm cluster?')

    monkeypatch.setitem(sys.modules, "submitit", SimpleNamespace(AutoExecutor=no_cluster))
    with pytest.raises(SettingsError, match=r"\(Could not detect \"srun\".*leave --executor out"):
        next(iter(EXECUTORS.make("slurm")(lambda spec: {}, [])))
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(SettingsError, match=r"needs submitit, .*: pip install submitit"):
        EXECUTORS.make("slurm")
    with pytest.raises(SettingsError, match=r"unknown executor 'slrum'; did you mean 'slurm'\?"):
        EXECUTORS.make("slrum")
    with pytest.raises(ValueError, match="jobs=2 has no effect beside an executor"):
        compare(CONFIG, Path("out"), jobs=2, executor=EXECUTORS.make("here"))


def test_a_spec_survives_its_folder_and_is_all_that_a_run_reads(tmp_path):
    (spec,) = (spec for spec in CONFIG.specs(tmp_path) if spec.name == KILLED)
    spec.folder.mkdir(parents=True)
    spec.write({"tokengym": "1"})
    read = RunSpec.read(spec.folder)
    assert read == spec
    assert (read.reward.name, read.reward.options) == ("abc", {"beta": 0.8})
    assert read.settings() == spec.settings()
    assert read.env_kwargs(train=True)["reward"].made.options["beta"] == 0.8
    assert read_json(spec.folder / "spec.json")["versions"] == {"tokengym": "1"}
