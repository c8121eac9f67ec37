# mypy: no-check-untyped-defs
"""Wrapped environments, single and batched, in every autoreset mode."""

from typing import Any, cast

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from tests.support.rewards.common import LengthScorer, make_classifier
from tests.support.rules import rule_of
from tokengym.envs import PadTokenRewards, TokenGenerationEnv, TokenizerError, episodes_from_infos
from tokengym.rewards import (
    ABCReward,
    CreditReward,
    R3Reward,
    Relevance,
    Reward,
    RewardModel,
    RewardWrapper,
    SparseReward,
    UniformReward,
    on_last,
    token_credit,
)
from tokengym.rewards.errors import RewardError

MODES = list(AutoresetMode)
SMALL = RewardModel(make_classifier(vocab_size=9))


def play(env, tokens):
    """Return the rewards of the steps and the last info."""
    env.reset(seed=0)
    steps = [env.step(token) for token in tokens]
    return [step[1] for step in steps], steps[-1][4]


def test_the_terminal_step_pays_the_score(make_env):
    rewards, info = play(UniformReward(make_env(), LengthScorer()), [5, 6, 1])
    assert rewards == [0.0, 0.0, 12.0]
    assert info["score"] == 12.0
    assert info["score_parts"] == {"length": 3.0}
    assert info["token_rewards"].tolist() == [4.0, 4.0, 4.0]
    assert info["token_rewards"].dtype == np.float32
    assert isinstance(info["score"], float)


def test_a_truncated_episode_is_paid_too(make_env):
    env = SparseReward(make_env(max_new_tokens=2, horizon="truncated"), LengthScorer())
    rewards, info = play(env, [5, 6])
    assert rewards == [0.0, 11.0]
    assert info["finish_reason"] == "length"


def test_names_of_wrappers(make_env, tokenizer, classifier):
    model = RewardModel(classifier)
    rewards, info = play(ABCReward(make_env(), model, beta=0.0), [5, 6, 1])
    assert info["token_rewards"].tolist() == pytest.approx([0, 0, rewards[-1]])
    rewards, info = play(ABCReward(make_env(), model), [5, 6, 1])
    assert info["token_rewards"].sum() == pytest.approx(rewards[-1], rel=1e-5)
    assert (info["token_rewards"] != 0).all()
    encoder = Relevance(classifier.transformer, tokenizer)
    sparse, _ = play(R3Reward(make_env(), encoder), [3, 4, 1])
    dense, info = play(R3Reward(make_env(), encoder, dense=True), [3, 4, 1])
    assert sparse[-1] == pytest.approx(dense[-1])
    assert info["token_rewards"].sum() == pytest.approx(dense[-1], rel=1e-5)


def test_rewards_of_an_inner_wrapper_are_replaced(make_env):
    inner = UniformReward(make_env(), lambda prompt, response: 100.0)
    rewards, info = play(SparseReward(PadTokenRewards(inner), LengthScorer()), [5, 6, 1])
    assert rewards == [0.0, 0.0, 12.0]
    assert info["token_rewards"].tolist() == [0.0, 0.0, 12.0]


def test_the_wrapper_passes_on_what_agents_ask_for(make_env, make_envs):
    single = UniformReward(make_env(min_new_tokens=2), LengthScorer())
    single.reset(seed=0)
    assert not single.action_masks()[1]
    batch = UniformReward(make_envs(min_new_tokens=2), LengthScorer())
    batch.reset(seed=0)
    assert batch.action_masks().shape == (3, 23)
    assert batch.unwrapped.tokenizer is single.unwrapped.tokenizer


def test_render_shows_the_token_rewards(make_env, make_envs):
    env = SparseReward(make_env(render_mode="ansi"), LengthScorer())
    play(env, [5, 6])
    assert "67;147;195" not in env.render()
    env.step(1)
    assert "67;147;195" in env.render()
    envs = SparseReward(make_envs(render_mode="html"), LengthScorer())
    envs.reset(seed=0)
    envs.step(np.array([5, 1, 6]))
    texts = envs.render()
    assert ["rgb(67,147,195)" in text for text in texts] == [False, True, False]


def trajectory(envs, seed, steps, mode):
    """Return rewards and terminal episodes of random play."""
    rng = np.random.default_rng(seed)
    envs.reset(seed=seed)
    seen = []
    over = np.zeros(envs.num_envs, dtype=bool)
    for _ in range(steps):
        actions = rng.integers(0, 12, envs.num_envs)
        if mode is AutoresetMode.DISABLED and over.any():
            envs.reset(options={"reset_mask": over.copy()})
        _, rewards, terminated, truncated, infos = envs.step(actions)
        over = terminated | truncated
        seen.append((rewards.copy(), episodes_from_infos(infos)))
    return seen


@pytest.mark.parametrize("mode", MODES)
def test_a_batch_equals_single_environments_step_for_step(make_env, make_envs, classifier, mode):
    model = RewardModel(classifier)
    batch = ABCReward(make_envs(autoreset_mode=mode), model)
    copies = SyncVectorEnv(
        [lambda: PadTokenRewards(ABCReward(make_env(), model)) for _ in range(3)],
        autoreset_mode=mode,
    )
    wrapped = ABCReward(
        SyncVectorEnv([lambda: PadTokenRewards(make_env()) for _ in range(3)], autoreset_mode=mode),
        model,
    )
    ended = 0
    runs = [trajectory(envs, 7, 40, mode) for envs in (batch, copies, wrapped)]
    for (rewards, episodes), *others in zip(*runs, strict=True):
        for other_rewards, other_episodes in others:
            np.testing.assert_allclose(rewards, other_rewards, atol=1e-5)
            assert list(episodes) == list(other_episodes)
            for row, episode in episodes.items():
                other = other_episodes[row]
                assert episode.response_ids == other.response_ids
                assert episode.score == pytest.approx(other.score, abs=1e-5)
                assert episode.score_parts == other.score_parts
                np.testing.assert_allclose(episode.token_rewards, other.token_rewards, atol=1e-5)
        for row, episode in episodes.items():
            ended += 1
            assert rewards[row] == pytest.approx(episode.score)
            assert episode.token_rewards.sum() == pytest.approx(episode.score, rel=1e-5)
    assert ended > 10


@pytest.mark.parametrize("mode", MODES)
def test_terminal_infos_keep_gymnasiums_form(make_envs, mode):
    envs = UniformReward(make_envs(autoreset_mode=mode), LengthScorer())
    envs.reset(seed=0)
    envs.step(np.array([5, 5, 5]))
    _, rewards, terminated, _, infos = envs.step(np.array([6, 1, 1]))
    assert terminated.tolist() == [False, True, True]
    assert rewards.tolist() == [0.0, 6.0, 6.0]
    final = infos["final_info"] if mode is AutoresetMode.SAME_STEP else infos
    assert final["score"].tolist() == [0.0, 6.0, 6.0]
    assert final["_score"].tolist() == [False, True, True]
    parts = final["score_parts"]
    assert parts["length"].tolist() == [0.0, 2.0, 2.0]
    assert parts["_length"].tolist() == [False, True, True]
    assert final["token_rewards"].shape == (3, 5)
    assert final["token_rewards"].dtype == np.float32
    assert final["token_rewards"][1].tolist() == [3.0, 3.0, 0, 0, 0]


def test_frozen_rows_are_paid_once(make_envs):
    envs = SparseReward(make_envs(autoreset_mode=AutoresetMode.DISABLED), LengthScorer())
    envs.reset(seed=0)
    paid = [envs.step(np.array([1, 5, 5]))[1].tolist() for _ in range(5)]
    assert paid == [[1, 0, 0], *[[0, 0, 0]] * 3, [0, 25, 25]]


def test_episodes_that_end_together_are_scored_in_one_batch(make_envs):
    sizes = []

    class Counting(LengthScorer):
        def score(self, episodes, *, attribution=None):
            sizes.append(len(episodes))
            return super().score(episodes)

    envs = SparseReward(make_envs(), Counting())
    envs.reset(seed=0)
    envs.step(np.array([5, 5, 1]))
    envs.step(np.array([1, 1, 5]))
    assert sizes == [1, 2]


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda env: SparseReward(cast(Any, "x"), LengthScorer()), TypeError, "env.*got 'x'"),
        (
            lambda env: SparseReward(gymnasium.make("CartPole-v1"), LengthScorer()),
            RewardError,
            "no tokenizer",
        ),
        (lambda env: SparseReward(env), RewardError, "got None.*scorer="),
        (lambda env: RewardWrapper(env, cast(Any, "abc")), TypeError, "reward.*got 'abc'"),
        (lambda env: CreditReward(env, None, None), RewardError, "credit.*got None"),
        (lambda env: ABCReward(env, SMALL), TokenizerError, "23 ids.*'RewardModel' 9"),
    ],
)
def test_what_cannot_be_wrapped(make_env, call, error, words):
    with pytest.raises(error, match=words):
        call(make_env())


def test_a_name_that_nobody_supplies_has_a_near_match_and_what_else_it_could_be(make_env):
    @token_credit
    def mine(score, response_mask):
        return on_last(score, response_mask)

    said = (
        r"reads 'score', which nobody supplies; did you mean 'scores'\? it could also be a column "
        r"of the data \(there is none here\), or an option .* a default: score=1\.0$"
    )
    with pytest.raises(RewardError, match=said):
        CreditReward(make_env(), LengthScorer(), mine)


def test_an_explicit_wrapper_shows_in_the_spec_and_a_composed_one_does_not(tokenizer):
    gymnasium.register(
        "tokengym-test/Stub-v0",
        entry_point=lambda: TokenGenerationEnv(tokenizer=tokenizer, prompts=["a"]),
    )
    try:
        env = gymnasium.make("tokengym-test/Stub-v0")
        reward = Reward(LengthScorer(), rule_of("uniform"))
        before = len(env.spec.additional_wrappers)
        assert len(RewardWrapper(env, reward).spec.additional_wrappers) == before + 1
        assert RewardWrapper(env, reward, in_spec=False).spec == env.spec
    finally:
        del gymnasium.registry["tokengym-test/Stub-v0"]
