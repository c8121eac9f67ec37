"""What every test process has in common: one thread, no network, no parallel tokenizers, no GPU.

Tests mean the CPU unless they play a GPU, or a GPU is named: ``CUDA_VISIBLE_DEVICES=0 pytest``.
``TOKENGYM_PLAY_GPUS=1 pytest`` plays two for a whole session, see `tests.agents.played_devices`.
"""

import os
from contextlib import ExitStack

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

session = ExitStack()
PROCESSES = ("tests/agents/test_processes.py", "tests/agents/offline/test_distributed.py")
"""Files whose tests start several processes that train together."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run a file in one worker, so that what its tests share is made once.

    Tests that start processes share a worker, or they would compete for the cores.
    """
    for item in items:
        file = item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group("processes" if file in PROCESSES else file))


def pytest_sessionstart() -> None:
    """Play GPUs, so that "auto" is the first of them."""
    if os.environ.get("TOKENGYM_PLAY_GPUS"):
        from tests.agents.played_devices import playing

        session.enter_context(playing(pytest.MonkeyPatch()))


def pytest_sessionfinish() -> None:
    """Play no longer."""
    session.close()
