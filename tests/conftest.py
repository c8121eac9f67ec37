"""What every test process has in common: no network, no parallel tokenizers, no GPU, one thread.

More threads where ``OMP_NUM_THREADS`` says so; CONTRIBUTING.md has the settings of other machines.
Tests mean the CPU unless they play a GPU, or a GPU is named: ``CUDA_VISIBLE_DEVICES=0 pytest``.
``TOKENGYM_PLAY_GPUS=1 pytest`` plays two for a whole session (`tests.suite.agents.played_devices`);
``TOKENGYM_TAPES=1 pytest`` plays captured steps (`tests.support.tapes`).
"""

import gc
import os
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
if not os.environ["CUDA_VISIBLE_DEVICES"]:
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported

pytest_plugins = ["tests.support.words"]
session = ExitStack()
module: Path | None = None
"""File of the last test."""
OF_RUNS = (
    *("tokengym.evaluation.runs.run", "tokengym.agents.ppo.ppo", "tokengym.agents.fast.gpt2"),
    *("tokengym.agents.offline.dpo", "tokengym.agents.offline.sft", "tokengym.scripts.cli"),
    *("tests.support.pictures", "matplotlib.backends.backend_agg", "tests.support.warm"),
)
"""Modules that most processes of the tests need."""


def pytest_sessionstart() -> None:
    """Wait for no disk, as `tests.support.warm`; play GPUs, so that "auto" is the first of them."""
    unsynced = session.enter_context(pytest.MonkeyPatch.context())
    unsynced.setattr(os, "fsync", lambda descriptor: None)
    if os.environ.get("TOKENGYM_PLAY_GPUS"):
        from tests.suite.agents.played_devices import playing

        session.enter_context(playing(pytest.MonkeyPatch()))
    if os.environ.get("TOKENGYM_TAPES"):
        from tests.support.tapes import taping

        session.enter_context(taping(pytest.MonkeyPatch()))


@pytest.fixture(autouse=True)
def untold() -> None:
    """Have each test warned of missing scores, which a process says once for a scorer."""
    if rewards := sys.modules.get("tokengym.rewards.reward"):
        rewards.TOLD.clear()


def settle() -> None:
    """Free what is garbage, and have the collector look no more through what is left.

    Else each training looks through all that a process holds, of earlier modules' caches too, for
    half a second.
    """
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Settle what the module before left; lay pictures out where a test, or its fixture, looks."""
    global module
    if module not in (None, item.path):
        settle()
    module = item.path
    if "matplotlib.figure" in sys.modules:
        from tests.support.pictures import lay_out_for

        lay_out_for(item.nodeid)


def pytest_collection_finish() -> None:
    """Fork the tests' processes from a server that has imported the suite beside the libraries.

    The server of a user has the libraries alone: there the suite may be another than the parent's.
    """
    settle()
    if launchers := sys.modules.get("tokengym.evaluation.runs.executors"):
        launchers.LIBRARIES += OF_RUNS  # type: ignore[attr-defined]
        # Where it finds our modules: not in the current folder. `warm` hides it from what it forks.
        launchers.CHILD_ENV_NO_CWD["PYTHONPATH"] = str(Path(__file__).parents[1])


def pytest_sessionfinish() -> None:
    """Play no longer."""
    session.close()
