"""``tokengym train-reward``: what it reads, writes and says."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from tokengym.lab.commands import train_reward as command
from tokengym.lab.commands.train_reward import _save_reliability
from tokengym.lab.training.fitting import Report
from tokengym.lab.training.pairwise import reliability
from tokengym.rewards import PreferenceModel, RewardModel
from tokengym.scripts.cli import main

WORDS = ("the", "a", "in", "is", "and")


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Return a file of 41 pairs, of which one is none."""
    rows = [
        {"prompt": f"{one} {two}", "chosen": " is a good film .", "rejected": " is a bad film ."}
        for one in WORDS
        for two in (*WORDS, "was", "of", "film")
    ]
    rows.append({"prompt": "the", "chosen": " is the same .", "rejected": " is the same ."})
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


SMALL = ["--epochs", "4", "--batch-size", "8", "--on-error", "skip", "--held-out", "0.2"]


@pytest.mark.parametrize("kind", ["reward", "preference"])
def test_a_model_is_trained_measured_and_loads(
    kind: str, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model"
    arguments = ["train-reward", "--pairs", str(pairs), "--kind", kind, "--out", str(out), *SMALL]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "41 rows, 40 pairs, 1 skipped (1 equal)" in said
    assert "held out; trained on 32" in said
    assert "left out: 1 equal" in said
    assert ("position bias" in said) == (kind == "preference")
    assert "undertrained" not in said
    steps = [line for line in said.splitlines() if line.startswith("step ")]
    assert len(steps) == 10  # of 16; nothing here is a terminal
    assert steps[-1].startswith("step 16 of 16, loss 0.")
    assert steps[-1].endswith(", 0:00:00 left")
    measures = json.loads((out / "measures.json").read_text())
    assert measures["held_out"]["accuracy"] == 1.0
    assert measures["skipped"] == {"equal": 1}
    assert (out / "reliability.png").read_bytes().startswith(b"\x89PNG")
    scorers: dict[str, Any] = {"reward": RewardModel, "preference": PreferenceModel}
    scorers[kind].from_pretrained(out, device="cpu")
    if kind == "reward":
        env = gym.make("tokengym/MovieReview-v0", reward="abc", scorer=str(out))
        env.reset(seed=0)
        env.close()
    assert main(arguments) == 2
    assert "already exists" in capsys.readouterr().err


def test_labelled_texts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        f"{word} {one}\t is a {said} film .\t{label}\n"
        for word in WORDS
        for one in (*WORDS, "was", "of", "film")
        for said, label in (("good", 1), ("bad", 0))
    ]
    path, out = tmp_path / "texts.tsv", tmp_path / "model"
    path.write_text("prompt\treview\tgood\n" + "".join(rows))
    arguments = ["train-reward", "--pairs", str(path), "--out", str(out), *SMALL]
    labels = ["--label-column", "good", "--text-column", "review"]
    assert main([*arguments, *labels]) == 0
    said = capsys.readouterr().out
    assert "80 rows, 80 labelled texts" in said
    assert "share of the labels" in said
    assert "longer is better" not in said
    assert json.loads((out / "measures.json").read_text())["held_out"]["accuracy"] > 0.9
    for wrong, said in (
        ([*labels, "--chosen-column", "x"], "--chosen-column x has no effect"),
        (labels[2:], "--text-column review has no effect"),
    ):
        assert main([*arguments[:3], *wrong, "--out", str(tmp_path / "other")]) == 2
        assert said in capsys.readouterr().err


def test_a_stopped_training_goes_on(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @contextmanager
    def stops(console: object) -> Iterator[Report]:
        def report(done: int, total: int, loss: float) -> None:
            if done == 3:
                raise KeyboardInterrupt

        yield report

    out = tmp_path / "model"
    arguments = ["train-reward", "--pairs", str(pairs), "--out", str(out), *SMALL]
    with monkeypatch.context() as patch:
        patch.setattr(command, "_progress", stops)
        assert main(arguments) == 130
    assert "command resumes" in capsys.readouterr().err
    assert not out.exists()
    assert (tmp_path / "model.unfinished" / "training.json").exists()
    assert main([*arguments, "--learning-rate", "1"]) == 2
    assert "--learning-rate = 0.001" in capsys.readouterr().err
    assert main(arguments) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"model", "pairs.jsonl"}


def test_a_model_that_has_not_learned_its_pairs_is_named_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = [f" is a {word} film ." for word in ("good", "bad")]
    rows = [
        {"prompt": word, "chosen": texts[place], "rejected": texts[1 - place]}
        for word in WORDS
        for place in (0, 1)  # each pair and its opposite
    ]
    file, out = tmp_path / "pairs.json", tmp_path / "model"
    file.write_text(json.dumps(rows))
    few = ["--epochs", "1", "--label-smoothing", "0.1", "--held-out", "0.3"]
    assert main(["train-reward", "--pairs", str(file), "--out", str(out), *few]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "undertrained" in said
    assert "--epochs or --learning-rate" in said


def test_device_precision_and_adapters(pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    placed = ["--device", "cpu", "--dtype", "bfloat16", "--lora-rank", "2"]
    few = ["--epochs", "1", "--batch-size", "32", "--on-error", "skip"]
    assert main(["train-reward", "--pairs", str(pairs), "--out", str(out), *placed, *few]) == 0
    config = json.loads((out / "config.json").read_text())
    assert config["dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "row 40 of the pairs: 'chosen'"),
        (["--chosen-column", "best"], "--chosen-column best is no column"),
        (["--on-error", "skip", "--max-tokens", "3"], "--max-tokens 3"),
        (["--on-error", "skip", "--model", "nowhere"], "cannot load nowhere"),
        (["--on-error", "skip", "--held-out", "1.5"], "share in (0, 1)"),
        (["--on-error", "skip", "--env", "Movie"], "did you mean"),
        (["--model", "nowhere", "--env", "Detox"], "--env Detox has no effect"),
        (["--lora", "16"], "--lora; did you mean '--lora-rank'"),
        (["--lora-rank", "0"], "--lora-rank must be an integer >= 1"),
    ],
)
def test_mistakes_are_said_in_one_line(
    arguments: list[str],
    message: str,
    pairs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "model"
    assert main(["train-reward", "--pairs", str(pairs), "--out", str(out), *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.splitlines()[-1].startswith("error: ")
    assert {path.name for path in tmp_path.iterdir()} == {"pairs.jsonl"}  # nothing was begun


def test_the_calibration_is_a_small_picture_and_the_same_each_time(tmp_path: Path) -> None:
    table = reliability(np.random.default_rng(0).normal(0.5, 2.0, 200))
    for name in ("one", "two"):
        _save_reliability(tmp_path / f"{name}.png", table, title="reward model")
    one, two = ((tmp_path / f"{name}.png").read_bytes() for name in ("one", "two"))
    assert one.startswith(b"\x89PNG")
    assert one == two
    assert len(one) < 60_000
    _save_reliability(tmp_path / "empty.png", reliability([3.0]))  # most bins are empty


def test_a_policy_explores_what_heads_trained_on_pairs_are_unsure_of(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands of the page of preferences, smaller, on what ships."""
    heads, out = tmp_path / "heads", tmp_path / "unsure"
    train = ["train-reward", "--pairs", str(pairs), "--heads", "3", "--out", str(heads)]
    assert main([*train, *SMALL]) == 0
    asked: list[str] = []
    score = RewardModel.score

    def heard(self: RewardModel, *inputs: Any, **how: Any) -> Any:
        scores = score(self, *inputs, **how)
        asked.extend(scores.parts or ())
        return scores

    monkeypatch.setattr(RewardModel, "score", heard)
    sizes = ["--iterations", "1", "--num-prompts", "4", "--eval-episodes", "8"]
    sizes += ["--reference-samples", "0"]
    explores = ["--enhancer", "disagreement", "--reward-model", str(heads), "--max-new-tokens", "6"]
    assert main(["train", "online-dpo", *explores, *sizes, "--out", str(out)]) == 0
    assert "disagreement" in asked
    assert (out / "agent").is_dir()
