"""The suite without its laboratory: what it says where a name of the laboratory is asked for."""

import os
import sys
from importlib.metadata import EntryPoint, PackageNotFoundError
from pathlib import Path

import gymnasium as gym
import pytest
from transformers import AutoModelForCausalLM

import tokengym.rewards
from tests.support.forked import execute, forked
from tokengym.agents.learner import LEARNERS, find_learner
from tokengym.base import plugins
from tokengym.base.errors import TokenGymError
from tokengym.base.models import MODELS
from tokengym.base.pretrained import load_whole
from tokengym.envs.tasks import LABORATORY, TASKS
from tokengym.evaluation.measure.environments import env_ids
from tokengym.rewards import make_reward
from tokengym.scripts.cli import PLUGGED, command_names, main

INSTALL = "; tokengym-lab, which is not installed, has more: pip install ./lab in a checkout"


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide every entry point, and what was registered by one."""

    def distribution(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(plugins, "entry_points", lambda **_: [])
    monkeypatch.setattr(plugins, "distribution", distribution)
    monkeypatch.setattr(PLUGGED, "_entries", {})
    monkeypatch.delitem(sys.modules, "tokengym.lab.scorers.judge", raising=False)
    for name in LABORATORY:
        monkeypatch.delitem(TASKS._entries, name, raising=False)


@pytest.mark.usefixtures("alone")
def test_a_name_of_the_laboratory_says_what_to_install(capsys, monkeypatch):
    from tokengym.rewards.credits.words import REWARDS
    from tokengym.rewards.scorers.base import SCORERS

    monkeypatch.delitem(REWARDS._entries, "scar", raising=False)
    monkeypatch.delitem(SCORERS._entries, "judge", raising=False)
    monkeypatch.delitem(LEARNERS._entries, "best-of-n", raising=False)
    monkeypatch.delitem(MODELS._entries, "smollm2", raising=False)
    monkeypatch.delitem(vars(tokengym.rewards), "SCAR", raising=False)

    def refuse(*_: object) -> None:
        raise ConnectionError("no answer")

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", refuse)
    for ask in (
        lambda: gym.make("tokengym/Oracle-v0"),
        lambda: gym.make_vec("tokengym/Forks-v0", num_envs=2),
        lambda: make_reward("scar"),
        lambda: make_reward("sparse", scorer="judge"),
        lambda: load_whole(AutoModelForCausalLM, "smollm2"),
        lambda: find_learner("best-of-n"),
    ):
        with pytest.raises(TokenGymError, match=INSTALL):
            ask()
    with pytest.raises(ImportError, match=f"'SCAR'{INSTALL}"):
        from tokengym.rewards import SCAR  # noqa: F401
    with pytest.raises(AttributeError, match="no attribute '_SCAR'"):
        tokengym.rewards._SCAR  # noqa: B018
    assert main(["replay"]) == 2
    assert INSTALL in capsys.readouterr().err
    assert command_names() == ["demo", "compare", "train", "agents", "evaluate", "envs", "report"]
    assert "tokengym/Oracle-v0" not in env_ids()
    assert "tokengym/MovieReview-v0" in env_ids()


def test_a_package_lists_the_names_that_others_add_to_it_alone(monkeypatch):
    names = ("Added", "rewards.AddedReward", "rewards.gold.AddedScore")
    points = [EntryPoint(name, "a_package", "tokengym.names") for name in names]
    monkeypatch.setattr(plugins, "entry_points", lambda **_: points)
    assert {"Added", "AddedReward"} & {*dir(tokengym)} == {"Added"}
    assert {"Added", "AddedReward", "AddedScore"} & {*dir(tokengym.rewards)} == {"AddedReward"}


def install(folder: Path, package: str, points: str, *, at: int) -> None:
    """Write what a package declares, as an installer does, at a time in seconds."""
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(points)
    os.utime(folder, (at, at))  # a file system may keep no finer time than two calls are apart


def test_a_package_that_is_installed_meanwhile_is_found(tmp_path, monkeypatch):
    def names() -> set[str]:
        return {point.name for point in plugins.plugins("tasks")}

    before = names()
    monkeypatch.syspath_prepend(tmp_path)
    install(tmp_path, "one", "[tokengym.tasks]\nOne = one:TASK\n[other]\nNone = one\n", at=1)
    assert names() == before | {"One"}
    install(tmp_path, "two", "[tokengym.tasks]\nTwo = two:TASK\n", at=2)
    assert names() == before | {"One", "Two"}
    (point,) = plugins.plugins("tasks", "Two")
    assert (point.value, point.dist and point.dist.name) == ("two:TASK", "two")
    monkeypatch.undo()
    assert names() == before


def test_the_suite_imports_nothing_of_the_laboratory():
    """Where it is installed too: making, scoring and naming learners load none of it."""
    code = (
        "import sys, gymnasium as gym, tokengym; from tokengym.agents.learner import find_learner; "
        "env = gym.make('tokengym/MovieReview-v0', reward='abc'); env.reset(seed=0); "
        "import tokengym.agents.training, tokengym.agents.offline.collecting; "
        "find_learner('ppo').algorithm_class(), find_learner('dpo'); "
        "import tokengym.evaluation.runs.compare; "
        "print([name for name in sys.modules if name.startswith('tokengym.lab')])"
    )
    assert forked(execute, code).splitlines()[-1] == "[]"
