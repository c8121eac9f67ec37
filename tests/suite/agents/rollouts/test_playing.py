import random
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import SyncVectorEnv
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import DummyVecEnv

from tests.support.agents.common import EOS, PROMPTS, TARGET, VOCABULARY, single_env
from tests.support.agents.playing import MODES, Scripted
from tokengym.agents import RandomAgent, collect
from tokengym.agents.rollouts.playing import as_sampler, play_round
from tokengym.agents.rollouts.rounds import as_rounds
from tokengym.agents.sb3 import as_vec_env
from tokengym.envs import ActionError, PadTokenRewards, SettingsError


def test_every_row_plays_one_episode_per_round(make_envs):
    episodes = collect(Scripted(), make_envs(), 10, seed=0)
    lengths = [len(episode.response_ids) for episode in episodes]
    assert lengths == [1, 2, 3, 4, 1, 2, 3, 4, 1, 2]
    assert [round(6 * e.score) for e in episodes] == [n - 1 for n in lengths]


def test_a_seed_begins_the_first_round_and_no_other(make_envs):
    envs = make_envs(num_envs=2, prompt_sampling="sequential")
    episodes = collect(RandomAgent(envs, seed=0), envs, 4, seed=5)
    assert [episode.prompt for episode in episodes] == list(PROMPTS)


def test_an_agent_is_given_the_masks_that_it_takes(make_envs):
    envs = make_envs(num_envs=8, forbidden_token_ids=[2, 4, 5, 6, 7], min_new_tokens=3)
    episodes = collect(RandomAgent(envs, seed=0), envs, 16, seed=0)
    written = {token for episode in episodes for token in episode.response_ids}
    assert written == {0, EOS, TARGET}
    assert not any(EOS in episode.response_ids[:3] for episode in episodes)


@pytest.mark.parametrize("deterministic", [False, True])
def test_an_agent_is_told_whether_to_sample(make_envs, deterministic):
    class Told(Scripted):
        def predict(self, *arguments: Any) -> Any:
            told.append(arguments[-1])
            return super().predict(*arguments)

    told: list[bool] = []
    collect(Told(), make_envs(), 8, deterministic=deterministic)
    assert len(told) == 8  # two rounds of four steps
    assert {*told} == {deterministic}


def test_all_kinds_of_environment_give_the_same_episodes(make_envs, make_ppo):
    agent = make_ppo()

    def play(envs: Any) -> list[Any]:
        return [
            (e.prompt, e.response_ids, e.score, str(e.token_rewards), e.finish_reason)
            for e in collect(agent, envs, 4, seed=11)
        ]

    expected = play(make_envs())
    assert len({len(ids) for _, ids, *_ in expected}) > 1
    for mode in MODES:
        assert play(make_envs(autoreset_mode=mode)) == expected
        copies = [lambda: single_env(None, PadTokenRewards)] * 4
        assert play(SyncVectorEnv(copies, autoreset_mode=mode)) == expected
    assert play(as_vec_env(make_envs())) == expected
    assert play(DummyVecEnv([single_env] * 4)) == expected
    assert len(collect(agent, single_env(), 3, seed=0)) == 3


def test_a_round_plays_chosen_prompts_everywhere(make_envs, make_ppo):
    agent, wanted = make_ppo(), [2, 0, 0, 3]
    stock = DummyVecEnv([single_env] * 4)
    adapted = as_vec_env(make_envs())
    adapted.reset()  # a reset that nothing was played from is not taken for the chosen prompts
    for envs in (make_envs(), adapted, stock):
        for options in ({"prompt_ids": wanted}, {"prompts": [PROMPTS[i] for i in wanted]}):
            played = play_round(as_sampler(agent), as_rounds(envs), seed=1, options=options)
            assert [episode.prompt for episode in played.episodes] == [PROMPTS[i] for i in wanted]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"group_size": 2}, "group_size=2.*VectorEnv"),
        ({"prompts": ["d"]}, "4 rows, got 1"),
    ],
)
def test_options_that_a_stock_batch_cannot_take_are_refused(options, message):
    stock = DummyVecEnv([single_env] * 4)
    with pytest.raises(SettingsError, match=message):
        as_rounds(stock).reset(options=options)


def test_log_probs_come_with_agents_that_know_them(make_envs, make_ppo):
    for episode in collect(make_ppo(), make_envs(), 4, seed=0):
        assert (episode.log_probs < 0.0).all()
    for episode in collect(RandomAgent(make_envs(), seed=0), make_envs(), 4, seed=0):
        assert episode.log_probs is None


def test_a_seed_repeats_episodes_and_leaves_the_training_s_randomness_alone(make_envs, make_ppo):
    agent = make_ppo()
    before = agent.policy.generator.get_state()
    first, again, other = (collect(agent, make_envs(), 6, seed=seed) for seed in (3, 3, 4))
    assert [e.response_ids for e in first] == [e.response_ids for e in again]
    assert [e.response_ids for e in first] != [e.response_ids for e in other]
    assert (agent.policy.generator.get_state() == before).all()


def test_global_random_state_is_left_alone(make_envs, make_ppo):
    np.random.seed(0)
    random.seed(0)
    torch.manual_seed(0)

    def state() -> str:
        with np.printoptions(threshold=10_000):
            return str((random.getstate(), np.random.get_state(), torch.get_rng_state().tolist()))

    before = state()
    agent = make_ppo()
    agent.learn(30)
    collect(agent, make_envs(), 4, seed=0)
    assert state() == before


@pytest.mark.parametrize("actions", [np.zeros(3, int), np.zeros(4), np.zeros((4, 1), int)])
def test_actions_of_another_shape_or_kind_are_refused(make_envs, actions):
    class Mine:
        def predict(self, *_: object) -> tuple[NDArray[np.generic], None]:
            return actions, None

    with pytest.raises(ActionError, match=r"Mine\.predict.*\(4,\), got"):
        collect(Mine(), make_envs(), 4)


class ByTheLast:
    """Answers an observation alone, with an array alone."""

    def predict(self, observation: Any) -> Any:
        return np.full(len(observation["input_ids"]), 3)


class WhereAsked(ByTheLast):
    """Reads one more word, by its name."""

    def predict(self, observation: Any, deterministic: bool = False) -> Any:
        assert deterministic
        return np.full(len(observation["input_ids"]), 3), None


@pytest.mark.parametrize("kind", [ByTheLast, WhereAsked])
def test_predict_may_read_less_and_return_an_array_alone(make_envs, kind):
    episodes = collect(kind(), make_envs(), 4, deterministic=True)
    assert {token for episode in episodes for token in episode.response_ids} == {3}


def test_what_cannot_be_played_is_named(make_envs):
    with pytest.raises(TypeError, match=r"predict.*got int"):
        collect(3, make_envs(), 1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"envs.*VectorEnv"):
        collect(RandomAgent(make_envs()), "tokengym/MovieReview-v0", 1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"num_episodes.*>= 0, got -1"):
        collect(RandomAgent(make_envs()), make_envs(), -1)


# --- the random agent ---------------------------------------------------------------------------


def test_the_random_agent_is_uniform_over_the_mask_and_seeded(make_envs):
    observation, _ = make_envs().reset(seed=0)
    masks = np.zeros((4, VOCABULARY), dtype=np.int8)
    masks[:, [2, 5, 6]] = 1
    agent, twin = (RandomAgent(make_envs(), seed=7) for _ in range(2))
    drawn = np.stack([agent.predict(observation, action_masks=masks)[0] for _ in range(1500)])
    assert drawn.shape == (1500, 4)
    counts = np.bincount(drawn.ravel(), minlength=VOCABULARY) / drawn.size
    np.testing.assert_allclose(counts[[2, 5, 6]], 1 / 3, atol=0.03)
    assert counts[[0, 1, 3, 4, 7]].sum() == 0
    assert twin.predict(observation, action_masks=masks)[0].tolist() == drawn[0].tolist()


def test_the_random_agent_without_a_mask_and_on_one_observation(make_envs):
    observation, _ = make_envs().reset(seed=0)
    agent = RandomAgent(gym.spaces.Discrete(3), seed=0)
    drawn = np.concatenate([agent.predict(observation)[0] for _ in range(50)])
    assert set(drawn.tolist()) == {0, 1, 2}
    single = {name: values[0] for name, values in observation.items()}
    assert np.shape(agent.predict(single)[0]) == ()


def test_the_random_agent_refuses_what_it_cannot_do(make_envs):
    observation, _ = make_envs().reset(seed=0)
    with pytest.raises(ValueError, match="allows no token"):
        RandomAgent(make_envs()).predict(observation, action_masks=np.zeros((4, VOCABULARY)))
    with pytest.raises(TypeError, match=r"Discrete.*got Box"):
        RandomAgent(gym.spaces.Box(0, 1))
