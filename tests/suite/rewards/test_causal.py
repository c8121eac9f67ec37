# mypy: no-check-untyped-defs
"""RED: one pass against n passes, and its delivery step by step in every mode."""

from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from transformers import AutoModelForSequenceClassification

from tests.support.rewards.common import LengthScorer, make_episode, random_episodes, scale_weights
from tests.support.rewards.last_row import CONFIGS
from tests.support.rules import rewards_of, rule_of
from tokengym.envs import PadTokenRewards, episodes_from_infos
from tokengym.rewards import (
    CreditReward,
    FunctionScorer,
    Normalize,
    Reward,
    RewardModel,
    Rule,
    Scores,
    SparseReward,
    check_reward,
    token_credit,
)
from tokengym.rewards.check import _check_future, _Played
from tokengym.rewards.errors import RewardCheckError

MODES = list(AutoresetMode)
TOLERANCE = 2e-5


def scores_of_prefixes(model, episode):
    """Return R(x, y_<t) for t = 0 .. n by as many unpadded passes of the model."""
    values = []
    for end in range(len(episode.response_ids) + 1):
        ids = torch.tensor([[*episode.prompt_ids, *episode.response_ids[:end]]])
        with torch.no_grad():
            hidden = getattr(model, model.base_model_prefix)(ids).last_hidden_state
            values.append(model.score(hidden[0, -1]).item())
    return np.array(values)


@pytest.mark.parametrize("name", CONFIGS)
def test_one_pass_gives_the_score_of_every_prefix(name):
    torch.manual_seed(0)
    model: Any = AutoModelForSequenceClassification.from_config(CONFIGS[name]())
    scale_weights(model)
    episodes = random_episodes(9, vocab_size=40)
    scorer = RewardModel(model, batch_size=4)
    rows = scorer.score(episodes, attribution="prefix").attributions
    for row, episode in zip(rows, episodes, strict=True):
        expected = np.diff(scores_of_prefixes(model, episode))
        np.testing.assert_allclose(row, expected, atol=TOLERANCE)


def test_red_by_hand():
    episodes = [make_episode(response_ids=[5, 6, 1])]
    scores = Scores(values=[4.0], attributions=[[3.0, -2.0, 1.0]], signed=True)
    # R(x, empty) = 4 - 2 = 2 goes to the last token
    assert rewards_of(rule_of("red"), episodes, scores)[0].tolist() == [3.0, -2.0, 3.0]
    half = rewards_of(rule_of("red", beta=0.5), episodes, scores)[0]
    np.testing.assert_allclose(half, [1.5, -1.0, 3.5])


def test_an_empty_prompt_is_worth_nothing(classifier):
    episode = make_episode(prompt_ids=[], response_ids=[5, 6])
    (row,) = RewardModel(classifier).score([episode], attribution="prefix").attributions
    ids = torch.tensor([[5, 6]])
    with torch.no_grad():
        values = classifier.score(classifier.transformer(ids).last_hidden_state)[0, :, 0]
    np.testing.assert_allclose(row, [values[0], values[1] - values[0]], atol=TOLERANCE)


def test_every_prefix_of_a_function(tokenizer):
    scorer = FunctionScorer(lambda prompt, response: float(len(response) ** 2))
    reward = Reward(scorer, rule_of("red")).bind(tokenizer)
    episode = make_episode(prompt="a", response="b c d", response_ids=[4, 5, 6, 1])
    (paid,) = reward.evaluate([episode])
    assert paid.token_rewards.tolist() == [1.0, 8.0, 16.0, 0.0]


def test_every_prefix_equals_the_one_pass(classifier):
    episodes = random_episodes(6)
    one = Reward(RewardModel(classifier), rule_of("red")).evaluate(episodes)
    many = Reward(RewardModel(classifier), rule_of("red")).evaluate(episodes)
    for first, second in zip(one, many, strict=True):
        np.testing.assert_allclose(first.token_rewards, second.token_rewards, atol=TOLERANCE)


def play(env, tokens):
    env.reset(seed=0)
    steps = [env.step(token) for token in tokens]
    return [step[1] for step in steps], steps[-1][4]


def test_a_causal_credit_is_paid_token_by_token(make_env, classifier):
    env = CreditReward(make_env(), RewardModel(classifier), "red")
    rewards, info = play(env, [5, 6, 7, 1])
    np.testing.assert_allclose(rewards, info["token_rewards"], atol=TOLERANCE)
    assert all(isinstance(reward, float) and reward for reward in rewards)
    assert sum(rewards) == pytest.approx(info["score"], abs=1e-6)
    rewards, info = play(env, [1])
    assert rewards == [pytest.approx(info["score"])]


@token_credit(causal=True, parts=True)
def shaping(prefix_scores):
    return 0.9 * prefix_scores[:, 1:] - prefix_scores[:, :-1]


@token_credit(causal=True)
def first_keeps_the_empty_text(prefix_scores):
    increments = prefix_scores.diff(dim=1)
    increments[:, 0] += prefix_scores[:, 0]
    return increments


@pytest.mark.parametrize("options", [{}, {"beta": 0.5}])
@pytest.mark.parametrize("rule", [shaping, first_keeps_the_empty_text])
def test_a_rule_of_levels_is_paid_its_token_rewards(make_env, classifier, rule, options):
    env = CreditReward(make_env(), RewardModel(classifier), Rule(rule, **options))
    rewards, info = play(env, [5, 6, 7, 1])
    np.testing.assert_allclose(rewards, info["token_rewards"], atol=TOLERANCE)


def test_the_share_that_is_not_spread_is_paid_once(make_env):
    scorer = FunctionScorer(lambda prompt, response: float(len(response) ** 2))
    rule = Rule(first_keeps_the_empty_text, beta=0.5)
    # "b c d" is worth 25, its beginnings 1 and 9
    rewards, info = play(CreditReward(make_env(), scorer, rule), [4, 5, 6, 1])
    assert rewards == info["token_rewards"].tolist() == [0.5, 4.0, 8.0, 12.5]


@pytest.mark.parametrize("answers", [1, 0])
def test_a_beginning_without_a_score_is_paid_at_the_end(make_env, make_envs, answers):
    asked = []

    def judge(response_ids):
        if (is_fragment := response_ids == (5, 6)) and len(asked) >= answers:
            return float(sum(response_ids))
        asked.append(response_ids) if is_fragment else None
        return None if is_fragment else float(sum(response_ids))

    env = CreditReward(make_env(), FunctionScorer(judge), "red")
    rewards, info = play(env, [5, 6, 7, 1])
    assert rewards == [5.0, 0.0 if answers else 6.0, 7.0, 7.0 if answers else 1.0]
    assert info["score"] == sum(rewards) == 19.0


def test_beginnings_that_never_have_a_score_leave_the_other_rows_alone(make_envs):
    def judge(response_ids):
        return None if response_ids == (5, 6) else float(sum(response_ids))

    envs = CreditReward(make_envs(), FunctionScorer(judge), "red")
    envs.reset(seed=0)
    steps = [envs.step(np.array(ids)) for ids in ([5, 6, 7], [6, 7, 8], [7, 8, 9], [1, 1, 1])]
    paid = [rewards.tolist() for _, rewards, *_ in steps]
    assert paid == [[5, 6, 7], [0, 7, 8], [0, 8, 9], [0, 1, 1]]
    np.testing.assert_array_equal(steps[-1][4]["score"], [np.nan, 22, 25])


def test_what_is_known_of_a_text_is_forgotten_with_it(make_env):
    asked = []

    def judge(response_ids):
        asked.append(response_ids)
        return None if asked.count((6,)) == 1 and response_ids == (6,) else sum(response_ids)

    env = CreditReward(make_env(), FunctionScorer(judge), "red")
    for first, rewards in ((9, [9.0, 7.0]), (6, [0.0, 7.0])):
        env.reset(seed=0)
        assert [env.step(token)[1] for token in (first, 7)] == rewards


class Hesitant(LengthScorer):
    """Gives a text of two tokens neither a score nor an account of them."""

    attribution_kinds = frozenset({"prefix"})

    def score(self, episodes, *, attribution=None):
        values = [None if len(e.response_ids) == 2 else sum(e.response_ids) for e in episodes]
        rows = [
            np.array(e.response_ids) * (np.nan if len(e.response_ids) == 2 else 1.0)
            for e in episodes
        ]
        return Scores(values, attributions=rows, signed=True)


@token_credit(causal=True, conserves=False)
def so_far(paid, response_mask):
    return paid[:, None] * response_mask


@pytest.mark.parametrize(
    ("rule", "expected"), [("red", [5, 0, 7, 7]), (so_far, [5, 0, 18, 19 - 23])]
)
def test_a_text_so_far_without_a_score_is_paid_nothing(make_env, rule, expected):
    assert play(CreditReward(make_env(), Hesitant(), rule), [5, 6, 7, 1])[0] == expected


def test_pieces_are_paid_at_the_end(make_env, classifier):
    env = CreditReward(make_env(), RewardModel(classifier), "red:segments=2")
    rewards, info = play(env, [5, 6, 7, 1])
    assert rewards[:3] == [0.0, 0.0, 0.0]
    assert rewards[3] == info["score"]
    other = CreditReward(make_env(), RewardModel(classifier), "red")
    first, second, third, fourth = play(other, [5, 6, 7, 1])[1]["token_rewards"]
    expected = [0, first + second, 0, third + fourth]
    np.testing.assert_allclose(info["token_rewards"], expected, atol=TOLERANCE)


def test_forks_are_paid_as_if_played_through(make_env, classifier):
    env = CreditReward(make_env(), RewardModel(classifier), "red")
    straight, _ = play(env, [5, 6, 7, 8, 1])
    env.reset(seed=0)
    env.step(5)
    env.step(6)
    state = env.unwrapped.get_state()
    other = [env.step(token)[1] for token in (9, 10, 1)]
    env.unwrapped.set_state(state)
    again = [env.step(token)[1] for token in (7, 8, 1)]
    np.testing.assert_allclose(again, straight[2:], atol=TOLERANCE)
    assert not np.allclose(other, again)
    fresh = CreditReward(make_env(), RewardModel(classifier), "red")
    fresh.reset(seed=3)
    fresh.unwrapped.set_state(state)
    np.testing.assert_allclose(
        [fresh.step(token)[1] for token in (7, 8, 1)], straight[2:], atol=TOLERANCE
    )


def test_the_text_of_a_fork_is_the_forks(make_env):
    scorer = FunctionScorer(lambda prompt, response: float(len(prompt) * len(response)))
    env = CreditReward(make_env(), scorer, "red")
    env.reset(options={"prompt": "c d"})
    env.step(5)
    state = env.unwrapped.get_state()
    straight = [env.step(token)[1] for token in (7, 1)]
    assert straight == [6.0, 0.0]
    env.reset(options={"prompt": "e"})
    env.step(5)
    env.unwrapped.set_state(state)
    assert [env.step(token)[1] for token in (7, 1)] == straight


def make_three(make_env, make_envs, scorer, credit, mode):
    """Return the native batch, copies of the wrapped, and the wrapped batch of copies."""
    copies = SyncVectorEnv(
        [lambda: PadTokenRewards(CreditReward(make_env(), scorer, credit)) for _ in range(3)],
        autoreset_mode=mode,
    )
    batch_of_copies = SyncVectorEnv(
        [lambda: PadTokenRewards(make_env()) for _ in range(3)], autoreset_mode=mode
    )
    return (
        CreditReward(make_envs(autoreset_mode=mode), scorer, credit),
        copies,
        CreditReward(batch_of_copies, scorer, credit),
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["ids", "text"])
def test_every_mode_pays_every_row_step_by_step(make_env, make_envs, classifier, mode, kind):
    scorer, credit = RewardModel(classifier), "red"
    if kind == "text":
        scorer = FunctionScorer(lambda prompt, response: len(prompt) + len(response) ** 2)
        credit = "red"
    ended = 0
    for envs in make_three(make_env, make_envs, scorer, credit, mode):
        rng = np.random.default_rng(7)
        envs.reset(seed=7)
        paid: list[list[float]] = [[] for _ in range(3)]
        over = np.zeros(3, dtype=bool)
        for _ in range(30):
            if mode is AutoresetMode.DISABLED and over.any():
                envs.reset(options={"reset_mask": over.copy()})
            begun = over if mode is AutoresetMode.NEXT_STEP else np.zeros(3, dtype=bool)
            _, rewards, terminated, truncated, infos = envs.step(rng.integers(0, 12, 3))
            over = terminated | truncated
            episodes = episodes_from_infos(infos)
            for row in range(3):
                if begun[row]:
                    assert rewards[row] == 0
                    continue
                paid[row].append(rewards[row])
                if row in episodes:
                    ended += 1
                    token_rewards = episodes[row].token_rewards
                    np.testing.assert_allclose(paid[row], token_rewards, atol=1e-4)
                    assert sum(paid[row]) == pytest.approx(episodes[row].score, abs=1e-5)
                    paid[row] = []
    assert ended > 24


def test_centred_scores_leave_the_increments_alone(make_envs, classifier):
    scorer = Normalize(RewardModel(classifier), window=3, scale=False, clip=None)
    envs = CreditReward(make_envs(), scorer, "red")
    plain = CreditReward(make_envs(), RewardModel(classifier), "red")
    actions = [np.array([5, 6, 7]), np.array([8, 8, 8]), np.array([1, 1, 1])]
    for one in (envs, plain):
        one.reset(seed=0)
    for step, tokens in enumerate(actions):
        _, rewards, _, _, infos = envs.step(tokens)
        _, expected, _, _, plain_infos = plain.step(tokens)
        if step < 2:
            np.testing.assert_allclose(rewards, expected, atol=1e-6)
    centred = plain_infos["score"] - plain_infos["score"].mean()
    np.testing.assert_allclose(infos["score"], centred, atol=1e-5)
    np.testing.assert_allclose(
        infos["token_rewards"][:, :2], plain_infos["token_rewards"][:, :2], atol=1e-6
    )
    np.testing.assert_allclose(rewards, expected + (centred - plain_infos["score"]), atol=1e-5)


def test_scaled_scores_pay_their_sum(make_envs, classifier):
    envs = CreditReward(make_envs(), Normalize(RewardModel(classifier)), "red")
    envs.reset(seed=0)
    rng = np.random.default_rng(0)
    paid, over, finished = np.zeros(3), np.zeros(3, dtype=bool), 0
    for _ in range(40):
        _, rewards, terminated, _, infos = envs.step(rng.integers(0, 12, 3))
        paid = np.where(over, 0.0, paid + rewards)
        for row, episode in episodes_from_infos(infos).items():
            assert paid[row] == pytest.approx(episode.score, abs=1e-4)
        over, finished = terminated, finished + int(terminated.sum())
    assert envs.reward.scorer.moments.seen == finished > 0  # unfinished texts move no statistics


def test_the_checker_knows_causality(make_env, make_envs, classifier):
    for rule in ("red", "red:beta=0.5", "red:segments=2"):
        check_reward(CreditReward(make_env(), RewardModel(classifier), rule))
    check_reward(CreditReward(make_env(), LengthScorer(), "red"))
    for mode in MODES:
        check_reward(CreditReward(make_envs(autoreset_mode=mode), RewardModel(classifier), "red"))


class Late(gymnasium.Wrapper):
    """Declares causality, and pays at the end."""

    def __init__(self, env):
        super().__init__(env)
        self.paid = 0.0

    def step(self, action):
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.paid += reward
        if not terminated:
            return observation, 0.0, terminated, truncated, info
        total, self.paid = self.paid, 0.0
        return observation, total, terminated, truncated, info


def test_a_causal_credit_paid_late_is_named(make_env, classifier):
    env = Late(CreditReward(make_env(min_new_tokens=3), RewardModel(classifier), "red"))
    with pytest.raises(RewardCheckError, match=r"step 0 of \d.*causal"):
        check_reward(env)


@token_credit(causal=True)
def foresight(paid, prefix_scores, response_mask):
    """Declares causality, and spreads the score evenly over a length that it cannot know."""
    return paid[:, None] * response_mask / response_mask.sum(1, keepdim=True)


def test_credit_that_looks_ahead_is_named(make_env):
    env = CreditReward(make_env(min_new_tokens=4), LengthScorer(), Rule(foresight))
    with pytest.raises(RewardCheckError, match="token_rewards"):
        check_reward(env)
    env = SparseReward(make_env(min_new_tokens=5), LengthScorer())  # pays the first half nothing
    one = _Played((5, 6, 7, 8, 9), (0.0,) * 5, {"token_rewards": np.zeros(5)})
    _check_future(env, 0, one, np.random.default_rng(0))
    other = replace(one, info={"token_rewards": np.ones(5)})
    with pytest.raises(RewardCheckError, match=r"first 2 tokens.*look ahead"):
        _check_future(env, 0, other, np.random.default_rng(0))
