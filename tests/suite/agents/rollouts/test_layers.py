# mypy: no-check-untyped-defs
"""Layers around an environment: learners hear what the outermost one pays, or refuse it."""

import warnings
from typing import Any

import gymnasium as gym
import gymnasium.wrappers as single
import gymnasium.wrappers.vector as batched
import numpy as np
import pytest
import torch
from gymnasium.error import DependencyNotInstalled
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorWrapper
from stable_baselines3.common import vec_env as sb3
from stable_baselines3.common.atari_wrappers import ClipRewardEnv
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from tests.suite.agents.conftest import (
    EOS,
    PROMPTS,
    TARGET,
    PerToken,
    make_model,
    make_tokenizer,
    target_reward,
)
from tokengym.agents import PPO, RandomAgent, collect
from tokengym.agents.offline.collecting import ResponseCollector
from tokengym.agents.rollouts.layers import check_learnable
from tokengym.agents.rollouts.playing import as_sampler, play_round
from tokengym.agents.rollouts.rounds import RoundReward, as_rounds
from tokengym.agents.sb3 import as_vec_env
from tokengym.base.errors import SettingsError
from tokengym.envs import Reply, TokenGenerationEnv, TokenGenerationVectorEnv
from tokengym.rewards import (
    RED,
    RewardError,
    RewardWrapper,
    SparseReward,
    Uniform,
    VectorRewardWrapper,
)

ROWS, TOKENS = 3, 6
WRITES = (2, 4, 6)
"""Tokens that each row writes: targets but for the first, then EOS."""
TOKENIZER = make_tokenizer()


def one(credit=None):
    env = TokenGenerationEnv(tokenizer=TOKENIZER, prompts=PROMPTS, max_new_tokens=TOKENS)
    return RewardWrapper(env, target_reward(PerToken() if credit is None else credit))


def batch(credit=None):
    settings = {"tokenizer": TOKENIZER, "prompts": PROMPTS, "max_new_tokens": TOKENS}
    envs = TokenGenerationVectorEnv(num_envs=ROWS, **settings)
    return VectorRewardWrapper(envs, target_reward(PerToken() if credit is None else credit))


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


# --- every layer of Gymnasium and SB3 -------------------------------------------------------------

HEARD, HARMLESS, UNFIT = "changes rewards", "harmless", "made for other environments"
READS, WRITES_OTHERS = "changes observations, and PPO", "changes actions, so that PPO"
ARRAYS = "gives PPO other arrays or infos"


def same(value):
    return value


SINGLE = {
    HEARD: {"ClipReward": (0.0, 0.1), "TransformReward": (lambda r: 2 * r,), "NormalizeReward": ()},
    HARMLESS: {
        **{"TimeLimit": (TOKENS,), "Autoreset": (), "PassiveEnvChecker": ()},
        **{"OrderEnforcing": (), "RecordEpisodeStatistics": (), "RenderCollection": ()},
        **{"AddWhiteNoise": (0.5,), "ObstructView": (0.5, 2)},  # only rendering
    },
    READS: {
        **{"DelayObservation": (2,), "FilterObservation": (["input_ids"],)},
        **{"FlattenObservation": (), "FrameStackObservation": (2,)},
        **{"TransformObservation": (same, None), "TimeAwareObservation": ()},
    },
    WRITES_OTHERS: {"TransformAction": (same, None), "StickyAction": (0.5,), "RepeatAction": (2,)},
    ARRAYS: {
        "ArrayConversion": (np, torch),
        "NumpyToTorch": (),
        "JaxToNumpy": (),
        "JaxToTorch": (),
    },
    UNFIT: {
        **{"AtariPreprocessing": (), "DtypeObservation": (np.float32,), "ClipAction": ()},
        **{"DiscretizeObservation": (3,), "GrayscaleObservation": (), "NormalizeObservation": ()},
        **{"MaxAndSkipObservation": (2,), "AddRenderObservation": (), "DiscretizeAction": (3,)},
        **{"ResizeObservation": ((4, 4),), "ReshapeObservation": ((2,),), "HumanRendering": ()},
        **{"RescaleObservation": (0.0, 1.0), "RescaleAction": (0.0, 1.0), "RecordVideo": ("v",)},
    },
}
BATCHED = {
    HEARD: {
        **{"ClipReward": (0.0, 0.1), "TransformReward": (lambda r: 2 * r,), "NormalizeReward": ()},
        "VectorizeTransformReward": (single.TransformReward, {"func": lambda r: 2 * r}),
    },
    HARMLESS: {"RecordEpisodeStatistics": ()},
    READS: {
        **{"TransformObservation": (same, None), "FilterObservation": (["input_ids"],)},
        **{"FlattenObservation": (), "NormalizeObservation": ()},
        "VectorizeTransformObservation": (
            single.TransformObservation,
            {"func": same, "observation_space": None},
        ),
    },
    WRITES_OTHERS: {
        "TransformAction": (same, None),
        "VectorizeTransformAction": (single.TransformAction, {"func": same, "action_space": None}),
    },
    ARRAYS: {
        **{"ArrayConversion": (np, torch), "NumpyToTorch": (), "JaxToNumpy": (), "JaxToTorch": ()},
        "DictInfoToList": (),
    },
    UNFIT: {
        **{"GrayscaleObservation": (), "ResizeObservation": ((4, 4),), "RecordVideo": ("v",)},
        **{"ReshapeObservation": ((2,),), "RescaleObservation": (0.0, 1.0), "HumanRendering": ()},
        **{"DtypeObservation": (np.float32,), "ClipAction": (), "RescaleAction": (0.0, 1.0)},
    },
}
STABLE_BASELINES3 = {
    HEARD: {},
    HARMLESS: {"VecCheckNan": (), "VecMonitor": (), "VecTransposeImage": ()},
    READS: {"VecExtractDictObs": ("input_ids",), "VecFrameStack": (2,)},
    "VecNormalize normalises token ids, which PPO reads; pass norm_obs=False": {"VecNormalize": ()},
    UNFIT: {},
}
SOURCES: dict[str, tuple[Any, dict[str, Any]]] = {
    "single": (single, SINGLE),
    "batch": (batched, BATCHED),
    "sb3": (sb3, STABLE_BASELINES3),
}


def test_every_layer_of_gymnasium_and_stable_baselines3_has_its_case():
    """One that a later version brings fails here until its kind is known."""
    of_sb3 = [
        name
        for name in sb3.__all__
        if isinstance(getattr(sb3, name), type)
        and issubclass(getattr(sb3, name), sb3.VecEnvWrapper)
        and name not in ("VecEnvWrapper", "VecVideoRecorder")  # which needs frames
    ]
    there = {
        "single": set(single.__all__) - {"vector"},
        "batch": set(batched.__all__),
        "sb3": set(of_sb3),
    }
    for source, (_, kinds) in SOURCES.items():
        assert {name for kind in kinds.values() for name in kind} == there[source]


@pytest.mark.parametrize(
    ("source", "kind", "name"),
    [
        (source, kind, name)
        for source, (_, kinds) in SOURCES.items()
        for kind, names in kinds.items()
        for name in names
    ],
)
def test_a_layer_is_heard_or_refused_before_anything_is_played(source, kind, name):
    module, kinds = SOURCES[source]
    inside = {"single": one, "batch": batch, "sb3": lambda: as_vec_env(batch())}[source]()
    if name in ("TimeAwareObservation",):
        inside = single.TimeLimit(inside, TOKENS)
    if name == "RenderCollection":
        inside.unwrapped.render_mode = "ansi"
    try:
        layer = getattr(module, name)
    except (DependencyNotInstalled, ModuleNotFoundError):
        assert "Jax" in name
        return
    if kind is UNFIT:
        with pytest.raises(Exception, match=r"\w"):  # of Gymnasium's own
            layer(inside, *kinds[kind][name])
        return
    if name.startswith("Vectorize"):
        wrapper, arguments = kinds[kind][name]
        envs = layer(inside, wrapper, **arguments)
    else:
        envs = layer(inside, *kinds[kind][name])
    if kind not in (HEARD, HARMLESS):
        with pytest.raises(SettingsError, match=kind):
            make_agent(envs)
        return
    episodes = play(envs)
    scores = [0.0, 2.0 / 6.0, 4.0 / 6.0][: len(episodes)]
    if kind is HARMLESS:
        assert [episode.score for episode in episodes] == pytest.approx(scores)
        assert all("raw_score" not in episode.score_parts for episode in episodes)
    elif len(episodes) > 1:
        assert [e.score_parts["raw_score"] for e in episodes] == pytest.approx(scores)
        assert episodes[-1].score != pytest.approx(scores[-1])
    check_learnable(envs, "PPO")


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
    def make():
        env = one(credit)
        for wrapper in wrappers:
            env = wrapper(env)
        return env

    return [make] * ROWS


def scaled(env, factor=2.0):
    return single.TransformReward(env, lambda reward: factor * reward)


def ours(env):
    return DoublesOurs(env.env, env.reward)


FACTORS = {
    "negated": (-1.0, lambda: DummyVecEnv(copies(Negated))),
    "negated in a batch": (-1.0, lambda: batched.TransformReward(batch(), lambda r: -r)),
    "in SyncVectorEnv": (-1.0, lambda: SyncVectorEnv(copies(Negated))),
    "a step of one's own": (2.0, lambda: SyncVectorEnv(copies(Doubles))),
    "a subclass of ours": (2.0, lambda: SyncVectorEnv(copies(ours))),
    "a batch's step": (2.0, lambda: DoublesBatch(batch())),
    "SB3's step": (2.0, lambda: DoublesVecEnv(as_vec_env(batch()))),
    "SB3's around ours": (4.0, lambda: DoublesVecEnv(as_vec_env(DoublesBatch(batch())))),
    "twice": (4.0, lambda: SyncVectorEnv(copies(scaled, Doubles))),
    "among harmless ones": (
        2.0,
        lambda: sb3.VecMonitor(DummyVecEnv(copies(single.RecordEpisodeStatistics, scaled))),
    ),
    "by very much": (1e6, lambda: SyncVectorEnv(copies(lambda env: scaled(env, 1e6)))),
    "by very little": (1e-6, lambda: SyncVectorEnv(copies(lambda env: scaled(env, 1e-6)))),
    "to nothing": (0.0, lambda: SyncVectorEnv(copies(lambda env: scaled(env, 0.0)))),
    "the identity": (1.0, lambda: SyncVectorEnv(copies(lambda env: scaled(env, 1.0)))),
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


@pytest.mark.parametrize("vectors", [AsyncVectorEnv])
@pytest.mark.parametrize("credit", [None, "step"])
def test_rows_in_other_processes_are_heard(vectors, credit):
    rule = RED(every_prefix=True) if credit else PerToken()
    expected = [row.token_rewards for row in play(batch(rule))]
    envs = vectors(copies(Negated, credit=rule))
    try:
        episodes = play(envs)
    finally:
        envs.close()
    for episode, row in zip(episodes, expected, strict=True):
        np.testing.assert_allclose(episode.token_rewards, -row, atol=1e-6)


@pytest.mark.parametrize("factor", [2.0, -1.0])
def test_a_credit_that_is_paid_in_steps_is_heard_step_by_step(factor):
    rule = RED(every_prefix=True)
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
    episodes = play(SyncVectorEnv(copies(Bonus, credit=PerToken())))
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


@pytest.mark.parametrize(
    ("build", "is_known"),
    [
        (lambda: VecNormalize(as_vec_env(batch()), norm_obs=False), True),
        (lambda: sb3.VecMonitor(DummyVecEnv(copies(single.NormalizeReward))), True),
        (lambda: batched.ClipReward(batched.NormalizeReward(batch()), -1.0, 1.0), True),
        (lambda: VecNormalize(DummyVecEnv(copies(Bonus)), norm_obs=False), False),
        (lambda: DoublesVecEnv(as_vec_env(batch())), False),
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

    doubled = rewards(single_layer(lambda paid: 2.0 * paid))
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

    for credit in (Uniform(), RED(every_prefix=True)):
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


def test_what_a_monitor_records_is_what_was_paid(tmp_path):
    statistics = batched.RecordEpisodeStatistics(batch())
    play(statistics)
    assert max(statistics.return_queue) == pytest.approx(4.0 / 6.0)
    envs = sb3.VecMonitor(as_vec_env(batch()), str(tmp_path / "log"))
    play(envs)
    envs.close()
    rows = (tmp_path / "log.monitor.csv").read_text().splitlines()[2:]
    assert max(float(row.split(",")[0]) for row in rows) == pytest.approx(4.0 / 6.0, abs=1e-6)


def single_layer(function):
    return batched.TransformReward(batch(), function)


# --- what is refused ------------------------------------------------------------------------------


class EarlyEnd(gym.Wrapper):
    def step(self, action):
        observation, reward, _, truncated, info = super().step(action)
        return observation, reward, True, truncated, info


class OtherToken(gym.Wrapper):
    def step(self, action):
        return super().step(TARGET)


class Sticky(gym.Wrapper):
    """Repeats the first token, as SB3's ``StickyActionEnv`` would."""

    first = None

    def step(self, action):
        self.first = action if self.first is None else self.first
        return super().step(self.first)


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
        with pytest.raises(SettingsError, match=message):
            collect(RandomAgent(batch()), vectors(copies(*wrappers)), 1)
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
    ("wrapper", "message"),
    [
        (OtherToken, "other tokens"),
        (Sticky, "other tokens"),
        (OtherPrompt, "another prompt"),
    ],
)
def test_a_layer_that_changes_tokens_unseen_is_refused_before_anything_is_learned(wrapper, message):
    agent = make_agent(SyncVectorEnv(copies(wrapper)))
    with pytest.raises(SettingsError, match=message):
        agent.collect()
    # An agent that reads and writes through the layer is played.
    assert collect(RandomAgent(batch(), seed=0), SyncVectorEnv(copies(wrapper)), ROWS)


@pytest.mark.parametrize("name", ["FrameStackObservation", "TransformAction"])
def test_an_agent_keeps_refusing_when_its_environment_is_changed(name):
    wrapper = getattr(single, name)
    arguments = {"FrameStackObservation": (2,), "TransformAction": (same, None)}[name]
    agent = make_agent(SyncVectorEnv(copies()))
    with pytest.raises(SettingsError, match=f"{name} changes"):
        agent.set_env(SyncVectorEnv(copies(lambda env: wrapper(env, *arguments))))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda: SyncVectorEnv(copies(Negated)),
        lambda: SyncVectorEnv(copies(Doubles)),
        lambda: SyncVectorEnv(copies(ours)),
        lambda: batched.ClipReward(batch(), 0.0, 1.0),
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
        lambda: Negated(one().env),
        lambda: single.OrderEnforcing(single.NormalizeReward(one().env)),
        lambda: ClipRewardEnv(one()),
        lambda: batched.TransformReward(batch().env, lambda r: -r),
        lambda: SyncVectorEnv([lambda: Negated(one().env)]),
    ],
)
def test_a_layer_inside_the_reward_layer_would_change_nothing(inside):
    with pytest.raises(RewardError, match="inside the reward layer"):
        SparseReward(inside(), target_reward(Uniform()).scorer)


def test_the_reward_layer_says_when_it_pays():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for made in (one(), batch()):
            assert made.delivery == "end"
        for made in (one(RED(every_prefix=True)), batch(RED(every_prefix=True))):
            assert made.delivery == "step"
        assert single.OrderEnforcing(one()).get_wrapper_attr("delivery") == "end"
