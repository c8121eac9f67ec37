"""Rules of turns against numbers worked by hand."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.agents.common import make_model
from tests.support.lab.rto import by_hand
from tests.support.partners import teacher
from tests.support.words import make_word_tokenizer as make_tokenizer
from tokengym.envs import Episode, Turn
from tokengym.lab.rules.turn_broadcast import turn_broadcast
from tokengym.lab.rules.turn_gain import turn_gain
from tokengym.lab.rules.turn_progress import turn_progress
from tokengym.lab.rules.turn_return import turn_return
from tokengym.lab.rules.turn_score import turn_score
from tokengym.rewards import (
    CreditError,
    CreditReward,
    FunctionScorer,
    Reward,
    Rule,
    check_reward,
)
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


def progress(scores: list[Any], **options: Any) -> Any:
    """Return the shares of the progress of one conversation's turns."""
    known = torch.tensor([[np.nan if score is None else score for score in scores]]).double()
    return turn_progress(known, torch.arange(len(scores))[None], **options)[0].numpy()


def test_a_turn_s_score_stands_at_its_last_token():
    episode = talk(0.25, None, 0.5)
    assert paid(turn_score, PartnerScore(), episode) == [0, 0.25, 0, 0, 0, 0, 0, 0.5]
    assert paid(turn_score, verdict(2.0), episode) == [0, 0.25, 0, 0, 0, 0, 0, 1.75]


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
    by_turn = progress(scores, gamma=gamma)
    np.testing.assert_allclose(by_turn, rewards, atol=1e-12)
    known = [score for score in scores if score is not None]
    assert by_turn.sum() == pytest.approx(known[-1] if known else 0.0)
    tokens = paid(
        Rule(turn_progress, gamma=gamma),
        FunctionScorer(lambda p, r: float(by_turn.sum())),
        talk(*scores),
    )
    np.testing.assert_allclose([tokens[place] for place in (1, 4, 7)], rewards, atol=1e-6)
    assert np.count_nonzero(tokens) <= 3


def test_as_published_progress_begins_at_the_first_scored_turn():
    """The deltas telescope to the last score minus the first."""
    # d = -, 2, -1: 2 * (1/3, 2/3) | -1 * (1/7, 2/7, 4/7)
    expected = [2 / 3 - 1 / 7, 4 / 3 - 2 / 7, -4 / 7]
    np.testing.assert_allclose(
        progress([1.0, 3.0, 2.0], gamma=0.5, published=True), expected, atol=1e-12
    )
    assert progress([None, 5.0, None], gamma=0.5, published=True).tolist() == [0.0, 0.0, 0.0]


def verdict(value: float) -> FunctionScorer:
    return FunctionScorer(lambda prompt, response: value)


def test_the_score_is_split_over_the_turns_or_given_to_each():
    episode = talk(None, None, None)
    assert paid(turn_broadcast, verdict(6.0), episode) == [0, 2, 0, 0, 2, 0, 0, 2]
    whole = Rule(turn_broadcast, published=True)
    assert paid(whole, verdict(6.0), episode) == [0, 6, 0, 0, 6, 0, 0, 6]
    assert not whole.conserves
    assert Rule(turn_broadcast).conserves


def test_returns_of_turns_are_rewards_to_go():
    episode = talk(1.0, None, 4.0)
    # G = 1 + 0.5 * 2, 0 + 0.5 * 4, 4
    assert paid(Rule(turn_return, gamma=0.5), PartnerScore(), episode) == [0, 0, 0, 0, -2, 0, 0, 4]
    # A verdict of 7 leaves 2 for the last turn: G = 2.5, 3, 6.
    assert paid(Rule(turn_return, gamma=0.5), verdict(7.0), episode) == [0, -0.5, 0, 0, -3, 0, 0, 6]
    same = paid(Rule(turn_return, gamma=1.0), PartnerScore(), episode)
    assert same == paid(turn_score, PartnerScore(), episode)
    assert Rule(turn_return, gamma=1.0).conserves
    assert not Rule(turn_return).conserves


@pytest.mark.parametrize("rule", [turn_score, turn_return, turn_broadcast, turn_progress])
def test_a_response_without_a_partner_is_one_turn(rule: Any):
    alone = Episode(prompt="x", response="a b", prompt_ids=[0], response_ids=[3, 4])
    assert paid(rule, verdict(3.0), alone) == [0, 3]
    assert Rule(rule).pieces([alone, talk(None, None)]) == [[range(2)], [range(3), range(3, 5)]]


def gains_by_hand(episode: Episode, answer: list[int]) -> list[float]:
    """Return the mean probability of the answer after the prompt and after each reply."""
    ends = [0, *(turn.span[1] for turn in episode.turns if turn.role == "user")]
    said = [[*episode.prompt_ids, *episode.response_ids[:end]] for end in ends]
    return [float(np.exp(np.mean(by_hand(make_model(seed=1), one, answer)))) for one in said]


def test_a_turn_gains_what_it_and_its_reply_told_of_the_answer(tmp_path: Any):
    make_model(seed=1).save_pretrained(tmp_path)
    episode = replace(
        talk(None, None, None), reference="b a", response_ids=[3, 4, 6, 5, 4, 7, 3, 1]
    )
    known = gains_by_hand(episode, [4, 3])
    gains = np.diff(known)
    assert len(gains) == 2
    assert np.abs(gains).min() > 1e-3
    for published, rest in ((False, 2.0 - gains.sum()), (True, 2.0)):
        rule = Rule(turn_gain, reference=tmp_path, published=published)
        (evaluated,) = Reward(verdict(2.0), rule).bind(make_tokenizer()).evaluate([episode])
        expected = [0, gains[0], 0, 0, gains[1], 0, 0, rest]
        assert evaluated.token_rewards is not None
        np.testing.assert_allclose(evaluated.token_rewards, expected, atol=1e-5)


def test_gains_need_an_answer(tmp_path: Any):
    make_model(seed=1).save_pretrained(tmp_path)
    rule = Reward(verdict(2.0), Rule(turn_gain, reference=tmp_path)).bind(make_tokenizer())
    with pytest.raises(CreditError, match="asks how likely the reference answer is"):
        rule.evaluate([talk(None)])


def test_gamma_is_checked():
    for rule in (turn_progress, turn_return):
        with pytest.raises(CreditError, match="gamma must"):
            Rule(rule, gamma=1.5)


RULES = [
    turn_score,
    turn_progress,
    turn_broadcast,
    Rule(turn_broadcast, published=True),
    turn_return,
]


@pytest.mark.parametrize("rule", RULES)
def test_the_contract(make_env: Callable[..., Any], rule: Any):
    env = make_env(partner=teacher, max_turns=3, max_turn_tokens=3, max_new_tokens=14)
    check_reward(CreditReward(env, PartnerScore(), rule), episodes=5)
