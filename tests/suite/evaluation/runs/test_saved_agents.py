"""The class that a saved folder names."""

import json
from pathlib import Path

import pytest

import tokengym.agents
from tokengym.evaluation.runs.run import SAVED_AGENTS, load_agent


@pytest.mark.parametrize("name", sorted({*tokengym.agents.__all__} - {*SAVED_AGENTS}))
def test_what_is_no_saved_learner_is_refused_by_name(tmp_path: Path, name: str):
    (tmp_path / "checkpoint.json").write_text(json.dumps({"algorithm": name}))
    with pytest.raises(ValueError, match=f"was saved by {name}, which is none"):
        load_agent(tmp_path)


def test_every_saved_learner_loads():
    for name in SAVED_AGENTS:
        assert callable(getattr(tokengym.agents, name).load)
