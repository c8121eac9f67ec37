# mypy: no-check-untyped-defs
"""The public checker: silent on good environments, loud on each kind of breach."""

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, VectorWrapper

from tests.support.partners import teacher
from tests.support.rewards.common import LengthScorer
from tests.support.rules import rule_of
from tokengym.rewards import (
    ABCReward,
    CreditReward,
    FunctionScorer,
    Normalize,
    RewardModel,
    Rule,
    SparseReward,
    UniformReward,
    check_reward,
    shares,
    token_credit,
)
from tokengym.rewards.errors import RewardCheckError, RewardError
from tokengym.rewards.scorers.base import Scorer, Scores


def test_good_rewards_pass(make_env, classifier):
    check_reward(SparseReward(make_env(), LengthScorer()))
    check_reward(CreditReward(make_env(), LengthScorer(), rule_of("random")))
    check_reward(ABCReward(make_env(), RewardModel(classifier)))
    check_reward(SparseReward(make_env(horizon="truncated"), LengthScorer()))
    check_reward(make_env())


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_good_batches_pass(make_envs, classifier, mode):
    check_reward(ABCReward(make_envs(autoreset_mode=mode), RewardModel(classifier)))


TURNS = {"partner": teacher, "max_turns": 3, "max_turn_tokens": 2, "max_new_tokens": 16}


@pytest.mark.parametrize("credit", ["uniform", "red"])
def test_conversations_pass_in_every_form(make_env, make_envs, credit):
    scorer = FunctionScorer(lambda prompt, response: float(len(response.split())))
    check_reward(CreditReward(make_env(**TURNS), scorer, credit))
    for mode in AutoresetMode:
        check_reward(CreditReward(make_envs(autoreset_mode=mode, **TURNS), scorer, credit))


def test_a_batch_that_pays_a_reply_is_named(make_envs):
    class Generous(VectorWrapper):
        """Moves what the last token earned to a token of the reply."""

        def step(self, actions):
            step = self.env.step(actions)
            for row in np.flatnonzero(step[4].get("_token_rewards", [])):
                rewards, written = step[4]["token_rewards"][row], step[4]["written"][row]
                last = len(step[4]["response_ids"][row]) - 1
                reply = np.flatnonzero(written[:last] == 0)[0]
                rewards[reply], rewards[last] = rewards[last], 0.0
            return step

    scorer = FunctionScorer(lambda prompt, response: 1.0)
    envs = SparseReward(make_envs(**{**TURNS, "partner": lambda *_: "d"}), scorer)
    check_reward(envs)
    with pytest.raises(RewardCheckError, match=r"token_rewards.*reply"):
        check_reward(Generous(envs))


class Broken(gymnasium.Wrapper):
    """Changes the reward and the info of an episode's first or last step."""

    def __init__(self, env, last, first):
        super().__init__(env)
        self.last, self.first = last, first

    def reset(self, **options):
        self.change = self.first
        return self.env.reset(**options)

    def step(self, action):
        observation, reward, terminated, truncated, info = self.env.step(action)
        change, self.change = (self.last if terminated else self.change), same
        return observation, change(reward, info), terminated, truncated, info


def same(reward, info):
    return reward


def put(key, value):
    def change(reward, info):
        info[key] = value(info) if callable(value) else value
        return reward

    return change


def of_tokens(change):
    return put("token_rewards", lambda info: change(info["token_rewards"]))


BREACHES = {
    "score missing": (lambda reward, info: info.pop("score") * 0, "no 'score'"),
    "reward no number": (lambda reward, info: [reward], r"reward of step \d.*got \["),
    "part nan": (put("score_parts", {"a": np.inf}), r"score_parts\['a'\].*got inf"),
    "sum": (lambda reward, info: reward + 1, r"step rewards sum to [\d.]+.*'score'"),
    "ids": (put("response_ids", lambda info: (*info["response_ids"], 3)), r"response_ids \("),
    "dtype": (of_tokens(lambda rewards: rewards.astype(float)), r"token_rewards.*float32"),
    "list": (of_tokens(np.ndarray.tolist), r"token_rewards.*float32"),
    "alignment": (
        of_tokens(lambda rewards: np.append(rewards, np.float32(0))),
        r"token_rewards.*\(\d,\) for \d response_ids",
    ),
    "token nan": (of_tokens(lambda rewards: rewards * np.float32("nan")), "token_rewards.*finite"),
    "token sum": (of_tokens(lambda rewards: rewards * 2), r"token_rewards sum to [\d.]+.*'score'"),
}


@pytest.mark.parametrize("name", BREACHES)
def test_each_breach_is_named(make_env, name):
    change, message = BREACHES[name]
    env = Broken(UniformReward(make_env(min_new_tokens=3), LengthScorer()), change, same)
    with pytest.raises(RewardCheckError, match=message):
        check_reward(env)


@pytest.mark.parametrize(
    ("first", "message"),
    [(float("nan"), "reward of step 0.*got nan"), (5.0, r"step 0 of \d paid 5.*causal")],
)
def test_what_is_paid_early_is_named(make_env, first, message):
    env = UniformReward(make_env(min_new_tokens=3), LengthScorer())
    env = Broken(env, lambda reward, info: reward - 5.0, lambda reward, info: first)
    with pytest.raises(RewardCheckError, match=message):
        check_reward(env)


def test_rewards_that_change_are_named(make_env):
    rng = np.random.default_rng(0)
    noisy = FunctionScorer(lambda prompt, response: rng.normal())
    with pytest.raises(RewardCheckError, match=r"another score: .*, then"):
        check_reward(SparseReward(make_env(), noisy))
    with pytest.raises(RewardCheckError, match=r"running statistics"):
        check_reward(SparseReward(make_env(), Normalize(LengthScorer())))


def test_credit_that_changes_is_named(make_env):
    @token_credit
    class Restless:
        def __init__(self):
            self.calls = 0

        def __call__(self, scores, positions, response_mask):
            self.calls += 1
            return scores[:, None] * shares(1.0 * (positions + self.calls), response_mask)

    with pytest.raises(RewardCheckError, match="token_rewards"):
        check_reward(CreditReward(make_env(min_new_tokens=3), LengthScorer(), Rule(Restless)))


def test_a_row_that_depends_on_its_neighbours_is_named(make_env):
    @token_credit(conserves=False)
    def centred(scores, response_mask):
        return (scores - scores.mean())[:, None] * response_mask

    with pytest.raises(RewardCheckError, match="one batch of all episodes"):
        check_reward(CreditReward(make_env(min_new_tokens=3), LengthScorer(), Rule(centred)))


@token_credit
def by_entropy(scores, entropy, response_mask):
    return scores[:, None] * shares(entropy, response_mask)


@token_credit(causal=True, parts=True)
def so_far(log_probs, response_mask):
    return log_probs.cumsum(1) * response_mask


@pytest.mark.parametrize("rule", [by_entropy, so_far])
def test_a_rule_of_what_the_policy_knew_is_checked(make_env, make_envs, rule):
    check_reward(CreditReward(make_env(), LengthScorer(), rule))
    check_reward(CreditReward(make_env(**TURNS), LengthScorer(), rule))
    for mode in AutoresetMode:
        check_reward(CreditReward(make_envs(autoreset_mode=mode), LengthScorer(), rule))


@token_credit(causal=True, conserves=False)
def level(prefix_scores):
    return prefix_scores[:, 1:]


def test_what_is_left_of_a_score_that_is_not_conserved_is_no_breach(make_env, make_envs):
    rule = Rule(level)
    check_reward(CreditReward(make_env(min_new_tokens=3), LengthScorer(), rule))
    check_reward(CreditReward(make_envs(), LengthScorer(), rule))
    env = CreditReward(make_env(min_new_tokens=3), LengthScorer(), rule)
    early = Broken(env, lambda reward, info: reward - 5.0, lambda reward, info: reward + 5.0)
    with pytest.raises(RewardCheckError, match=r"step 0 of \d.*causal"):
        check_reward(early)


def unsure(response_ids):
    """Give two sums of ids in three a score."""
    return None if sum(response_ids) % 3 == 1 else float(sum(response_ids))


@pytest.mark.parametrize("rule", ["uniform", "red", by_entropy, so_far])
def test_episodes_without_a_score_are_left_out(make_env, make_envs, rule):
    scorer = FunctionScorer(unsure)
    check_reward(CreditReward(make_env(), scorer, rule), episodes=8)
    for mode in AutoresetMode:
        check_reward(CreditReward(make_envs(num_envs=8, autoreset_mode=mode), scorer, rule))


@pytest.mark.parametrize("rule", ["uniform", by_entropy])
def test_where_no_episode_has_a_score_nothing_is_checked(make_env, make_envs, rule):
    scorer = FunctionScorer(lambda prompt, response: None)
    for env in (CreditReward(make_env(), scorer, rule), CreditReward(make_envs(), scorer, rule)):
        with pytest.raises(RewardCheckError, match=r"none of 3 episodes has a score.*a number"):
            check_reward(env)


def test_breaches_beside_episodes_without_a_score_are_named(make_env):
    env = UniformReward(make_env(min_new_tokens=2), FunctionScorer(unsure))
    broken = Broken(env, same, lambda reward, info: reward + 1.0)
    with pytest.raises(RewardCheckError, match=r"step rewards sum"):
        check_reward(broken, episodes=8)
    asked = []

    def once(response_ids):
        asked.append(response_ids)
        return 1.0 if asked.count(response_ids) == 1 else None

    with pytest.raises(RewardCheckError, match=r"another score: 1.0, then nan"):
        check_reward(UniformReward(make_env(), FunctionScorer(once)))


def test_breaches_of_a_rule_of_what_the_policy_knew_are_named(make_env):
    @token_credit
    def twice(scores, entropy, response_mask):
        return 2 * scores[:, None] * shares(entropy, response_mask)

    @token_credit(conserves=False)
    def by_neighbours(entropy, response_mask):
        return (entropy - entropy.mean()) * response_mask

    @token_credit(causal=True, parts=True)
    def ahead(log_probs, response_mask):
        return log_probs.sum(1, keepdim=True) * response_mask

    @token_credit(causal=True, parts=True)
    def last_id(response_ids, entropy, response_mask):
        ends = response_ids.gather(1, response_mask.sum(1, keepdim=True) - 1)
        return ends + 0 * entropy

    for rule, message in (
        (last_id, "look ahead"),
        (twice, "sum"),
        (by_neighbours, "one batch of all episodes"),
        (ahead, "look ahead"),
    ):
        env = CreditReward(make_env(min_new_tokens=3), LengthScorer(), rule)
        with pytest.raises(RewardError, match=message):
            check_reward(env)


def test_an_episode_that_depends_on_more_than_its_seed_is_named(make_env):
    class Shrinking(gymnasium.Wrapper):
        """Gets a shorter horizon after the checker's first three episodes."""

        resets = 0

        def reset(self, **options):
            self.resets += 1
            if self.resets > 3:
                self.env = make_env(min_new_tokens=3, max_new_tokens=3)
            return self.env.reset(**options)

    env = SparseReward(Shrinking(make_env(min_new_tokens=5)), LengthScorer())
    with pytest.raises(RewardCheckError, match="another episode: 5 and 3"):
        check_reward(env)


def test_scores_that_depend_on_the_batch_are_named(make_env):
    class Crowd(Scorer):
        def score(self, episodes, *, attribution=None):
            return Scores(values=[len(episodes)] * len(episodes))

    with pytest.raises(RewardCheckError, match=r"one batch.*another score"):
        check_reward(SparseReward(make_env(), Crowd()))


def test_padding_that_carries_reward_is_named(make_envs):
    class Leaky(VectorWrapper):
        def step(self, actions):
            step = self.env.step(actions)
            if "token_rewards" in step[4]:
                step[4]["token_rewards"][:, -1] += 1
            return step

    envs = Leaky(UniformReward(make_envs(max_new_tokens=9), LengthScorer()))
    with pytest.raises(RewardCheckError, match=r"token_rewards.*0"):
        check_reward(envs)


def test_a_batch_that_pays_the_wrong_row_is_named(make_envs):
    class Rolled(VectorWrapper):
        def step(self, actions):
            observations, rewards, *rest = self.env.step(actions)
            return observations, np.roll(rewards, 1), *rest

    with pytest.raises(RewardCheckError, match="step rewards sum"):
        check_reward(Rolled(UniformReward(make_envs(), LengthScorer())))


def test_what_is_no_environment():
    with pytest.raises(TypeError, match=r"env.*VectorEnv, got 3"):
        check_reward(3)
