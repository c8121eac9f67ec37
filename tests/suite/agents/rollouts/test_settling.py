"""Rounds are scored once, when all episodes have ended, so that scores are centred by its mean."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecMonitor

from tests.support.agents.common import EOS, TARGET
from tests.support.agents.playing import MODES, Scripted
from tests.support.rules import rule_of
from tokengym.agents.rollouts.playing import RolloutBatch, as_sampler, play_round
from tokengym.agents.rollouts.rounds import as_rounds
from tokengym.agents.sb3 import as_vec_env
from tokengym.envs import Episode
from tokengym.rewards import FunctionScorer, Normalize, Reward, Rule, on_last, token_credit

ROWS = 4


def tokens_of(episode: Episode) -> NDArray[np.float32]:
    return episode.token_rewards


def length_score(prompt: str, response: str) -> float:
    """Return 0, 1, 2, ...: a score that grows with the length."""
    return float(len(response.split()))


class HalfToTheHorizon:
    """Ends row 0 after 1 token and row 1 after 3; the others reach the horizon."""

    def __init__(self) -> None:
        self.steps = 0

    def predict(
        self, observation: Any, state: Any, episode_start: NDArray[np.bool_], deterministic: bool
    ) -> Any:
        self.steps = 0 if episode_start.any() else self.steps + 1
        actions = np.full(len(observation["input_ids"]), TARGET)
        actions[:2] = np.where(np.array([0, 2]) <= self.steps, EOS, TARGET)
        return actions, state


def play(envs: Any) -> RolloutBatch:
    return play_round(as_sampler(HalfToTheHorizon()), as_rounds(envs), seed=0)


def normalized(credit: Rule | None = None, **options: Any) -> Reward:
    options = {"window": ROWS, "scale": False, "clip": None} | options
    return Reward(Normalize(FunctionScorer(length_score), **options), credit or rule_of("sparse"))


@pytest.mark.parametrize("mode", MODES)
def test_a_batch_is_centred_by_the_mean_of_the_whole_round(make_envs, mode):
    envs = make_envs(reward=normalized(), autoreset_mode=mode)
    for _ in range(2):  # raw scores 0, 2, 6 and 6, whose mean is 3.5
        episodes = play(envs).episodes
        assert [episode.score for episode in episodes] == [-3.5, -1.5, 2.5, 2.5]
        assert [float(tokens_of(e).sum()) for e in episodes] == [-3.5, -1.5, 2.5, 2.5]
        assert [e.score_parts["raw_score"] for e in episodes] == [0.0, 2.0, 6.0, 6.0]


def test_through_an_adapter_but_not_a_monitor(make_envs):
    played = play(as_vec_env(make_envs(reward=normalized())))
    assert [episode.score for episode in played.episodes] == [-3.5, -1.5, 2.5, 2.5]
    # A monitor records what steps pay, so each end is centred by the scores up to it: 0, 2, 6, 6.
    monitored = VecMonitor(as_vec_env(make_envs(reward=normalized())))
    recorded: list[float] = []

    def step(observation: Any, rewards: Any, dones: Any, infos: Any) -> Any:
        recorded.extend(info["episode"]["r"] for info in infos if "episode" in info)
        return observation, rewards, dones, infos

    wait = monitored.step_wait
    monitored.step_wait = lambda: step(*wait())  # type: ignore[method-assign]
    scores = [episode.score for episode in play(monitored).episodes]
    assert scores == recorded == [0.0, 1.0, 2.5, 2.5]


@pytest.mark.parametrize(
    "options", [{"window": None}, {"window": 6, "clip": 1.0}, {"scale": False}]
)
def test_running_statistics_are_those_of_a_batch_scored_at_once(make_envs, options):
    options = {"scale": True, "clip": 10.0} | options
    at_once = normalized(**options)
    envs = make_envs(reward=normalized(**options))
    for _ in range(3):
        played = play(envs).episodes
        expected = at_once.evaluate(played)
        assert [e.score for e in played] == pytest.approx([e.score for e in expected], rel=1e-6)
        for episode, other in zip(played, expected, strict=True):
            np.testing.assert_allclose(tokens_of(episode), tokens_of(other), rtol=1e-6)
    found, wanted = envs.reward.scorer.moments, at_once.scorer.moments  # type: ignore[attr-defined]
    assert found == pytest.approx(wanted)


@pytest.mark.parametrize("credit", [rule_of("uniform"), rule_of("red")])
def test_every_credit_follows_the_centred_score(make_envs, tokenizer, credit):
    at_once = normalized(credit, window=None).bind(tokenizer)
    envs = make_envs(reward=normalized(credit, window=None))
    for _ in range(2):
        played = play(envs).episodes
        for episode, other in zip(played, at_once.evaluate(played), strict=True):
            assert episode.score == pytest.approx(other.score, rel=1e-6)
            np.testing.assert_allclose(tokens_of(episode), tokens_of(other), atol=1e-5)


def test_a_round_is_scored_once(make_envs):
    calls = []

    @token_credit
    def counted(paid: Any, response_mask: Any) -> Any:
        calls.append(len(paid))
        return on_last(paid, response_mask)

    play(make_envs(reward=Reward(FunctionScorer(length_score), counted)))
    assert calls == [ROWS]


def test_an_abandoned_round_is_dropped(make_envs):
    envs = make_envs(reward=normalized())
    seen = []

    def stop(*arguments: Any) -> bool:
        seen.append(arguments)
        return len(seen) < 2

    rounds = as_rounds(envs)
    assert play_round(as_sampler(Scripted()), rounds, seed=0, on_step=stop) is None
    assert not envs.deferred
    assert [episode.score for episode in play(envs).episodes] == [-3.5, -1.5, 2.5, 2.5]
