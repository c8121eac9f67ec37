"""The tests that guard a file."""

import sys

import pytest

from tests.checkout import guards as tool
from tests.checkout.guards import MOST, ROOT, guards

SUITE = ROOT / "tests" / "suite"


@pytest.mark.parametrize(
    ("file", "guard"),
    [
        # A slip there was seen by this test and by none of the file's own name.
        ("agents/ppo/ppo.py", "agents/test_kl.py"),
        ("envs/vector.py", "envs/test_sync_equality.py"),
        ("envs/mdp.py", "envs/test_ends.py"),
        ("rewards/pairs/store.py", "rewards/pairs/test_store.py"),
        # By a fixture alone, by a package that passes the name on, by an address as text.
        ("agents/rollouts/rounds.py", "agents/rollouts/test_playing.py"),
        ("rewards/scorers/reward_model.py", "rewards/test_reward_model.py"),
        ("agents/fast/lora.py", "agents/fast/test_lora.py"),
    ],
)
def test_a_file_is_guarded_by_what_is_made_of_it(file, guard):
    assert SUITE / guard in guards([ROOT / file])[:MOST]


def test_the_nearest_folders_come_first():
    file = ROOT / "evaluation" / "statistics" / "series.py"
    found = guards([file])
    between = [tool.folders_between(test, file) for test in found]
    assert between == sorted(between)
    assert between[0] == 0  # its own folder's
    assert found[0].parent == SUITE / "evaluation" / "statistics"
    of_lab = ROOT / "tests" / "lab" / "test_study.py"
    assert tool.folders_between(of_lab, ROOT / "lab" / "study.py") == 0


def test_files_of_the_tests_are_guarded_by_their_users():
    test = SUITE / "agents" / "test_kl.py"
    assert guards([test]) == [test]
    helper = ROOT / "tests" / "support" / "forked.py"
    assert SUITE / "agents" / "test_processes.py" in guards([helper])
    assert SUITE / "rewards" / "maths" / "test_redistribution.py" not in guards([helper])


def test_every_module_of_a_room_has_a_guard():
    files = [file for file in (ROOT / "rewards").rglob("*.py") if file.name != "__init__.py"]
    without = [file.name for file in files if not guards([file])]
    assert without == []
    assert len(tool.test_files()) > 300


def test_the_command_lists_and_refuses(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    words = ["guards", "--list", "envs/mdp.py", "--most", "3"]
    monkeypatch.setattr(sys, "argv", words)
    tool.main()
    told = capsys.readouterr()
    assert len(told.out.splitlines()) == 3
    assert "more: --most" in told.err
    monkeypatch.setattr(sys, "argv", [*words[:2], "README.md"])
    with pytest.raises(SystemExit, match=r"no test is within 2 imports of README\.md"):
        tool.main()
