"""Executors: what each asks of its library, and what is recorded of the runs."""

import io
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from tokengym.base.errors import SettingsError
from tokengym.base.files import read_json
from tokengym.evaluation.runs import ComparisonConfig, RunSpec
from tokengym.evaluation.runs.compare import compare, execute
from tokengym.evaluation.runs.executors import EXECUTORS, Executor
from tokengym.evaluation.runs.launchers import ProgressDisplay

CONFIG = ComparisonConfig(env="MovieReview", rewards=("sparse", "abc:beta=0.8"), seeds=1)
KILLED = "abc:beta=0.8"


def do(spec: RunSpec, *, seen: Callable[[RunSpec], None]) -> str | None:
    """Stand in for a run: one reward's job is killed."""
    seen(spec)
    if spec.name == KILLED:
        raise MemoryError("killed")
    return None


class Job:
    """A job of submitit's, done when it is submitted."""

    def __init__(self, function: Any, spec: RunSpec) -> None:
        self.cancelled, self.error, self.value = False, None, None
        try:
            self.value = function(spec)
        except MemoryError as error:
            self.error = error

    def exception(self) -> Exception | None:
        return self.error

    def result(self) -> Any:
        return self.value

    def done(self) -> bool:
        return self.error is not None

    def cancel(self) -> None:
        self.cancelled = True


def submitit(asked: dict[str, Any]) -> Any:
    """Return a stand-in for submitit."""

    class AutoExecutor:
        def __init__(self, folder: str, cluster: str) -> None:
            assert cluster == "slurm"  # else submitit runs all of them here, at once
            asked["folder"] = folder

        def update_parameters(self, **parameters: Any) -> None:
            asked["parameters"] = parameters

        def batch(self) -> Any:
            from contextlib import nullcontext

            return nullcontext()

        def submit(self, function: Any, spec: RunSpec) -> Job:
            job = Job(function, spec)
            asked.setdefault("jobs", []).append(job)
            return job

    return SimpleNamespace(
        AutoExecutor=AutoExecutor, helpers=SimpleNamespace(as_completed=lambda jobs: jobs)
    )


def ray(asked: dict[str, Any]) -> Any:
    """Return a stand-in for Ray."""

    class RayError(Exception):
        pass

    class Task:
        def __init__(self, run: Callable[[], Any]) -> None:
            self.run = run

    def remote(**options: Any) -> Any:
        asked["options"] = options

        def of(function: Any) -> Any:
            return SimpleNamespace(remote=lambda spec: Task(partial(function, spec)))

        return of

    def get(task: Task) -> Any:
        try:
            return task.run()
        except MemoryError as error:
            raise RayError(str(error)) from error

    return SimpleNamespace(
        init=lambda **_: None,
        remote=remote,
        wait=lambda tasks, num_returns: (tasks[:num_returns], tasks[num_returns:]),
        get=get,
        cancel=lambda task, force: asked.setdefault("cancelled", []).append(force),
        exceptions=SimpleNamespace(RayError=RayError),
    )


@pytest.mark.parametrize("word", ["slurm:slurm_partition=gpu,timeout_min=60", "ray:num_gpus=1"])
def test_runs_are_handed_to_the_library_and_recorded(
    word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked: dict[str, Any] = {}
    monkeypatch.setitem(sys.modules, "submitit", submitit(asked))
    monkeypatch.setitem(sys.modules, "ray", ray(asked))
    executor: Executor = EXECUTORS.make(word)
    done: list[RunSpec] = []
    monkeypatch.chdir(tmp_path)
    text = Console(record=True, file=io.StringIO(), width=200)
    with ProgressDisplay(text, total=2, done=0, steps=1) as board:
        execute(CONFIG.plans(Path("out")), board, executor, partial(do, seen=done.append))
    assert [spec.key for spec in done] == [("sparse", 0), (KILLED, 0)]
    assert all(spec.folder is not None and spec.folder.is_absolute() for spec in done)
    shown = text.export_text()
    assert "sparse, seed 0: finished" in shown  # a run's death ends no other
    assert "abc:beta=0.8, seed 0: failed: " in shown
    stored = read_json(tmp_path / "out" / "abc_beta=0.8" / "seed-0" / "run.json")
    assert stored["status"] == "failed"
    assert "killed" in stored["error"]
    if word.startswith("slurm"):
        assert asked["parameters"] == {"slurm_partition": "gpu", "timeout_min": 60}
    else:
        assert asked["options"] == {"max_calls": 1, "num_gpus": 1}


@pytest.mark.parametrize("word", ["slurm", "ray"])
def test_what_is_stopped_is_cancelled(word: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    asked: dict[str, Any] = {}
    monkeypatch.setitem(sys.modules, "submitit", submitit(asked))
    monkeypatch.setitem(sys.modules, "ray", ray(asked))
    ended: Any = EXECUTORS.make(word)(lambda spec: None, CONFIG.plans(tmp_path))
    assert next(ended)[0].name == "sparse"
    ended.close()  # as after Ctrl-C
    cancelled = [job for job in asked.get("jobs", ()) if job.cancelled] or asked["cancelled"]
    assert cancelled


def test_a_library_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(SettingsError, match=r"needs submitit, .*: pip install submitit"):
        EXECUTORS.make("slurm")
    with pytest.raises(SettingsError, match=r"unknown executor 'slrum'; did you mean 'slurm'\?"):
        EXECUTORS.make("slrum")
    with pytest.raises(ValueError, match="jobs=2 has no effect beside an executor"):
        compare(CONFIG, Path("out"), jobs=2, executor=EXECUTORS.make("here"))


def test_a_spec_survives_its_folder_and_is_all_that_a_run_reads(tmp_path: Path):
    (spec,) = (plan for plan in CONFIG.plans(tmp_path) if plan.name == KILLED)
    assert spec.folder is not None
    spec.folder.mkdir(parents=True)
    spec.write({"tokengym": "1"})
    read = RunSpec.read(spec.folder)
    assert read == spec
    assert (read.reward.name, read.reward.options) == ("abc", {"beta": 0.8})
    assert read.settings() == CONFIG.as_dict()
    assert read.env_kwargs(train=True)["reward"].made.beta == 0.8
    assert read_json(spec.folder / "spec.json")["versions"] == {"tokengym": "1"}
