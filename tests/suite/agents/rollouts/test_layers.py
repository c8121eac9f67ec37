# mypy: no-check-untyped-defs
"""Layers around an environment: learners hear what the outermost one pays, or refuse it."""

import gymnasium as gym
import gymnasium.wrappers as single
import gymnasium.wrappers.vector as batched
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorWrapper
from stable_baselines3.common import vec_env as sb3
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from tests.support.agents.common import (
    EOS,
    PROMPTS,
    TARGET,
    make_model,
    per_token,
    single_env,
    target_reward,
)
from tests.support.rules import rule_of
from tests.support.words import make_word_tokenizer as make_tokenizer
from tokengym.agents import PPO, RandomAgent, collect
from tokengym.agents.offline.collecting import ResponseCollector
from tokengym.agents.rollouts.layers import ask_first_row, check_learnable
from tokengym.agents.rollouts.playing import as_sampler, play_round
from tokengym.agents.rollouts.rounds import RoundReward, as_rounds
from tokengym.agents.sb3 import as_vec_env
from tokengym.base.errors import SettingsError
from tokengym.envs import Reply, TokenGenerationEnv, TokenGenerationVectorEnv
from tokengym.rewards import (
    FunctionScorer,
    Reward,
    RewardError,
    RewardWrapper,
    SparseReward,
    VectorRewardWrapper,
)

ROWS, TOKENS = 3, 6
WRITES = (2, 4, 6)
"""Tokens that each row writes: targets but for the first, then EOS."""
TOKENIZER = make_tokenizer()


def one(credit=None, *wrappers):
    return single_env(target_reward(per_token if credit is None else credit), *wrappers)


def batch(credit=None):
    settings = {"tokenizer": TOKENIZER, "prompts": PROMPTS, "max_new_tokens": TOKENS}
    envs = TokenGenerationVectorEnv(num_envs=ROWS, **settings)
    return VectorRewardWrapper(envs, target_reward(per_token if credit is None else credit))


def make_agent(envs, **settings):
    return PPO(
        "CausalLMPolicy",
        envs,
        policy_kwargs={"model": make_model()},
        seed=0,
        device="cpu",
        **settings,
    )


class Writer:
    """Writes texts of `WRITES` tokens: one other token, targets, and EOS."""

    def predict(self, observation, state, episode_start, deterministic):
        step = 0 if episode_start.any() else state + 1
        lengths = np.array(WRITES[: len(observation["input_ids"])])
        token = np.where(step == 0, TARGET + 1, TARGET)
        return np.where(step >= lengths - 1, EOS, token).astype(np.int64), step


def play(envs):
    """Return the episodes of `Writer`: scores (0, 2, 4) / 6, earned by the targets."""
    played = play_round(as_sampler(Writer()), as_rounds(envs), seed=0)
    return played.episodes


def earned(envs):
    return [episode.token_rewards.tolist() for episode in play(envs)]


def plain():
    """Return what the credit gives: 1 / 6 to each target."""
    return [np.array([0.0, *[1.0 / 6.0] * (length - 2), 0.0]).tolist() for length in WRITES]


# --- layers that change tokens, and layers that change nothing -----------------------------------


def same(value):
    return value


READS, WRITES_OTHERS = "changes observations; leave it out", "changes actions; leave it out"
ARRAYS = "returns other arrays or infos; leave it out"
REFUSED = [
    (lambda: single.DelayObservation(one(), 2), READS),
    (lambda: single.FrameStackObservation(one(), 2), READS),
    (lambda: single.TimeAwareObservation(single.TimeLimit(one(), TOKENS)), READS),
    (lambda: batched.TransformObservation(batch(), same, None), READS),
    (lambda: batched.NormalizeObservation(batch()), READS),
    (lambda: sb3.VecFrameStack(as_vec_env(batch()), 2), READS),
    (lambda: sb3.VecExtractDictObs(as_vec_env(batch()), "input_ids"), READS),
    (lambda: single.TransformAction(one(), same, None), WRITES_OTHERS),
    (lambda: single.StickyAction(one(), 0.5), WRITES_OTHERS),
    (lambda: single.RepeatAction(one(), 2), WRITES_OTHERS),
    (lambda: batched.TransformAction(batch(), same, None), WRITES_OTHERS),
    (lambda: single.NumpyToTorch(one()), ARRAYS),
    (lambda: batched.NumpyToTorch(batch()), ARRAYS),
    (lambda: batched.DictInfoToList(batch()), ARRAYS),
    (lambda: VecNormalize(as_vec_env(batch())), "normalises token ids; pass norm_obs=False"),
    (lambda: SyncVectorEnv([lambda: single.DelayObservation(one(), 2)]), READS),
]


@pytest.mark.parametrize(("build", "message"), REFUSED)
def test_a_layer_that_changes_tokens_is_refused_before_anything_is_played(build, message):
    with pytest.raises(SettingsError, match=message):
        make_agent(build())


HARMLESS = [
    lambda: single.TimeLimit(one(), TOKENS),
    lambda: single.Autoreset(one()),
    lambda: single.RecordEpisodeStatistics(one()),
    lambda: single.PassiveEnvChecker(one()),
    lambda: single.AddWhiteNoise(one(), 0.5),  # only rendering
    lambda: batched.RecordEpisodeStatistics(batch()),
    lambda: sb3.VecCheckNan(as_vec_env(batch())),
    lambda: sb3.VecTransposeImage(as_vec_env(batch())),
]


@pytest.mark.parametrize("build", HARMLESS)
def test_a_layer_that_changes_nothing_is_taken(build):
    envs = build()
    check_learnable(envs, "PPO")
    episodes = play(envs)
    scores = [0.0, 2.0 / 6.0, 4.0 / 6.0][: len(episodes)]
    assert [episode.score for episode in episodes] == pytest.approx(scores)
    assert all("raw_score" not in episode.score_parts for episode in episodes)


# --- what is heard --------------------------------------------------------------------------------


class Negated(gym.RewardWrapper):
    def reward(self, reward):
        return -reward


class Doubles(gym.Wrapper):
    """A layer that says nothing of itself but has a ``step``."""

    def step(self, action):
        observation, reward, *rest = super().step(action)
        return observation, 2.0 * reward, *rest


class Bonus(gym.Wrapper):
    """Adds 3 at the end of every text."""

    def step(self, action):
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward + 3.0 * terminated, terminated, truncated, info


class DoublesOurs(RewardWrapper):
    def step(self, action):
        observation, reward, *rest = super().step(action)
        return observation, 2.0 * reward, *rest


class DoublesBatch(VectorWrapper):
    def step(self, actions):
        observations, rewards, *rest = super().step(actions)
        return observations, 2.0 * rewards, *rest


class DoublesVecEnv(sb3.VecEnvWrapper):
    def reset(self):
        return self.venv.reset()

    def step_wait(self):
        observations, rewards, *rest = self.venv.step_wait()
        return observations, 2.0 * rewards, *rest


def copies(*wrappers, credit=None):
    return [lambda: one(credit, *wrappers)] * ROWS


def scaled(env, factor=2.0):
    return single.TransformReward(env, lambda reward: factor * reward)


def ours(env):
    return DoublesOurs(env.env, env.reward)


FACTORS = {
    "negated": (-1.0, lambda: DummyVecEnv(copies(Negated))),
    "negated in a batch": (-1.0, lambda: batched.TransformReward(batch(), lambda r: -r)),
    "a step of one's own": (2.0, lambda: SyncVectorEnv(copies(Doubles))),
    "a subclass of ours": (2.0, lambda: SyncVectorEnv(copies(ours))),
    "a batch's step": (2.0, lambda: DoublesBatch(batch())),
    "SB3's step": (2.0, lambda: DoublesVecEnv(as_vec_env(batch()))),
    "twice": (4.0, lambda: SyncVectorEnv(copies(scaled, Doubles))),
    "among harmless ones": (
        2.0,
        lambda: sb3.VecMonitor(DummyVecEnv(copies(single.RecordEpisodeStatistics, scaled))),
    ),
    "by very much": (1e6, lambda: SyncVectorEnv(copies(lambda env: scaled(env, 1e6)))),
    "by very little": (1e-6, lambda: SyncVectorEnv(copies(lambda env: scaled(env, 1e-6)))),
    "to nothing": (0.0, lambda: SyncVectorEnv(copies(lambda env: scaled(env, 0.0)))),
    "no norm": (1.0, lambda: VecNormalize(as_vec_env(batch()), norm_obs=False, norm_reward=False)),
}


@pytest.mark.parametrize("case", FACTORS)
def test_a_factor_scales_the_credit(case):
    factor, build = FACTORS[case]
    expected = [[factor * reward for reward in row] for row in plain()]
    episodes = play(build())
    for episode, row in zip(episodes, expected, strict=True):
        np.testing.assert_allclose(episode.token_rewards, row, rtol=1e-5, atol=1e-12)
        assert episode.score == pytest.approx(sum(row))
        if factor != 1.0:
            assert factor * episode.score_parts["raw_score"] == pytest.approx(episode.score)


@pytest.mark.parametrize("rule", [per_token, rule_of("red")])
def test_rows_in_other_processes_are_heard(rule):
    expected = [row.token_rewards for row in play(batch(rule))]
    envs = AsyncVectorEnv(copies(Negated, credit=rule))
    try:
        episodes = play(envs)
    finally:
        envs.close()
    for episode, row in zip(episodes, expected, strict=True):
        np.testing.assert_allclose(episode.token_rewards, -row, atol=1e-6)


@pytest.mark.parametrize("factor", [2.0, -1.0])
def test_a_credit_that_is_paid_in_steps_is_heard_step_by_step(factor):
    rule = rule_of("red")
    expected = [row.token_rewards for row in play(batch(rule))]
    for envs in (
        SyncVectorEnv(copies(lambda env: scaled(env, factor), credit=rule)),
        batched.TransformReward(batch(rule), lambda rewards: factor * rewards),
    ):
        for row, other in zip(earned(envs), expected, strict=True):
            np.testing.assert_allclose(row, factor * other, atol=1e-6)


def test_a_price_per_token_is_paid_by_each_token():
    envs = SyncVectorEnv(copies(lambda env: single.TransformReward(env, lambda r: 2 * r - 0.1)))
    for row, before in zip(earned(envs), plain(), strict=True):
        np.testing.assert_allclose(row, 2.0 * np.array(before) - 0.1, atol=1e-6)


def test_a_bonus_at_the_end_is_paid_at_the_end():
    episodes = play(SyncVectorEnv(copies(Bonus, credit=per_token)))
    for episode, before in zip(episodes, plain(), strict=True):
        assert episode.score == pytest.approx(sum(before) + 3.0)
        np.testing.assert_allclose(episode.token_rewards[:-1], before[:-1], atol=1e-6)
        assert episode.token_rewards[-1] == pytest.approx(before[-1] + 3.0)


def test_a_clipped_score_keeps_the_shares():
    for envs in (
        SyncVectorEnv(copies(lambda env: single.ClipReward(env, 0.0, 0.5))),
        batched.ClipReward(batch(), 0.0, 0.5),
    ):
        short, middle, long = earned(envs)
        assert (sum(short), sum(middle)) == pytest.approx((0.0, 2.0 / 6.0))  # not clipped
        np.testing.assert_allclose(long, [0.0, *[0.125] * 4, 0.0], rtol=1e-5)


def test_normalised_rewards_are_those_that_the_layer_pays():
    envs = VecNormalize(as_vec_env(batch()), norm_obs=False)
    paid, pay = [], envs.normalize_reward
    envs.normalize_reward = lambda rewards: paid.append(pay(rewards)) or paid[-1]
    for row, episode in enumerate(play(envs)):
        steps = np.array(paid)[: WRITES[row], row]
        assert episode.score == pytest.approx(steps.sum(), rel=1e-5)
        assert float(episode.token_rewards.sum()) == pytest.approx(episode.score, rel=1e-5)
        if row:  # the targets alone earn
            shares = np.array(plain()[row]) / sum(plain()[row])
            np.testing.assert_allclose(episode.token_rewards, steps.sum() * shares, atol=1e-6)


def test_a_running_scale_keeps_the_shares_of_scores_far_apart():
    """The small score is scaled by far more than the others, as an unknown layer would not be."""
    reward = Reward(
        FunctionScorer(lambda response: 10.0 ** (len(response.split()) - 5)), rule_of("uniform")
    )
    envs = VectorRewardWrapper(batch().env, reward)
    for row in earned(batched.NormalizeReward(envs)):
        assert row == pytest.approx([row[0]] * len(row), rel=1e-4)


@pytest.mark.parametrize(
    ("build", "is_known"),
    [
        (lambda: VecNormalize(as_vec_env(batch()), norm_obs=False), True),
        (lambda: batched.ClipReward(batched.NormalizeReward(batch()), -1.0, 1.0), True),
        (lambda: VecNormalize(DummyVecEnv(copies(Bonus)), norm_obs=False), False),
        (lambda: SyncVectorEnv(copies(ours)), False),
    ],
)
def test_layers_that_only_scale_are_known(build, is_known):
    assert RoundReward(build()).is_only_scaled is is_known


def test_a_beginning_that_was_given_keeps_its_part():
    def rewards(envs):
        options = {"responses": [[TARGET], [TARGET], [TARGET + 1, TARGET]]}
        played = play_round(as_sampler(Writer()), as_rounds(envs), seed=0, options=options)
        return [episode.token_rewards for episode in played.episodes]

    doubled = rewards(batched.TransformReward(batch(), lambda paid: 2.0 * paid))
    for row, before in zip(doubled, rewards(batch()), strict=True):
        np.testing.assert_allclose(row, 2.0 * before, rtol=1e-6)


def test_replies_of_a_partner_earn_nothing():
    """The rewards of steps are those of the tokens that the policy wrote."""

    def answer(conversation, metadata, rng):
        return Reply("b c")

    def rewards(credit, wrap):
        settings = {"tokenizer": TOKENIZER, "prompts": PROMPTS, "max_new_tokens": 9}
        talk = {"partner": answer, "max_turns": 2, "max_turn_tokens": 3}
        envs = TokenGenerationVectorEnv(num_envs=ROWS, **settings, **talk)
        agent = make_agent(wrap(VectorRewardWrapper(envs, target_reward(credit))))
        return [(e.token_rewards, e.written) for e in agent.collect().episodes]

    for credit in (rule_of("uniform"), rule_of("red")):
        alone = rewards(credit, lambda envs: envs)
        heard = rewards(credit, lambda envs: batched.TransformReward(envs, lambda paid: 3 * paid))
        for (row, written), (before, _) in zip(heard, alone, strict=True):
            np.testing.assert_allclose(row, 3.0 * before, atol=1e-6)
            assert written.min() == 0
            assert not row[written == 0].any()


def test_an_environment_without_a_reward_is_paid_by_the_layer():
    settings = {"tokenizer": TOKENIZER, "prompts": PROMPTS, "max_new_tokens": TOKENS}

    class PaysTargets(gym.Wrapper):
        def step(self, action):
            observation, _, *rest = super().step(action)
            return observation, float(action == TARGET), *rest

    envs = SyncVectorEnv([lambda: PaysTargets(TokenGenerationEnv(**settings))] * ROWS)
    expected = [[0.0, *[1.0] * (length - 2), 0.0] for length in WRITES]
    assert earned(envs) == expected


# --- what is refused ------------------------------------------------------------------------------


class EarlyEnd(gym.Wrapper):
    def step(self, action):
        observation, reward, _, truncated, info = super().step(action)
        return observation, reward, True, truncated, info


class OtherToken(gym.Wrapper):
    def step(self, action):
        return super().step(TARGET)


class OtherPrompt(gym.Wrapper):
    def reset(self, **options):
        observation, info = super().reset(**options)
        return {**observation, "input_ids": np.roll(observation["input_ids"], 1)}, info


def limited(limit):
    return lambda env: single.TimeLimit(env, limit)


@pytest.mark.parametrize("vectors", [SyncVectorEnv, DummyVecEnv])
def test_a_time_limit_below_the_horizon_is_refused_and_any_other_harmless(vectors):
    message = rf"TimeLimit of 5 .*{TOKENS} tokens.*max_new_tokens=5"
    for wrappers in ([limited(5)], [limited(5), Doubles], [limited(9), limited(5)]):
        with pytest.raises(SettingsError, match=message):
            as_rounds(vectors(copies(*wrappers)))  # which learners are made on
    for limit in (TOKENS, TOKENS + 1):
        envs = vectors(copies(limited(limit)))
        played = play_round(as_sampler(Writer()), as_rounds(envs), seed=0)
        assert not played.truncated.any()  # nor is the last value bootstrapped
        for row, before in zip(earned(envs), plain(), strict=True):
            np.testing.assert_allclose(row, before, rtol=1e-6)


def test_a_time_limit_in_another_process_is_refused():
    envs = AsyncVectorEnv(copies(limited(5))[:1])
    try:
        with pytest.raises(SettingsError, match="TimeLimit of 5 steps"):
            as_rounds(envs)
    finally:
        envs.close()


@pytest.mark.parametrize("vectors", [SyncVectorEnv, DummyVecEnv])
def test_an_episode_that_a_layer_ends_is_named(vectors):
    with pytest.raises(SettingsError, match=r"1.*max_new_tokens"):
        play(vectors(copies(EarlyEnd)))


@pytest.mark.parametrize(
    ("wrapper", "message"), [(OtherToken, "other tokens"), (OtherPrompt, "another prompt")]
)
def test_a_layer_that_changes_tokens_unseen_is_refused_before_anything_is_learned(wrapper, message):
    agent = make_agent(SyncVectorEnv(copies(wrapper)))
    with pytest.raises(SettingsError, match=message):
        agent.collect()
    # An agent that reads and writes through the layer is played.
    assert collect(RandomAgent(batch(), seed=0), SyncVectorEnv(copies(wrapper)), ROWS)


def test_an_agent_keeps_refusing_when_its_environment_is_changed():
    agent = make_agent(SyncVectorEnv(copies()))
    with pytest.raises(SettingsError, match="FrameStackObservation changes"):
        agent.set_env(SyncVectorEnv(copies(lambda env: single.FrameStackObservation(env, 2))))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda: SyncVectorEnv(copies(Doubles)),
        lambda: SyncVectorEnv(copies(ours)),
        lambda: VecNormalize(as_vec_env(batch()), norm_obs=False),
        lambda: DoublesVecEnv(as_vec_env(batch())),
    ],
)
def test_what_scores_without_steps_refuses_layers_that_may_change_rewards(wrap):
    with pytest.raises(SettingsError, match=r"pays.*ResponseCollector"):
        ResponseCollector(wrap())
    ResponseCollector(wrap(), scorer=lambda prompt, response: 1.0)  # said which scores


def test_what_scores_without_steps_takes_layers_that_only_read():
    for envs in (
        SyncVectorEnv(copies(single.RecordEpisodeStatistics, limited(TOKENS), Monitor)),
        sb3.VecMonitor(as_vec_env(batched.RecordEpisodeStatistics(batch()))),
        SyncVectorEnv(copies(single.OrderEnforcing)),
    ):
        ResponseCollector(envs)


@pytest.mark.parametrize(
    "inside",
    [
        lambda: single.OrderEnforcing(Negated(one().env)),
        lambda: batched.TransformReward(batch().env, lambda r: -r),
        lambda: SyncVectorEnv([lambda: Negated(one().env)]),
    ],
)
def test_a_layer_inside_the_reward_layer_would_change_nothing(inside):
    with pytest.raises(RewardError, match="inside the reward layer"):
        SparseReward(inside(), target_reward(rule_of("uniform")).scorer)


def test_a_method_is_asked_of_the_first_row_alone_where_one_can_be():
    asked = []

    class Asked(gym.Wrapper):
        def lengths(self, texts):
            asked.append(self)
            return [len(text) for text in texts]

    rows = [Asked(single_env()) for _ in range(2)]
    envs = DummyVecEnv([lambda row=row: row for row in rows])
    assert ask_first_row(envs, "lengths", ["a", "bc"]) == [1, 2]
    assert asked == rows[:1]
