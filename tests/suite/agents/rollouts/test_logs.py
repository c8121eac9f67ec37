"""Episodes as JSON lines."""

import json

import numpy as np
import pytest

from tests.support.agents.common import per_token, target_reward
from tests.support.agents.ppo import log_of
from tokengym.agents import EpisodeLog


def test_every_episode_becomes_a_line(make_envs, make_ppo, tmp_path):
    agent = make_ppo(envs=make_envs(reward=target_reward(per_token)))
    path = tmp_path / "deep" / "episodes.jsonl"
    rows = log_of(agent, 60, callback=EpisodeLog(path))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == 4 * len(rows)
    for number, line in enumerate(lines):
        assert (line["update"], line["row"]) == divmod(number, 4)
        assert line["timestep"] == rows[line["update"]]["step"]
        assert sum(line["token_rewards"]) == pytest.approx(line["score"], abs=1e-5)
        assert len(line["token_rewards"]) == len(line["response_ids"]) == len(line["log_probs"])
        assert all(log_prob < 0.0 for log_prob in line["log_probs"])
        assert line["finish_reason"] in ("eos", "length")
    for number, row in enumerate(rows):
        scores = [line["score"] for line in lines[4 * number : 4 * number + 4]]
        assert row["rollout/score"] == pytest.approx(np.mean(scores))
    agent.learn(1, callback=EpisodeLog(path), reset_num_timesteps=False)  # appends
    assert len(path.read_text().splitlines()) == len(lines) + 4


def test_rounds_that_a_resume_plays_again_stand_once(make_envs, make_ppo, tmp_path):
    path, saved = tmp_path / "episodes.jsonl", tmp_path / "agent"
    agent = make_ppo(envs=make_envs(reward=target_reward(per_token)))
    agent.learn(30, callback=EpisodeLog(path))
    agent.save(saved)
    agent.learn(30, callback=EpisodeLog(path), reset_num_timesteps=False)  # then it was killed
    killed = path.read_text()
    resumed = type(agent).load(saved, env=make_envs(reward=target_reward(per_token)))
    resumed.learn(30, callback=EpisodeLog(path), reset_num_timesteps=False)
    assert path.read_text() == killed
