"""What every test process has in common: one thread, no network, no parallel tokenizers, no GPU.

``TOKENGYM_PRODUCTS=onednn pytest`` multiplies by oneDNN, see `tokengym.agents.policy.products`.
Tests mean the CPU unless they play a GPU, or a GPU is named: ``CUDA_VISIBLE_DEVICES=0 pytest``.
``TOKENGYM_PLAY_GPUS=1 pytest`` plays two for a whole session (`tests.suite.agents.played_devices`);
``TOKENGYM_TAPES=1 pytest`` plays captured steps (`tests.support.tapes`).
"""

import os
import re
from contextlib import ExitStack
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("TOKENGYM_PRODUCTS", "torch")  # not the faster: no test depends on times
if not os.environ["CUDA_VISIBLE_DEVICES"]:
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported

pytest_plugins = ["tests.support.words"]
session = ExitStack()


def uses_laboratory(path: Path) -> bool:
    """Tell whether a file of tests names anything of the laboratory."""
    from tokengym.base.plugins import LABORATORY

    text = path.read_text(encoding="utf-8")
    shared = {"constant", "entropy", "position", "random", "dialogue"}  # words of other things too
    groups = ("rewards", "scorers", "agents", "estimators", "weights")
    words = {name for group in groups for name in LABORATORY[group]}
    quoted = "|".join(map(re.escape, sorted(words - shared)))
    names = [*LABORATORY["tasks"], *(name.rpartition(".")[2] for name in LABORATORY["names"])]
    return bool(
        "tokengym.lab" in text
        or "WEIGHTS" in text  # a registry that the laboratory fills
        or re.search(rf"""["'](?:{quoted})[:"']""", text)
        or re.search(rf"\b(?:{'|'.join(names)})\b", text)
    )


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out the files that name something of the laboratory where it is not installed."""
    from tokengym.base.plugins import plugins

    if collection_path.suffix != ".py" or plugins("tasks", "Oracle"):
        return None
    return uses_laboratory(collection_path) or None


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
