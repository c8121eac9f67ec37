"""Evaluations measure by the scorer, whatever layers an environment of the user's own has."""

import pytest

from tokengym.agents import RandomAgent, collect
from tokengym.evaluation.measure.evaluate import Evaluator

FILE = """
import gymnasium as gym
import tokengym


def make_env(num_envs, **options):
    envs = gym.make_vec("tokengym/MovieReview-v0", num_envs=num_envs, **options)
    return gym.wrappers.vector.TransformReward(envs, lambda rewards: 10.0 * rewards - 1.0)
"""


def test_the_score_is_the_scorers_and_not_what_a_layer_pays(tmp_path):
    (tmp_path / "mine.py").write_text(FILE)
    options = {"max_new_tokens": 3, "reward": "uniform"}
    alone = Evaluator("MovieReview", options, num_episodes=4)
    shaped = Evaluator(f"{tmp_path / 'mine.py'}:make_env", options, num_episodes=4)
    found = [one(RandomAgent(one.envs, seed=0)).metrics for one in (alone, shaped)]
    assert found[0] == pytest.approx(found[1])
    episodes = collect(RandomAgent(shaped.envs, seed=0), shaped.envs, 4, seed=0)
    for episode in episodes:  # which a learner hears
        expected = 10.0 * episode.score_parts["raw_score"] - len(episode.response_ids)
        assert episode.score == pytest.approx(expected, rel=1e-5)
    for one in (alone, shaped):
        one.close()
