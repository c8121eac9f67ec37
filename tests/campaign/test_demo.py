"""The demo as a newcomer runs it: two minutes on two cores, and nothing to be warned of."""

from pathlib import Path

import pytest

from tokengym.base.files import read_json
from tokengym.scripts.cli import main


def test_the_demo_trips_none_of_its_own_alarms(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    """At its own settings: neither while it trains, nor in what the terminal and the page say."""
    assert main(["demo", "--out", str(tmp_path / "demo"), "--no-browser"]) == 0
    printed = "".join(capfd.readouterr())  # what the runs' processes say, too
    assert not [line for line in printed.splitlines() if line.startswith("!")], printed
    assert "learning_rate from" not in printed
    (group,) = read_json(tmp_path / "demo" / "summary.json")["groups"]
    assert group["verdict"]["cautions"] == []
    assert {name: entry["alarms"] for name, entry in group["rewards"].items()} == {
        "sparse": [],
        "uniform": [],
        "abc-signed": [],
    }
