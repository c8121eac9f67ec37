"""PURE's min form by hand, and the check of the sum that it is excused from."""

from collections.abc import Callable
from math import exp
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from tests.support.rewards.common import LengthScorer, make_classifier, make_episode
from tokengym.lab.rules.pure import min_form, pure
from tokengym.rewards import CreditReward, Reward, RewardModel, Rule, check_reward, token_credit
from tokengym.rewards.credits.red import red
from tokengym.rewards.credits.uniform import uniform
from tokengym.rewards.errors import CreditError, RewardCheckError


def test_the_formula_by_hand(tokenizer: Any):
    # LengthScorer adds up the ids: the increments of 3, 5, 4 are these ids.
    total = exp(-3 / 2) + exp(-5 / 2) + exp(-4 / 2)
    expected = [3 * exp(-3 / 2) / total, 5 * exp(-5 / 2) / total, 4 * exp(-4 / 2) / total]
    credit = Rule(pure, temperature=2.0)
    reward = Reward(LengthScorer(), credit, tokenizer=tokenizer)
    (paid,) = reward.evaluate([make_episode(response_ids=(3, 5, 4))])
    np.testing.assert_allclose(np.asarray(paid.token_rewards), expected, rtol=1e-6)
    assert paid.score == 12.0


def test_segments_are_the_steps_by_hand(tokenizer: Any):
    # The steps are 3 + 5 and 4, paid on their last tokens.
    total = exp(-8 / 2) + exp(-4 / 2)
    expected = [0, 8 * exp(-8 / 2) / total, 4 * exp(-4 / 2) / total]
    credit = Rule(pure, temperature=2.0, segments=2)
    reward = Reward(LengthScorer(), credit, tokenizer=tokenizer)
    (paid,) = reward.evaluate([make_episode(response_ids=(3, 5, 4))])
    np.testing.assert_allclose(np.asarray(paid.token_rewards), expected, rtol=1e-6)


def test_steps_are_those_of_red(tokenizer: Any):
    scorer = RewardModel(make_classifier(), tokenizer=tokenizer)
    episode = make_episode(response_ids=(3, 5, 4, 7, 6))
    (by_red,) = Reward(scorer, Rule(red), tokenizer=tokenizer).evaluate([episode])
    (by_pure,) = Reward(scorer, Rule(pure, temperature=0.5), tokenizer=tokenizer).evaluate(
        [episode]
    )
    assert by_red.token_rewards is not None
    steps = by_red.token_rewards.astype(float)
    steps[-1] -= scorer.score_prefix([make_episode(response_ids=())])[0]  # paid to the last by RED
    weights = np.exp(-steps / 0.5)
    np.testing.assert_allclose(
        np.asarray(by_pure.token_rewards), weights * steps / weights.sum(), atol=1e-5
    )


def weighted(steps: list[float], temperature: float) -> Any:
    row = torch.tensor([steps], dtype=torch.float64)
    return min_form(row, torch.ones(1, len(steps), dtype=torch.bool), temperature)


def test_the_sum_lies_between_the_minimum_and_the_mean():
    steps = [0.4, -1.0, 0.3, 2.0]
    assert weighted(steps, 1e-3).sum() == pytest.approx(-1.0)
    assert weighted(steps, 1e6).sum() == pytest.approx(np.mean(steps), abs=1e-5)
    assert weighted([1e4, -1e4], 1e-2).isfinite().all()
    with pytest.raises(CreditError, match=r"temperature.*> 0, got 0"):
        Rule(pure, temperature=0.0)
    with pytest.raises(CreditError, match=r"temperature.*> 0, got -1"):
        Rule(pure, temperature=-1)


@token_credit
def double(scores: Any, response_mask: Any) -> Any:
    """Pay twice the score."""
    return 2 * uniform(scores, response_mask)


@token_credit(conserves=False)
def declared(scores: Any, response_mask: Any) -> Any:
    """Pay twice the score, and say so."""
    return double(scores, response_mask)


def test_a_rule_that_does_not_declare_it_is_held_to_the_sum():
    with pytest.raises(CreditError, match="conserves=False"):
        Reward(LengthScorer(), double).evaluate([make_episode()])


@pytest.mark.parametrize("rule", [Rule(declared), Rule(pure)])
def test_a_rule_that_declares_it_is_not(make_env: Callable[..., Any], tokenizer: Any, rule: Any):
    reward = Reward(LengthScorer(), rule, tokenizer=tokenizer)
    (paid,) = reward.evaluate([make_episode()])
    assert paid.token_rewards is not None
    assert paid.token_rewards.sum() != pytest.approx(paid.score)
    check_reward(CreditReward(make_env(), LengthScorer(), rule))


class Lying(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Doubles the token rewards that a rule that conserves has written."""

    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, info = self.env.step(action)
        if terminated:
            info["token_rewards"] = 2 * info["token_rewards"]
        return observation, reward, terminated, truncated, info


def test_the_checker_still_holds_the_other_rules_to_it(make_env: Callable[..., Any]):
    env = Lying(CreditReward(make_env(), LengthScorer(), uniform))
    with pytest.raises(RewardCheckError, match="token_rewards sum to"):
        check_reward(env)
