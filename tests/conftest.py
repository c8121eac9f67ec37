"""What every test process has in common: no network, no parallel tokenizers, no GPU, one thread.

More threads where ``OMP_NUM_THREADS`` says so; CONTRIBUTING.md has the settings of other machines.
Tests mean the CPU unless they play a GPU, or a GPU is named: ``CUDA_VISIBLE_DEVICES=0 pytest``.
``TOKENGYM_PLAY_GPUS=1 pytest`` plays two for a whole session (`tests.suite.agents.played_devices`);
``TOKENGYM_TAPES=1 pytest`` plays captured steps (`tests.support.tapes`).
"""

import os
from contextlib import ExitStack

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
if not os.environ["CUDA_VISIBLE_DEVICES"]:
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported

pytest_plugins = ["tests.support.words"]
session = ExitStack()


def pytest_sessionstart() -> None:
    """Play GPUs, so that "auto" is the first of them."""
    if os.environ.get("TOKENGYM_PLAY_GPUS"):
        from tests.suite.agents.played_devices import playing

        session.enter_context(playing(pytest.MonkeyPatch()))
    if os.environ.get("TOKENGYM_TAPES"):
        from tests.support.tapes import taping

        session.enter_context(taping(pytest.MonkeyPatch()))


def pytest_sessionfinish() -> None:
    """Play no longer."""
    session.close()
