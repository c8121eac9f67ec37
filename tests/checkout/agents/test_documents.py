"""The examples in docs/agents run as they stand, only shorter."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tokengym.agents.ppo.advantages import ADVANTAGES, RoundTensors
from tokengym.agents.ppo.settings import PPOSettings
from tokengym.evaluation.runs.config import ComparisonConfig
from tokengym.evaluation.runs.defaults import EvaluationSettings, training_settings
from tokengym.evaluation.runs.run import run
from tokengym.lab.learners.weighted import WEIGHTS, WeighedRound
from tokengym.scripts.cli import main

DOCUMENTS = Path(__file__).parents[3] / "docs" / "agents"


def python_of(name: str) -> str:
    """Return the page's code, without that of files of the user's own."""
    pattern = r"```python\n(?!# \w+\.py\n)(.*?)```"
    (code,) = re.findall(pattern, (DOCUMENTS / name).read_text(), re.DOTALL)
    return code


def test_the_bag_of_words_finds_what_pays(capsys: Any):
    code = python_of("own_agent.md")
    assert code.count("range(20)") == 1
    found: dict[str, Any] = {}
    exec(compile(code.replace("range(20)", "range(8)"), "own_agent.md", "exec"), found)
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
    ppo, dqn = re.findall(
        r"```python\n(.*?)```", (DOCUMENTS / "stock_sb3.md").read_text(), re.DOTALL
    )
    short = ppo.replace("TOKENS = 40_000", "TOKENS = 64 * 32").replace("envs, 64", "envs, 4")
    assert short.count("64 * 32") == 1
    found: dict[str, Any] = {}
    with torch.random.fork_rng():
        exec(compile(short, "stock_sb3.md", "exec"), found)
    assert found["agent"].num_timesteps == 64 * 32
    assert len(found["episodes"]) == 4
    assert np.isfinite(float(capsys.readouterr().out))
    # The buffer holds more rewards than there were ends of episodes: it was paid per token.
    rewards, starts = (
        getattr(found["agent"].rollout_buffer, n) for n in ("rewards", "episode_starts")
    )
    assert (rewards != 0).sum() > 2 * (starts != 0).sum()

    short = dqn.replace("STEPS = 40_000", "STEPS = 1_600").replace("envs, 64", "envs, 4")
    assert short.count("1_600") == 1
    with torch.random.fork_rng():
        exec(compile(short, "stock_sb3.md", "exec"), found)
    assert len(capsys.readouterr().out.split()) == 2
    assert found["agent"].num_timesteps == 1_600
    buffer = found["agent"].replay_buffer
    assert (buffer.rewards != 0).sum() > 2 * (buffer.dones != 0).sum()


def test_the_dpo_runs(capsys: Any, tmp_path: Path, monkeypatch: Any):
    monkeypatch.chdir(tmp_path)
    code = python_of("dpo.md")
    short = code.replace("HELD_OUT = 4096, 2, 128", "HELD_OUT = 512, 4, 32")
    assert short != code
    found: dict[str, Any] = {}
    exec(compile(short, "dpo.md", "exec"), found)
    assert len(found["pairs"]) > 10
    assert capsys.readouterr().out.count("gold_score") == 2
    rows = found["dpo"].state.log_history
    assert rows[-2]["rewards/margins"] > 0.01
    assert (tmp_path / "runs" / "dpo" / "model" / "model.safetensors").is_file()


def test_a_loop_of_ones_own_writes_curves_that_the_report_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = (DOCUMENTS / "own_agent.md").read_text()
    (code,) = re.findall(r"```python\n# loop\.py\n(.*?)```", text, re.DOTALL)
    short = code.replace("TOKENS, ROWS, UPDATES = 12, 16, 20", "TOKENS, ROWS, UPDATES = 4, 4, 3")
    assert short != code
    with torch.random.fork_rng():
        exec(compile(short, "loop.py", "exec"), {})
    assert main(["report", "--curves", "curves.csv", "--out", "report"]) == 0
    assert (tmp_path / "report" / "report.html").is_file()


def test_the_page_of_learners_runs_and_lists_them_all(capsys: Any):
    text = (DOCUMENTS / "learners.md").read_text()
    first, estimator, own = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    with torch.random.fork_rng():
        exec(compile(first, "learners.md", "exec"), {})
    assert capsys.readouterr().out.strip() == "None"
    found: dict[str, Any] = {}
    exec(compile(estimator + own, "learners.md", "exec"), found)
    mask = torch.tensor([[True, True, True, True], [True, True, False, False]])
    played = RoundTensors(
        token_rewards=mask.float(),
        response_mask=mask,
        values=None,
        final_values=None,
        scores=mask.sum(1).float(),
    )
    advantages, returns = found["CENTRED"].estimate(played, PPOSettings())
    to_go = torch.tensor([[4.0, 3, 2, 1], [2, 1, 0, 0]])
    torch.testing.assert_close(returns, to_go)
    torch.testing.assert_close(advantages, (to_go - 13 / 6) * mask)
    weights = found["Mine"]().weigh(
        WeighedRound(
            response_mask=mask, advantages=torch.ones(2, 4), seed=0, entropy=lambda: mask.float()
        )
    )
    expected = torch.tensor([[4, 4, 2, 2], [4, 2, 0, 0]]) / 3
    torch.testing.assert_close(weights, expected)
    for name in (*ADVANTAGES, *WEIGHTS.names()):
        assert f"| `{name}" in text


def test_the_agent_of_the_page_learns_in_a_comparison(tmp_path: Path, monkeypatch: Any):
    (code,) = re.findall(
        r"```python\n# gru\.py\n(.*?)```", (DOCUMENTS / "own_agent.md").read_text(), re.DOTALL
    )
    (tmp_path / "gru.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    ends: dict[str, Any] = {}
    for reward, seed in (("uniform", 0), ("uniform", 0), ("red:delivery=end", 0), ("uniform", 1)):
        tokens = 24 * 8 * 20
        config = ComparisonConfig(
            env="MovieReview",
            rewards=("uniform", "red:delivery=end"),
            agents=("gru.py:Gru",),
            training=training_settings(
                "MovieReview", tokens=tokens, batch_size=24, max_new_tokens=8, fixed_length=True
            ),
            evaluation=EvaluationSettings(every=10, episodes=64, samples=0),
        )
        with torch.random.fork_rng():
            record = run(config, config.names[config.rewards.index(reward)], seed)
        assert [point["step"] for point in record.curve] == [0, 10, 20]
        assert [point["tokens"] for point in record.curve] == [0, tokens // 2, tokens]
        assert [row["score"] is None for row in record.train] == [False] * 20
        scores = [point["score"] for point in record.curve]
        assert ends.setdefault(f"{reward} {seed}", scores) == scores  # the same seed
    assert len({tuple(scores) for scores in ends.values()}) == 3  # another rule, another seed
    assert all(scores[-1] > scores[0] + 0.5 for scores in ends.values())
