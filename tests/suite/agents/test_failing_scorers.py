"""A scorer that fails while an agent plays or trains loses no finished episode."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.callbacks import CallbackList

from tests.support.agents.turns import TALK
from tests.support.rules import rule_of
from tokengym.agents import EpisodeLog, RandomAgent, collect
from tokengym.agents.sb3 import as_vec_env
from tokengym.envs import Episode
from tokengym.rewards import Scorer, ScorerError, Scores
from tokengym.rewards.reward import Reward


class FailsAfter(Scorer):
    """Scores the length of some episodes, then fails for good."""

    name = "fails"

    def __init__(self, good: int, *, raises: bool) -> None:
        self.good = good
        self.raises = raises
        self.scored: list[Episode] = []

    def score(self, episodes: Sequence[Episode]) -> Scores:  # type: ignore[override]
        if len(self.scored) >= self.good:
            if self.raises:
                raise RuntimeError("the judge is out of reach")
            return Scores([np.nan] * len(episodes))
        self.scored += episodes
        return Scores([len(episode.response_ids) for episode in episodes])


@pytest.mark.parametrize("raises", [False, True])
@pytest.mark.parametrize("sb3", [False, True])
def test_collect_keeps_all_that_was_finished(make_envs, raises, sb3):
    scorer = FailsAfter(9, raises=raises)
    envs: Any = make_envs(reward=Reward(scorer, rule_of("sparse")))
    with pytest.raises(ScorerError, match=r"'fails'.*finished episodes") as caught:
        collect(RandomAgent(envs), as_vec_env(envs) if sb3 else envs, 100, seed=0)
    kept = caught.value.episodes
    scored = [episode for episode in kept if episode.score is not None]
    assert scored
    assert sorted(tuple(e.response_ids) for e in scored) == sorted(
        tuple(e.response_ids) for e in scorer.scored
    )
    assert all(episode.score == len(episode.response_ids) for episode in scored)
    assert len(kept) > len(scored)  # those that it failed on
    assert kept[: len(scored)] == tuple(scored)


@pytest.mark.parametrize("raises", [False, True])
def test_training_stops_and_its_log_has_the_episodes(make_envs, make_ppo, tmp_path, raises):
    scorer = FailsAfter(6, raises=raises)
    agent = make_ppo(envs=make_envs(reward=Reward(scorer, rule_of("sparse"))))
    log = EpisodeLog(tmp_path / "episodes.jsonl")
    with pytest.raises(ScorerError, match=r"scorer 'fails'") as caught:
        agent.learn(1000, callback=CallbackList([log]))
    lines = [json.loads(line) for line in log.path.read_text().splitlines()]
    whole = [line for line in lines if "error" not in line]
    assert [line["update"] for line in whole] == [0] * 4 + [1] * 4  # rounds of four rows
    rest = [line for line in lines if "error" in line]
    assert len(rest) == len(caught.value.episodes)
    assert all(line["error"] == str(caught.value) for line in rest)
    ids = sorted(tuple(line["response_ids"]) for line in lines if line["score"] is not None)
    assert ids == sorted(tuple(episode.response_ids) for episode in scorer.scored)
    assert any(line["score"] is None for line in rest)
    # The episodes of the failed round are known with what they were sampled with.
    assert all(len(line["log_probs"]) == len(line["response_ids"]) for line in rest)


def test_in_a_conversation_what_was_finished_keeps_its_log_probs(make_envs, make_ppo):
    envs = make_envs(**TALK, reward=Reward(FailsAfter(6, raises=True), rule_of("sparse")))
    agent = make_ppo(envs=envs)
    with pytest.raises(ScorerError, match="out of reach") as caught:
        collect(agent, envs, 100, seed=0)
    kept = caught.value.episodes
    unhurt = collect(agent, make_envs(**TALK), len(kept), seed=0)
    assert [e.response_ids for e in kept] == [e.response_ids for e in unhurt]
    assert any(0 in episode.written for episode in kept if episode.written is not None)
    for episode, same in zip(kept, unhurt, strict=True):
        np.testing.assert_array_equal(episode.log_probs, same.log_probs)
        np.testing.assert_array_equal(episode.log_probs < 0.0, episode.written > 0)
