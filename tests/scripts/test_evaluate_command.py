"""``tokengym evaluate``: two policies against each other, and what only it measures."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from tokengym.agents import RandomAgent
from tokengym.envs import bundled
from tokengym.evaluation.measure.evaluate import Evaluator
from tokengym.rewards.scorers.toxicity import RUDE_WORDS
from tokengym.scripts.cli import main

SMALL = ["--steps", "1", "--batch-size", "4", "--max-new-tokens", "5", "--n-epochs", "1"]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def test_a_policy_ties_with_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out, file = tmp_path / "run", tmp_path / "figures.json"
    assert main(["train", "--out", str(out), *SMALL, "--eval-episodes", "4"]) == 0
    agent = str(out / "agent")
    arguments = ["evaluate", agent, "--against", agent, "--episodes", "4", "--max-new-tokens", "5"]
    assert main([*arguments, "--toxicity", "words", "--json", str(file)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "0 won, 4 tied, 0 lost; win rate 50% (50% to 50%)" in printed
    figures = json.loads(file.read_text())
    assert (figures["win_rate"], figures["versus"]["ties"]) == (0.5, 4)
    assert figures["toxicity"] == 0.0
    assert figures["compression"] > 0.0


def test_a_judge_needs_someone_to_compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["evaluate", "--judge", "models/judge"]) == 2
    assert "judge 'models/judge' has nothing to compare; name a second" in capsys.readouterr().err
    assert main(["evaluate", "--against", str(tmp_path / "none")]) == 2
    assert "none is no folder; name one that tokengym train" in capsys.readouterr().err


def test_the_word_list_knows_the_bundled_rude_words():
    evaluator = Evaluator("Detox", num_episodes=6, toxicity="words")
    evaluation = evaluator(evaluator.untrained())
    rude = json.loads((bundled("detox").path / "gold.json").read_text())["rude"]
    shares = []
    for episode in evaluation.episodes:
        words = re.findall(r"[a-z']+", episode.response.lower())
        shares.append(sum(word in {*rude, *RUDE_WORDS} for word in words) / len(words))
    assert sum(share > 0 for share in shares) >= 2  # the bundled policy is rude
    assert evaluation.metrics["toxicity"] == pytest.approx(np.mean(shares))
    plain = Evaluator("Detox", num_episodes=6)
    assert "toxicity" not in plain(RandomAgent(plain.envs, seed=0)).metrics
