"""Episodes as JSON lines, and samples in the log."""

import json

import numpy as np
import pytest

from tests.suite.agents.conftest import PerToken, target_reward
from tests.suite.agents.ppo.test_ppo import log_of
from tokengym.agents import EpisodeLog
from tokengym.agents.rollouts.logs import samples
from tokengym.envs import Episode


def test_every_episode_becomes_a_line(make_envs, make_ppo, tmp_path):
    agent = make_ppo(envs=make_envs(reward=target_reward(PerToken())))
    path = tmp_path / "deep" / "episodes.jsonl"
    rows = log_of(agent, 60, callback=EpisodeLog(path, num_shown=3))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == 4 * len(rows)
    for number, line in enumerate(lines):
        assert (line["update"], line["row"]) == divmod(number, 4)
        assert line["timestep"] == rows[line["update"]]["step"]
        assert sum(line["token_rewards"]) == pytest.approx(line["score"], abs=1e-5)
        assert len(line["token_rewards"]) == len(line["response_ids"]) == len(line["log_probs"])
        assert all(log_prob < 0.0 for log_prob in line["log_probs"])
        assert line["finish_reason"] in ("eos", "length")
        assert isinstance(line["prompt"], str)
        assert isinstance(line["score_parts"], dict)
    for number, row in enumerate(rows):
        scores = [line["score"] for line in lines[4 * number : 4 * number + 4]]
        assert row["rollout/score"] == pytest.approx(np.mean(scores))
        assert row["samples/1 of 4"].startswith(f"{max(scores):.3f}")
        assert row["samples/4 of 4"].startswith(f"{min(scores):.3f}")
        assert "samples/2 of 4" in row


def test_a_resumed_run_appends_and_rounds_can_be_skipped(make_ppo, tmp_path):
    path = tmp_path / "episodes.jsonl"
    agent = make_ppo()
    rows = log_of(agent, 60, callback=EpisodeLog(path, every=2))
    first = [json.loads(line)["update"] for line in path.read_text().splitlines()]
    assert sorted(set(first)) == list(range(0, len(rows), 2))
    agent.learn(1, callback=EpisodeLog(path), reset_num_timesteps=False)
    assert len(path.read_text().splitlines()) == len(first) + 4
    with pytest.raises(ValueError, match=r"every.*>= 1, got 0"):
        EpisodeLog(path, every=0)


def test_samples_are_the_best_the_worst_and_some_between():
    episodes = [
        Episode(prompt="p", response=str(i), prompt_ids=(1,), response_ids=(1,), score=float(i))
        for i in range(5)
    ]
    assert list(samples(episodes, 3)) == ["1 of 5", "3 of 5", "5 of 5"]
    assert samples(episodes, 1) == {"1 of 5": "4.000  p | 4"}
    assert samples(episodes, 0) == {}
    assert len(samples(episodes[:2], 9)) == 2
