"""The page on an idea: its functions by hand, its commands, its Python."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests.checkout.pages import DOCS, blocks, run
from tests.support.checkout.documents import commands_of
from tests.support.rules import rewards_of
from tokengym import read_result
from tokengym.agents.ppo import PPOSettings, RoundInputs, Weights, find_advantage
from tokengym.envs import Episode
from tokengym.rewards import Rule, Scores
from tokengym.scripts.cli import main

IDEAS, USE, OF_TRL, SURPRISAL, CREDITED = blocks("guide/idea.md")
SHORT = "--seeds 2 --updates 2 --batch-size 8 --max-new-tokens 6 --eval-episodes 8".split()


@pytest.fixture
def ideas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return what the page's file defines, beside a working directory that has the file."""
    (tmp_path / "ideas.py").write_text(IDEAS, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return run(IDEAS)


def round_of(mask: Tensor, group_size: int, **given: Tensor) -> RoundInputs:
    return RoundInputs(mask, given, settings=PPOSettings(group_size=group_size))


def test_its_rule_pays_the_unsure_and_the_sure(ideas: dict[str, Any]) -> None:
    told: dict[str, Any] = {"prompt": "", "response": "", "prompt_ids": (), "response_ids": (5, 6)}
    entropy = np.array([1.0, 3.0])
    episodes = [Episode(**told, entropy=entropy) for _ in range(2)]
    good, bad = rewards_of(Rule(ideas["by_entropy"]), episodes, Scores([4.0, -4.0]))
    np.testing.assert_allclose(good, [1.0, 3.0])
    np.testing.assert_allclose(bad, [-3.0, -1.0], atol=2e-3)  # the thousandth keeps 1 / H finite


def test_its_estimator_and_weight_by_hand(ideas: dict[str, Any]) -> None:
    mask = torch.tensor([[True, True, True], [True, False, False]])
    played = round_of(mask, 2, paid=torch.tensor([1.0, 5.0]))
    advantages, _ = find_advantage(ideas["by_length"]).estimate(played)
    expected = torch.tensor([[-1.0, -1, -1], [3, 0, 0]])  # (3 * 1 + 1 * 5) / 4 is the baseline
    torch.testing.assert_close(advantages, expected)
    entropy = torch.tensor([[1.0, 1, 1], [2, 0, 0]])
    log_probs = torch.tensor([[-0.4, -0.6, -2.1], [-4.0, 0, 0]])
    played = round_of(mask, 2, log_probs=log_probs, entropy=entropy)
    weights = Weights.find(ideas["in_band"]).weigh(played)
    torch.testing.assert_close(weights, torch.tensor([[0.0, 3, 0], [1, 0, 0]]))


@pytest.mark.usefixtures("ideas")
def test_its_checks_say_what_the_page_says(capsys: pytest.CaptureFixture[str]) -> None:
    checks = (c for c in commands_of(DOCS / "guide" / "idea.md") if c[0] in CHECKS)
    rule, estimator, weight, loss = checks
    assert main([*rule, "--quick"]) == 0
    assert "| yes | 0.000 | ideas.py:by_entropy | loo | 0.964 |" in capsys.readouterr().out
    assert main(estimator) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "ideas.py:by_length: holds in 40 batches of trees" in said
    assert main([*weight, "--quick"]) == 0
    assert capsys.readouterr().out.count("| sparse | rloo |") == 2
    assert main(loss) == 0
    assert "| holds |" in capsys.readouterr().out


CHECKS = ("bench", "audit")


@pytest.mark.usefixtures("ideas")
def test_its_comparisons_run(capsys: pytest.CaptureFixture[str]) -> None:
    commands = [c for c in commands_of(DOCS / "guide" / "idea.md") if c[0] == "compare"]
    assert len(commands) == 4
    for command in commands:
        words = [w for i, w in enumerate(command) if "--seeds" not in (w, command[i - 1])]
        assert main([*words, *SHORT]) == 0, capsys.readouterr()
        folder = command[command.index("--out") + 1]
        assert sum(map(len, (g["rewards"] for g in read_result(folder)["groups"]))) >= 2


@pytest.mark.usefixtures("ideas")
def test_its_python_runs(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        run(USE)
    finally:
        sys.modules.pop("ideas", None)
    assert "envs" in USE
    capsys.readouterr()


@pytest.mark.usefixtures("ideas")
def test_its_function_trains_in_trl(capsys: pytest.CaptureFixture[str]) -> None:
    if sys.version_info < (3, 11):
        pytest.skip("TRL needs Python 3.11")
    found = run(OF_TRL)
    assert found["trainer"].state.global_step == 2
    (command,) = (c for c in commands_of(DOCS / "guide" / "idea.md") if c[0] == "report")
    assert main(command) == 0, capsys.readouterr()
    assert (Path(command[-1]) / "report.html").is_file()


def test_its_rule_that_reads_a_language_model_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "surprisal.py").write_text(SURPRISAL, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    found = run(CREDITED)
    assert len(capsys.readouterr().out.splitlines()) == 8
    (episode,) = found["credited"].episodes
    model = AutoModelForCausalLM.from_pretrained(found["bundle"].policy)
    ids = torch.tensor([[*episode.prompt_ids, *episode.response_ids]])
    with torch.no_grad():
        table = model(ids).logits[0].double().log_softmax(-1)
    start = len(episode.prompt_ids)
    by_hand = [-float(table[t - 1, ids[0, t]]) for t in range(start, ids.shape[1])]
    assert min(by_hand) > 0.01
    expected = episode.score * np.array(by_hand) / sum(by_hand)
    np.testing.assert_allclose(episode.token_rewards, expected, rtol=1e-4)
