"""The laboratory's commands from the command line: what they do, and faults in one line."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

from tests.suite.scripts import test_cli as suite
from tests.support.scripts.cli import check_missing_file
from tests.support.suite import of_laboratory
from tokengym.agents import NLPO, SFT
from tokengym.agents.offline.policies import make_policy
from tokengym.evaluation.runs.display import ProgressDisplay
from tokengym.scripts.cli import main


@pytest.mark.parametrize("name", of_laboratory("commands"))
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]):
    suite.test_every_command_explains_itself(name, capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "--rewards", "sprse"], "'sprse'; did you mean 'sparse' or 'pure'?"),
        (["replay", "--episodes", "nowhere"], "no nowhere; name what tokengym train"),
        (["replay", "--episodes", ".", "--seed", "0"], "--seed 0 has no effect on --episodes"),
        (["replay", "--num-episodes", "0"], "at least 1, got 0"),
        (["replay", "--samples", "-1"], "at least 0, got -1"),
        *(
            ([*command.split(), "--device", "cuda:99"], "device 'cuda:99'")
            for command in (
                *("bench sparse --quick", "collect --num-prompts 1"),
                *("replay --num-episodes 1", "train online-dpo --out a"),
            )
        ),
    ],
)
def test_mistakes_are_said_in_one_line(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    suite.test_mistakes_are_said_in_one_line(arguments, message, capsys, tmp_path, monkeypatch)


def test_a_missing_file_is_named_without_control_characters(capsys: pytest.CaptureFixture[str]):
    check_missing_file(["replay", "--episodes"], capsys)


def test_names_of_folders_are_no_markup(tmp_path: Path):
    data = ["--num-prompts", "2", "--n", "2", "--max-new-tokens", "4"]
    assert main(["collect", *data, "--out", str(tmp_path / "c[/]d.jsonl")]) == 0


def test_a_folder_keeps_one_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """A second seed beside a stopped one would have its agent replaced when that is resumed."""
    raft = ["train", "--agent", "raft", "--iterations", "2", "--num-prompts", "4", "--n", "2"]
    raft += ["--max-new-tokens", "5", "--eval-episodes", "4", "--out", str(tmp_path)]
    with monkeypatch.context() as stopping:

        def stop(self: ProgressDisplay, run: object, step: int, score: float) -> None:
            if step == 1:
                raise KeyboardInterrupt

        stopping.setattr(ProgressDisplay, "update", stop)
        assert main([*raft, "--seed", "0"]) == 130
    capsys.readouterr()
    assert main([*raft, "--seed", "1"]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "raft, seed 0, is there and not here" in error
    assert not list(tmp_path.rglob("seed-1"))
    assert main([*raft, "--seed", "0"]) == 0


def test_replay_plays_or_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "played"
    rules = ["--rewards", "sparse", "red"]
    assert main(["replay", "--num-episodes", "4", *rules, "--out", str(out), "--show", "2"]) == 0
    text = capsys.readouterr().out
    assert "word weights: red" in text
    assert str(out / "replay.html") in text
    assert text.count("token ") == 2  # a heat map each
    small = ["--updates", "1", "--batch-size", "4", "--max-new-tokens", "5", "--n-epochs", "1"]
    measured = ["--eval-episodes", "4", "--samples", "3"]
    run = tmp_path / "run"
    assert main(["train", "--reward", "abc", "--out", str(run), *small, *measured]) == 0
    again = tmp_path / "again"
    assert main(["replay", "--episodes", str(run), *rules, "--out", str(again)]) == 0
    stored = (run / "abc" / "seed-0" / "episodes.jsonl").read_text().splitlines()
    texts = {json.loads(line)["response"] for line in stored}
    rows = list(csv.DictReader((again / "credit.csv").open(encoding="utf-8")))
    assert len({row["episode"] for row in rows}) == len(texts)
    assert len(rows) == 5 * len(texts)  # the run's own length


def test_a_run_of_an_own_scorer_is_scored_by_others_that_the_command_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, body in (("own", "1.0 / 0 if response is None else 2.0"), ("new", "3.0")):
        Path(f"{name}.py").write_text(f"def {name}(prompt, response):\n    return {body}\n")
    small = "--updates 1 --batch-size 4 --max-new-tokens 5 --n-epochs 1 --eval-episodes 4"
    trained = f"train --env MovieReview --reward uniform --scorer own.py:own --out run {small}"
    assert main(trained.split()) == 0
    again = "replay --episodes run --out again --rewards new.py:new own.py:own"
    for more in ("", " --trust-code"):
        assert main((again + more).split()) == 0
        assert re.search(r"\nnew +3\.00 +\+?1\.00 ", capsys.readouterr().out)
    assert main("replay --episodes run --out no --rewards new.py:new uniform".split()) == 2
    assert "run only if your own command or call names it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("rows.jsonl", '{"prompt": "a"}\n{"pro\n', r"line 2 is no JSON object .*mend or remove"),
        ("rows.jsonl", "\n[1]\n", r"line 2 is no JSON object; mend"),
        ("rows.csv", "prompt,response\na,b\n", r"rows\.csv is no file of episodes.*JSON Lines"),
    ],
)
def test_nobody_is_told_to_delete_rows_of_their_own(
    name: str, text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / name
    file.write_text(text)
    assert main(["replay", "--episodes", str(file), "--rewards", "uniform"]) == 2
    assert re.search(said, shown := capsys.readouterr().err)
    assert "delete it" not in shown


@pytest.mark.parametrize("kind", ["sft", "nlpo"])
def test_replay_plays_any_saved_agent(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    envs: Any = gym.make_vec("tokengym/Oracle-v0", num_envs=2)
    agent: Any = (
        SFT(make_policy(envs), tokenizer=envs.unwrapped.tokenizer)
        if kind == "sft"
        else NLPO("CausalLMPolicy", envs, n_minibatches=1, seed=0)
    )
    agent.save(tmp_path / "agent")
    arguments = ["--agent", str(tmp_path / "agent"), "--env", "Oracle", "--num-episodes", "2"]
    assert main(["replay", *arguments, "--rewards", "sparse", "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "credit.csv").exists()
    assert "exact advantage" in capsys.readouterr().out  # of the policy that played


def test_replay_reads_the_columns_that_its_rules_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    texts = ("the film was shot", "a blind actor and", "the plot of this", "an old story of")
    rows = [f"{text},{place}" for place, text in enumerate(texts)]
    Path("films.csv").write_text("\n".join(["text,place", *rows]), encoding="utf-8")
    Path("own.py").write_text(
        "import torch\nfrom tokengym import token_credit\n\n@token_credit\n"
        "def placed(paid, place, response_mask):\n"
        "    rewards = torch.zeros_like(paid[:, None] * response_mask)\n"
        "    for row, one in enumerate(place):\n"
        "        rewards[row, int(one)] = paid[row]\n"
        "    return rewards\n",
        encoding="utf-8",
    )
    data = ["--dataset", "films.csv", "--prompt-column", "text", "--prompt-tokens", "4"]
    words = ["--env", "MovieReview", "--max-new-tokens", "6", "--rewards", "own.py:placed"]
    assert main(["replay", *words, *data, "--num-episodes", "2", "--out", "out"]) == 0
    paid = list(csv.DictReader(Path("out/credit.csv").open(encoding="utf-8")))
    assert len(paid) == 12
    (column,) = (name for name in paid[0] if "placed" in name)
    for row in {row["episode"] for row in paid}:
        rewards = [float(one[column]) for one in paid if one["episode"] == row]
        assert sum(reward != 0 for reward in rewards) == 1
