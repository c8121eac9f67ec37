"""Trackers by name: TensorBoard, and stand-ins for the other libraries."""

import sys
from importlib.machinery import ModuleSpec
from importlib.metadata import metadata
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tokengym.agents.rollouts import logs
from tokengym.agents.rollouts.logs import TRACKERS, check_tracker, make_tracker
from tokengym.base.errors import SettingsError
from tokengym.scripts.cli import main

ROW = {"train/kl": np.float32(0.5), "rollout/score": 2, "time/text": "no number", "samples": None}
TINY = [
    *("--updates", "2", "--batch-size", "4", "--max-new-tokens", "4", "--n-epochs", "1"),
    *("--eval-every", "1", "--eval-episodes", "4"),
]


class Calls(ModuleType):
    """A library that notes what is called."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)
        self.made: list[tuple[str, Any, dict[str, Any]]] = []
        limits = SimpleNamespace(MAX_PARAM_VAL_LENGTH=500, MAX_PARAMS_TAGS_PER_BATCH=100)
        self.utils = SimpleNamespace(validation=limits)  # of MLflow

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **kwargs: self._note(name, args, kwargs)

    def _note(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.made.append((name, args, kwargs))
        return [] if name.startswith("search") else self  # a run has the library's functions


@pytest.fixture
def library(request: Any, monkeypatch: pytest.MonkeyPatch) -> Calls:
    stand_in = Calls(request.param)
    monkeypatch.setitem(sys.modules, request.param, stand_in)
    return stand_in


@pytest.mark.parametrize("library", ["wandb", "trackio"], indirect=True)
def test_wandb_and_trackio_are_called_alike(library, tmp_path):
    tracker = make_tracker(library.__name__, tmp_path, name="abc, seed 0", config={"beta": 1})
    tracker.write(ROW, dict.fromkeys(ROW, ()), 3)
    tracker.write({"text": "only"}, {"text": ()}, 4)
    tracker.close()
    assert library.made == [
        ("init", (), {"project": "tokengym", "name": "abc, seed 0", "config": {"beta": 1}}),
        ("log", ({"train/kl": 0.5, "rollout/score": 2.0},), {"step": 3}),
        ("finish", (), {}),
    ]


@pytest.mark.parametrize("library", ["mlflow"], indirect=True)
def test_mlflow_is_called(library, tmp_path):
    tracker = make_tracker("mlflow", tmp_path, name="abc", config={"beta": None})
    tracker.write(ROW, dict.fromkeys(ROW, ()), 3)
    tracker.close()
    assert library.made == [
        ("search_experiments", (), {"filter_string": "name = 'tokengym'"}),
        ("create_experiment", (), {"name": "tokengym", "artifact_location": None, "tags": None}),
        ("start_run", (), library.made[2][2] | {"run_name": "abc", "run_id": None}),
        ("log_params", ({"beta": None},), {}),
        ("log_metrics", ({"train/kl": 0.5, "rollout/score": 2.0},), {"step": 3}),
        ("end_run", (), {}),
    ]


@pytest.mark.parametrize("library", ["mlflow"], indirect=True)
def test_a_tracker_that_cannot_begin_is_named_in_one_line(library, tmp_path, monkeypatch):
    def refuse(**_: Any) -> None:
        raise RuntimeError("the store is in maintenance mode\nmore")

    monkeypatch.setattr(library, "search_experiments", refuse, raising=False)
    message = r"'mlflow' cannot.*\(the store.*maintenance"
    with pytest.raises(SettingsError, match=message):
        make_tracker("mlflow", tmp_path, name="abc")


@pytest.mark.parametrize("track", TRACKERS)
def test_a_missing_library_is_named_with_its_extra(track, monkeypatch, capsys):
    monkeypatch.setattr(logs, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=rf"pip install 'tokengym\[{track}\]'"):
        check_tracker(track)
    assert main(["train", "--track", track, *TINY]) == 2
    assert f"pip install 'tokengym[{track}]'" in capsys.readouterr().err
    assert track in (metadata("tokengym").get_all("Provides-Extra") or ())


def test_an_unknown_tracker_is_refused():
    check_tracker(None)
    with pytest.raises(SettingsError, match=r"track.*got 'tensorbored'"):
        check_tracker("tensorbored")


def test_tensorboard_s_files_hold_the_run(tmp_path):
    out = tmp_path / "run"
    assert main(["train", "--track", "tensorboard", *TINY, "--out", str(out)]) == 0
    (folder,) = out.glob("*/seed-0/tensorboard")
    events = EventAccumulator(str(folder)).Reload()
    assert [scalar.step for scalar in events.Scalars("eval/score")] == [0, 1, 2]
    assert [scalar.step for scalar in events.Scalars("train/kl")] == [1, 2]
