"""The short form of the campaign, with faults planted to show that it finds them."""

import json
import os
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from tests.campaign import writes
from tests.campaign.__main__ import HEADER, updated
from tests.campaign.answers import answers
from tests.campaign.bridged import bridged
from tests.campaign.foreign import a_word, bundles, foreign, words
from tests.campaign.fuzz import TEXTS, fuzz, score, tokenizer_of
from tests.campaign.hostile import pages, require_page, terminal
from tests.campaign.kills import COMMANDS, command, results
from tests.campaign.models import models
from tests.campaign.nulls import areas_of, false_headlines, nats_of
from tests.campaign.outcome import LostError, Outcome
from tests.campaign.packed import packed
from tests.campaign.scorers import scorers
from tests.campaign.soak import ALLOWED, growth
from tests.campaign.twice import twice
from tokengym.base.files import MAX_JSON_DEPTH, write_csv
from tokengym.base.folders import locked
from tokengym.envs import TokenGenerationEnv, TokenGenerationVectorEnv
from tokengym.envs.prompts import conversation
from tokengym.envs.prompts.datasets import MAX_UNPACKED_BYTES, MAX_UNPACKED_RATIO
from tokengym.envs.settings import GenerationSettings
from tokengym.evaluation.runs import record
from tokengym.lab.partners import calculator
from tokengym.lab.rules.mc import MAX_K
from tokengym.lab.rules.scar import MAX_PERMUTATIONS
from tokengym.rewards import CreditReward, Scores
from tokengym.rewards.credits.inputs import CONTINUATION_BYTES
from tokengym.rewards.pairs.read import MAX_MARGIN
from tokengym.scripts.cli import main


def test_no_random_environment_breaks_a_contract():
    outcome = fuzz(500, seed=0)
    assert (outcome.tried, outcome.lost) == (500, [])


def test_a_planted_fault_is_found_with_the_command_that_repeats_it(
    capsys: pytest.CaptureFixture[str],
):
    step = TokenGenerationEnv.step

    def both(env: TokenGenerationEnv, action: Any) -> Any:
        observation, reward, terminated, truncated, info = step(env, action)
        over = terminated or truncated
        return observation, reward, over, over, info

    with mock.patch.object(TokenGenerationEnv, "step", both):
        outcome = fuzz(20, seed=0)
    assert outcome.lost
    assert outcome.survived == 20 - len(outcome.lost)
    printed = capsys.readouterr().out
    assert f"lost: {outcome.lost[0]}" in printed
    assert "python -m tests.campaign fuzz=1 --seed" in printed


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


@pytest.mark.parametrize(
    ("digit", "lost"), [("7", []), ("8", ["ppo, other bytes in run/curve.csv, run/run.json"])]
)
def test_a_digit_that_differs_between_two_runs_is_found_and_a_time_is_none(
    digit: str, lost: list[str]
):
    digits = iter("7" + digit)

    def once(name: str, folder: Path, *, jobs: int) -> None:
        out, number = folder / "run", next(digits)
        out.mkdir()
        (out / "curve.csv").write_text(f"step,score,wall_s\n1,0.{number},{time.monotonic()}\n")
        result = {
            "score": [{"mean": f"0.{number}"}],
            "cpu_s": time.monotonic(),
            "hash": str(folder),
        }
        (out / "run.json").write_text(json.dumps(result))
        (out / "agent.safetensors").write_bytes(b"1")

    with mock.patch("tests.campaign.twice.once", once):
        found = twice(1, seed=0).lost
    assert [line.partition(": ")[2] for line in found] == lost


def test_nothing_of_a_hostile_folder_runs():
    assert foreign(24, seed=7000).lost == []


def test_code_of_a_folder_that_runs_is_found():
    with (
        mock.patch("tests.campaign.foreign.ATTACKS", [a_word]),
        mock.patch("tokengym.agents.saving.check_saved"),
        mock.patch("tokengym.evaluation.runs.folder.check_saved"),
    ):
        assert any("its code ran" in line for line in foreign(8, seed=0).lost)


def test_what_a_file_of_an_agent_writes_or_takes_is_found():
    def written_beside(place: Any, **_: Any) -> None:
        Path(place).with_name("evil").write_text("")
        raise ValueError("one line")

    for load, said in (
        (written_beside, "files were written beside it"),
        (mock.Mock(side_effect=ValueError("two\nlines")), "no line"),
        (mock.Mock(side_effect=IndexError("x")), "IndexError: x"),
    ):
        with mock.patch("tests.campaign.packed.PPO.load", load):
            assert all(said in line for line in packed(3, seed=0).lost)
            assert len(packed(2, seed=0).lost) == 2


@pytest.mark.parametrize(
    ("part", "count"),
    [
        *((packed, 24), (words, 6), (bundles, 6), (models, 12), (answers, 10), (bridged, 300)),
    ],
)
def test_what_a_stranger_sends_is_refused_or_harmless(part: Callable[..., Outcome], count: int):
    assert part(count, seed=0).lost == []


def test_a_reader_of_models_that_hangs_is_found():
    with (
        mock.patch("tests.campaign.models.LIMIT_S", 1),
        mock.patch("tests.campaign.models.located", side_effect=lambda _: time.sleep(9)),
    ):
        assert "still read after 1 s" in models(1, seed=0).lost[0]


@pytest.mark.parametrize("check", ["check_shapes", "check_finite"])
def test_a_batch_of_advantages_that_is_not_looked_at_is_found(check: str) -> None:
    with mock.patch(f"tokengym.bridges.advantages.{check}"):
        assert bridged(60, seed=0).lost


def test_a_page_keeps_its_text_and_the_rows_of_other_parts():
    old = "\n".join([*HEADER, "| fuzz | a | 1 | 1 | 0 | 0 |", "| pairs | b | 2 | 2 | 0 | 7 |"])
    new = updated(f"# Campaign\n\n{old}\n\nText.\n", {"fuzz": Outcome(9, [])}, 5)
    rows = [line.split(" | ") for line in new.splitlines() if line.startswith("| ")][1:]
    assert [(row[0], row[2], row[5]) for row in rows] == [
        ("| fuzz", "9", "5 |"),
        ("| pairs", "2", "7 |"),
    ]
    assert new.startswith("# Campaign\n\n| part")
    assert new.endswith(" |\n\nText.\n")
    with pytest.raises(ValueError, match="no table"):
        updated("# Other\n", {}, 0)


def test_a_write_that_fails_once_changes_nothing():
    count = writes.unfailed("collect")[1]
    for number in (count // 2, count):
        writes.one_write("collect", number)


def test_a_write_whose_failure_is_no_line_is_found():
    count = writes.unfailed("collect")[1]
    with (
        mock.patch("tokengym.scripts.cli._say"),
        pytest.raises(LostError, match="collect: exit code 2"),
    ):
        writes.one_write("collect", count)


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


def test_no_fault_of_a_scorer_is_paid_or_loses_an_episode():
    assert scorers(150, seed=0).lost == []


def test_a_fault_that_is_paid_is_found():
    with mock.patch.object(Scores, "check"):
        assert any("passed" in line for line in scorers(30, seed=0).lost)


@pytest.mark.parametrize("seeds", [5, 10])
def test_reports_of_identical_rewards_rarely_claim_a_difference(seeds: int):
    """Headlines of whole reports agree with the signs of 20,000 simulated comparisons."""
    random = np.random.default_rng(seeds)
    for rewards in (2, 5):
        areas = areas_of("normal", (20_000, seeds, rewards), random)
        assert false_headlines(areas, nats_of(areas, "normal", 0.0, random)) <= 0.06


def test_what_is_kept_of_every_episode_is_found_in_memory():
    envs = CreditReward(
        TokenGenerationVectorEnv(
            num_envs=2, tokenizer=tokenizer_of("words"), prompts=TEXTS, max_new_tokens=2
        ),
        scorer=score,
    )
    kept: list[Any] = []

    def play(keep: bool) -> None:
        envs.reset(seed=0)
        envs.step(np.array([1, 1]))
        if keep:
            kept.append(envs.reset())

    assert growth(lambda: play(False), rounds=20)[0] <= ALLOWED
    assert growth(lambda: play(True), rounds=20)[0] > ALLOWED


def test_hostile_texts_stay_texts_in_pages_and_on_the_terminal():
    assert (pages(6, seed=0).lost, terminal(6, seed=0).lost) == ([], [])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(("page.html", text) for text in ("<script>alert(1)</script>", "<img src=x>", "\u202e")),
        *(("page.md", text) for text in ("<b>", "[a](javascript:b)", "\x1b[2J", "\x85")),
        *(("page.csv", text) for text in ("=1+1", "a,@b", "\x00")),
    ],
)
def test_a_page_that_obeys_a_text_is_found(tmp_path: Path, name: str, text: str):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(LostError, match=name):
        require_page(path)
