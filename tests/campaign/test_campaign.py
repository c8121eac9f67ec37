"""The short form of the campaign."""

import os
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.campaign import writes
from tests.campaign.__main__ import HEADER, updated
from tests.campaign.foreign import foreign
from tests.campaign.fuzz import fuzz
from tests.campaign.kills import COMMANDS, command, results
from tests.campaign.nulls import areas_of, false_headlines, nats_of
from tests.campaign.outcome import Outcome
from tokengym.base.files import MAX_JSON_DEPTH, write_csv
from tokengym.base.folders import locked
from tokengym.envs.prompts import conversation
from tokengym.envs.prompts.datasets import MAX_UNPACKED_BYTES, MAX_UNPACKED_RATIO
from tokengym.envs.settings import GenerationSettings
from tokengym.evaluation.runs import record
from tokengym.lab.partners import calculator
from tokengym.lab.rules.mc import MAX_K
from tokengym.lab.rules.scar import MAX_PERMUTATIONS
from tokengym.rewards.credits.inputs import CONTINUATION_BYTES
from tokengym.rewards.pairs.read import MAX_MARGIN
from tokengym.scripts.cli import main


def test_no_random_environment_breaks_a_contract():
    outcome = fuzz(500, seed=0)
    assert (outcome.tried, outcome.lost) == (500, [])


@pytest.mark.parametrize("name", COMMANDS)
def test_a_folder_that_another_process_writes_is_refused_with_its_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
):
    place = {"collect": "run.jsonl.parts", "train-reward": "run.unfinished"}.get(name, "run")
    with locked(tmp_path / place):
        assert main(command(name, str(tmp_path))) == 2
    assert f"in use by process {os.getpid()} on" in capsys.readouterr().err


MEASURED = ["--eval-episodes", "4", "--reference-samples", "0"]


@cache
def results_of(name: str) -> dict[str, Any]:
    """Return what a training that nobody kills leaves."""
    with tempfile.TemporaryDirectory() as folder:
        assert main([*COMMANDS[name], *MEASURED, "--out", f"{folder}/run"]) == 0
        return results(Path(folder))


@pytest.mark.parametrize("name", ["ppo", "raft"])
@pytest.mark.parametrize("killed", ["agent saved", "train.csv written"])
def test_training_killed_while_it_writes_its_results_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, killed: str
):
    """A kill runs no ``finally``: it is played by an exception that nothing here handles."""

    class Killed(GeneratorExit):
        pass

    def kill(*_: Any) -> None:
        raise Killed

    def write(path: Path, *rest: Any) -> None:
        write_csv(path, *rest)
        if path.name == "train.csv":
            raise Killed

    whole = results_of(name)
    arguments = [*COMMANDS[name], *MEASURED, "--out", str(tmp_path / "run")]
    with monkeypatch.context() as patch:
        if killed == "agent saved":
            patch.setattr(record.RunRecord, "write", kill)
        else:
            patch.setattr(record, "write_csv", write)
        with pytest.raises(Killed):
            main(arguments)
    assert (tmp_path / "run" / "agent").is_dir()
    assert main(arguments) == 0
    assert results(tmp_path) == whole
    assert main(arguments) == 0  # finished: it says so, and changes nothing
    assert results(tmp_path) == whole


def test_training_killed_while_it_draws_its_reference_samples_is_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    class Killed(GeneratorExit):
        pass

    def kill(*_: Any, **__: Any) -> None:
        raise Killed

    few = ["--eval-episodes", "4", "--reference-samples", "16"]
    arguments = [*COMMANDS["ppo"], *few, "--out", str(tmp_path / "run")]
    with monkeypatch.context() as patch:
        patch.setattr("tokengym.evaluation.runs.run.draw_references", kill)
        with pytest.raises(Killed):
            main(arguments)
    trained = results(tmp_path / "run")
    assert "best of" not in capsys.readouterr().out
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "is complete" in printed
    assert "untrained, best of 16" in printed
    assert (tmp_path / "run" / "reference_samples" / "run.json").is_file()
    after = results(tmp_path / "run")
    assert {name: after[name] for name in trained} == trained


def test_nothing_of_a_hostile_folder_runs():
    assert foreign(24, seed=7000).lost == []


def test_a_page_keeps_its_text_and_the_rows_of_other_parts():
    old = "\n".join([*HEADER, "| fuzz | a | 1 | 1 | 0 | 0 |", "| kills | b | 2 | 2 | 0 | 7 |"])
    new = updated(f"# Campaign\n\n{old}\n\nText.\n", {"fuzz": Outcome(9, [])}, 5)
    rows = [line.split(" | ") for line in new.splitlines() if line.startswith("| ")][1:]
    assert [(row[0], row[2], row[5]) for row in rows] == [
        ("| fuzz", "9", "5 |"),
        ("| kills", "2", "7 |"),
    ]
    assert new.startswith("# Campaign\n\n| part")
    assert new.endswith(" |\n\nText.\n")
    with pytest.raises(ValueError, match="no table"):
        updated("# Other\n", {}, 0)


def test_a_write_that_fails_once_changes_nothing():
    count = writes.unfailed("collect")[1]
    for number in (count // 2, count):
        writes.one_write("collect", number)


def test_the_page_states_the_bounds_that_the_code_has():
    page = Path(__file__).parents[2].joinpath("docs", "reliability.md").read_text(encoding="utf-8")
    bounds = page.partition("## Bounds")[2]
    for said in (
        f"{MAX_UNPACKED_BYTES >> 30} GiB, or {MAX_UNPACKED_RATIO} times",
        f"nested {MAX_JSON_DEPTH} deep",
        f"{conversation.MAX_TEMPLATE_CHARACTERS:,} characters and {conversation.TEMPLATE_S:g} sec",
        f"`max_reply_tokens` ({GenerationSettings(max_new_tokens=1).max_reply_tokens})",
        f"{calculator.MAX_CHARACTERS:,} characters, numbers of {calculator.MAX_DIGITS} digits, "
        f"brackets {calculator.MAX_DEPTH} deep",
        f"{MAX_K:,}; its continuations by the memory at hand, {CONTINUATION_BYTES >> 10} KiB each",
        f"`permutations` of `scar` | {MAX_PERMUTATIONS:,} |",
        f"| {MAX_MARGIN:,} |",
    ):
        assert said in bounds


@pytest.mark.parametrize("seeds", [5, 10])
def test_reports_of_identical_rewards_rarely_claim_a_difference(seeds: int):
    """Headlines of whole reports agree with the signs of 20,000 simulated comparisons."""
    random = np.random.default_rng(seeds)
    for rewards in (2, 5):
        areas = areas_of("normal", (20_000, seeds, rewards), random)
        assert false_headlines(areas, nats_of(areas, "normal", 0.0, random)) <= 0.06
