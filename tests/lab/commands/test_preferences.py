"""The commands that learn from preferences, from the command line to their files."""

from pathlib import Path

import pytest

from tokengym.scripts.cli import main

SMALL = ["--num-prompts", "8", "--n", "2", "--max-new-tokens", "6"]
MEASURED = ["--eval-episodes", "8"]


def test_collect_then_learn_then_evaluate(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pairs, run = tmp_path / "pairs.jsonl", tmp_path / "dpo"
    assert main(["collect", *SMALL, "--out", str(pairs)]) == 0
    text = capsys.readouterr().out
    assert "8 prompts, 16 responses of 96 tokens" in text
    arguments = ["--pairs", str(pairs), "--epochs", "1", "--max-new-tokens", "6", *MEASURED]
    assert main(["train", "--agent", "dpo", *arguments, "--out", str(run)]) == 0
    assert "score from " in capsys.readouterr().out
    assert (
        main(["evaluate", str(run / "agent"), "--num-episodes", "8", "--max-new-tokens", "6"]) == 0
    )
    assert "KL" in capsys.readouterr().out
    assert main(["train", "--agent", "dpo", *arguments, "--out", str(run)]) == 0
    assert "is complete" in capsys.readouterr().out


def test_best_of_n_says_its_bound(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    arguments = ["--agent", "best-of-n", "--n", "2", "--max-new-tokens", "6", *MEASURED]
    assert main(["train", *arguments, "--out", str(tmp_path / "b")]) == 0
    printed = capsys.readouterr().out
    assert "at most 0.19 nats" in printed
    # The best of two is below the best of four, and no training is to blame.
    assert "untrained, best of 16" in printed
    assert "below the best" not in printed
    assert "below the best" not in (tmp_path / "b" / "report.html").read_text()
    cold = [*arguments, "--sample-temperatures", "0.3", "--reference-samples", "0"]
    assert main(["train", *cold, "--out", str(tmp_path / "cold")]) == 0
    assert "KL of the best" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["collect", "--n", "1"], "n must be an integer >= 2, got 1"),
        (["collect", "--agent", "nowhere"], "nowhere is no folder; name one that tokengym train"),
        (["collect", "--out", "pairs.txt"], ".jsonl or .parquet"),
        (["train", "--agent", "dpo", "--loss-type", "sigmod"], "--loss-type must"),
        (["constitution", "--env", "MovieReview"], "no rules"),
        (["constitution", "--principles", "none.txt"], "'none.txt' cannot be read"),
    ],
)
def test_faults_are_said_in_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert message in said
    assert said.count("\n") == 1
