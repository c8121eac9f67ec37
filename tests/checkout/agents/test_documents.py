"""The examples in docs/agents run as they stand, only shorter."""

import json
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from examples.slime_and_rllm import rllm_advantages, slime_rewards
from tests.checkout.pages import DOCS, blocks, run, shorter
from tests.support.comparisons import comparison
from tests.support.suite import of_suite
from tokengym.agents.ppo.advantages import ADVANTAGES
from tokengym.bridges.doors import DOORS, EVERYWHERE, OF_SCORER, OF_TEXTS
from tokengym.evaluation.runs.defaults import training_settings
from tokengym.evaluation.runs.run import run as run_one
from tokengym.evaluation.runs.settings import EvaluationSettings
from tokengym.lab.learners.weighted import WEIGHTS
from tokengym.scripts.cli import main


def code_of(page: str, file: str | None = None) -> str:
    """Return a page's code, or that of a file of the user's own."""
    (code,) = (
        code
        for code in blocks(f"agents/{page}")
        if re.findall(r"\A# (\w+\.py)\n", code) == ([file] if file else [])
    )
    return code


def test_the_bag_of_words_finds_what_pays(capsys: Any):
    found = run(shorter(code_of("own_agent.md"), ("range(20)", "range(8)")))
    text, metrics = capsys.readouterr().out.splitlines()
    assert len(text.split()) == 48
    assert re.fullmatch(r"\{'score': .*, 'gold_score': -?0.0\}", metrics)
    collect, agent, gym = found["collect"], found["agent"], found["gym"]
    envs = gym.make_vec("tokengym/MovieReview-v0", num_envs=32, reward="sparse", min_new_tokens=48)
    learned, learned_logits = [], agent.logits.copy()
    for logits in (learned_logits, 0.0):
        agent.logits[:] = logits
        learned.append(np.mean([episode.score for episode in collect(agent, envs, 64, seed=9)]))
    assert learned[0] > learned[1] + 0.5


def test_the_stock_algorithms_run(capsys: Any):
    ppo, dqn = blocks("agents/stock_sb3.md")
    few = ("envs, 64", "envs, 4")
    found = run(shorter(ppo, ("TOKENS = 40_000", "TOKENS = 64 * 32"), few))
    assert found["agent"].num_timesteps == 64 * 32
    assert len(found["episodes"]) == 4
    assert np.isfinite(float(capsys.readouterr().out))
    # The buffer holds more rewards than there were ends of episodes: it was paid per token.
    rewards, starts = (
        getattr(found["agent"].rollout_buffer, n) for n in ("rewards", "episode_starts")
    )
    assert (rewards != 0).sum() > 2 * (starts != 0).sum()

    run(shorter(dqn, ("STEPS = 40_000", "STEPS = 1_600"), few), found)
    assert len(capsys.readouterr().out.split()) == 2
    assert found["agent"].num_timesteps == 1_600
    buffer = found["agent"].replay_buffer
    assert (buffer.rewards != 0).sum() > 2 * (buffer.dones != 0).sum()


def test_a_loop_of_ones_own_writes_curves_that_the_report_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    few = ("TOKENS, ROWS, UPDATES = 12, 16, 20", "TOKENS, ROWS, UPDATES = 4, 4, 3")
    run(shorter(code_of("own_agent.md", "loop.py"), few))
    assert main(["report", "--curves", "curves.csv", "--out", "report"]) == 0
    assert (tmp_path / "report" / "report.html").is_file()


def test_the_page_of_learners_runs_and_lists_them_all(capsys: Any):
    (first,) = blocks("agents/learners.md")
    run(first)
    assert capsys.readouterr().out.strip() == "None"
    text = (DOCS / "agents" / "learners.md").read_text(encoding="utf-8")
    for name in (*of_suite(ADVANTAGES, "estimators"), *WEIGHTS.names()):
        assert f"| `{name}" in text


def test_the_agent_of_the_page_learns_in_a_comparison(tmp_path: Path, monkeypatch: Any):
    (tmp_path / "gru.py").write_text(code_of("own_agent.md", "gru.py"))
    monkeypatch.chdir(tmp_path)
    ends: dict[str, Any] = {}
    for reward, seed in (("uniform", 0), ("uniform", 0), ("red", 0), ("uniform", 1)):
        tokens = 24 * 8 * 20
        config = comparison(
            env="MovieReview",
            rewards=("uniform", "red"),
            agents=("gru.py:Gru",),
            training=training_settings(
                "MovieReview", tokens=tokens, batch_size=24, max_new_tokens=8, fixed_length=True
            ),
            evaluation=EvaluationSettings(every=10, episodes=64, samples=0),
        )
        with torch.random.fork_rng():
            record = run_one(config, f"gru.py:Gru {reward}", seed)
        assert [point["tokens"] for point in record.points] == [0, tokens // 2, tokens]
        scores = [point["score"] for point in record.points]
        assert ends.setdefault(f"{reward} {seed}", scores) == scores  # the same seed
    assert len({tuple(scores) for scores in ends.values()}) == 3  # another rule, another seed
    assert all(scores[-1] > scores[0] + 0.5 for scores in ends.values())


def test_the_page_on_preferences_runs(capsys: Any, tmp_path: Path, monkeypatch: Any):
    monkeypatch.chdir(tmp_path)
    few = (("256, 48", "24, 10"), ("learn(3)", "learn(1)"), ("num_envs=32", "num_envs=8"))
    found = run(shorter(code_of("preferences.md"), *few))
    said = capsys.readouterr().out
    names = ("CausalLMPolicy", "DPO", "OnlineDPO", "BestOfN")
    scores = {name: float(re.findall(rf"^{name} (\S+)", said, re.M)[0]) for name in names}
    assert scores["BestOfN"] > scores["CausalLMPolicy"]
    assert "at most 1.84 nats" in said
    assert found["agent"] is found["best"]
    assert (tmp_path / "runs" / "online" / "iteration-001" / "pairs.jsonl").is_file()


def test_the_page_on_bridges_says_which_names_each_door_has() -> None:
    """The table's second column is `DOORS`, and the sentence above it what every door has."""
    text = (DOCS / "agents" / "bridges.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()
            if line.startswith("| ")]  # fmt: skip
    cells = {row[0].rpartition(" ")[0]: row[1] for row in rows}
    for name, door in DOORS.items():
        if name != "rows":  # a loop of one's own, whose names are Tinker's
            assert cells.pop(door.title) == door.cell, door.title
    assert {cells.pop(name) for name in ("OpenEnv", "AReaL")} == {"none"}
    assert [*cells] == [""]  # the heading
    (said,) = re.findall(r"Every door has (.*?);", text, re.DOTALL)
    assert re.findall(r"`(\w+)`", said) == list(EVERYWHERE)
    (of_texts,) = re.findall(r"\*The texts\* are (.*?);", text, re.DOTALL)
    assert set(re.findall(r"`(\w+)`", of_texts)) == set(OF_TEXTS)
    (of_scorer,) = re.findall(r"\*the scorer's\* are (.*?) and", text, re.DOTALL)
    assert set(re.findall(r"`(\w+)`", of_scorer)) <= set(OF_SCORER)


def test_the_page_on_bridges_trains_shows_credit_and_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if sys.version_info < (3, 11):
        pytest.skip("TRL needs Python 3.11")
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    for code in (*blocks("agents/trl.md"), *blocks("agents/bridges.md")):
        quiet = "logging_steps=1, disable_tqdm=True, save_strategy="
        run(code.replace("save_strategy=", quiet), found)
    assert "\x1b[48;2;" in capsys.readouterr().out
    told, ids = found["prompt"], [found["one"], found["other"]]
    common: dict[str, Any] = {"group_index": 0, "loss_mask": None, "remove_sample": False}
    samples = [
        SimpleNamespace(tokens=[*told, *one], response_length=len(one), **common) for one in ids
    ]
    talks = [
        SimpleNamespace(steps=[SimpleNamespace(prompt_ids=told, response_ids=one)]) for one in ids
    ]
    rllm_advantages(talks, ["i saw"] * 2)
    paid = [row.tolist() for row in found["credited"].advantages]
    assert slime_rewards(None, samples)[1] == paid
    assert [talk.steps[0].advantage for talk in talks] == paid
    state = tmp_path / "runs" / "trl" / "trainer_state.json"
    other = tmp_path / "runs" / "stock" / "trainer_state.json"
    other.parent.mkdir()
    shutil.copy(state, other)
    text = (DOCS / "agents" / "trl.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^tokengym (report .*)$", text, re.M)
    assert main(line.split()) == 0
    summary = json.loads((tmp_path / "report" / "summary.json").read_text())
    assert list(summary["groups"][0]["rewards"]) == ["stock", "trl"]
