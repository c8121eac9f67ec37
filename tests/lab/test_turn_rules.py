"""Rules of turns against numbers worked by hand."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.support.partners import teacher
from tokengym.envs import Episode, Turn
from tokengym.lab.rules.turn_progress import TurnProgress
from tokengym.lab.rules.turn_score import TurnScore
from tokengym.rewards import CreditError, CreditReward, FunctionScorer, Reward, check_reward
from tokengym.rewards.scorers.partner import PartnerScore


def talk(*scores: float | None) -> Episode:
    """Return turns of two tokens with a reply of one after each but the last."""
    turns: list[Turn] = []
    for number, score in enumerate(scores):
        start = 3 * number
        turns += [Turn("assistant", "a", (start, start + 2), score)]
        turns += [Turn("user", "b", (start + 2, start + 3))]
    size = 3 * len(scores) - 1
    written = np.array([place % 3 < 2 for place in range(size)], np.int8)
    return Episode(
        prompt="x",
        response="y",
        prompt_ids=[0],
        response_ids=range(size),
        turns=tuple(turns[:-1]),
        written=written,
        finish_reason="eos",
    )


def paid(rule: Any, scorer: Any, episode: Episode) -> list[float]:
    (evaluated,) = Reward(scorer, rule).evaluate([episode])
    assert evaluated.token_rewards is not None
    return evaluated.token_rewards.tolist()


def test_a_turn_s_score_stands_at_its_last_token():
    episode = talk(0.25, None, 0.5)
    assert paid(TurnScore(), PartnerScore(), episode) == [0, 0.25, 0, 0, 0, 0, 0, 0.5]
    verdict = FunctionScorer(lambda prompt, response: 2.0)
    assert paid(TurnScore(), verdict, episode) == [0, 0.25, 0, 0, 0, 0, 0, 1.75]


@pytest.mark.parametrize(
    ("gamma", "scores", "rewards"),
    [
        (0.0, [1.0, 3.0, 2.0], [1.0, 2.0, -1.0]),
        # d = 1, 2, -1; halves: 1 | 2 * (1/3, 2/3) | -1 * (1/7, 2/7, 4/7)
        (0.5, [1.0, 3.0, 2.0], [1 + 2 / 3 - 1 / 7, 4 / 3 - 2 / 7, -4 / 7]),
        (1.0, [0.0, 0.0, 3.0], [1.0, 1.0, 1.0]),
        (0.0, [1.0, None, 3.0], [1.0, 0.0, 2.0]),
        (1.0, [None, 4.0, None], [2.0, 2.0, 0.0]),
        (0.5, [None, None, None], [0.0, 0.0, 0.0]),
    ],
)
def test_progress_is_spread_back(gamma: float, scores: list[Any], rewards: list[float]):
    by_turn = TurnProgress(gamma).by_turn(scores)
    np.testing.assert_allclose(by_turn, rewards, atol=1e-12)
    known = [score for score in scores if score is not None]
    assert by_turn.sum() == pytest.approx(known[-1] if known else 0.0)
    tokens = paid(
        TurnProgress(gamma), FunctionScorer(lambda p, r: float(by_turn.sum())), talk(*scores)
    )
    np.testing.assert_allclose([tokens[place] for place in (1, 4, 7)], rewards, atol=1e-6)
    assert np.count_nonzero(tokens) <= 3


def test_gamma_is_checked():
    with pytest.raises(CreditError, match="gamma must be within"):
        TurnProgress(gamma=1.5)


@pytest.mark.parametrize("rule", [TurnScore(), TurnProgress()])
def test_the_contract(make_env: Callable[..., Any], rule: Any):
    env = make_env(partner=teacher, max_turns=3, max_turn_tokens=3, max_new_tokens=14)
    check_reward(CreditReward(env, PartnerScore(), rule), episodes=5)
