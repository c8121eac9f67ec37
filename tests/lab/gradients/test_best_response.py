"""Whether token rewards keep a learner at the best response: small games worked out by hand."""

from itertools import product

import gymnasium as gym
import numpy as np
import pytest

from tokengym.evaluation.measure.evaluate import task_reward
from tokengym.lab.envs.oracle.score import oracle_score
from tokengym.lab.gradients.best_response import best_departure, best_play, token_rewards
from tokengym.lab.rules.scar import shapley_exact

FILM, GOOD = 0, 1
WORDS = ("film", "good")
BEST = (FILM, GOOD, GOOD, GOOD)
OTHERS = {
    0: [(GOOD, FILM, GOOD, GOOD)],
    1: [(FILM, FILM, GOOD, GOOD)],
    2: [(FILM, GOOD, FILM, GOOD)],
    3: [(FILM, GOOD, GOOD, FILM)],
}
"""Each token of the best response exchanged, and the best made of what follows."""


def score(ids) -> float:
    return oracle_score([WORDS[token] for token in ids])


def paid_by(credit):
    return {ids: np.array(credit(ids)) for ids in product((FILM, GOOD), repeat=4)}


def sparse(ids):
    return [0.0] * (len(ids) - 1) + [score(ids)]


def increments(ids):
    return np.diff([score(ids[:t]) for t in range(len(ids) + 1)])


def shapley(ids):
    coalitions = range(2 ** len(ids))
    return shapley_exact([score([i for t, i in enumerate(ids) if c >> t & 1]) for c in coalitions])


@pytest.mark.parametrize("credit", [sparse, increments])
def test_nothing_is_gained_by_leaving_where_the_past_is_paid_already(credit):
    """What was paid before the exchanged token stays, so the reward to go falls by the score."""
    assert best_departure(BEST, OTHERS, paid_by(credit)).gain == pytest.approx(2 - 3)


def test_shapley_values_pay_a_second_film_with_what_the_first_earned():
    """After "film": "good good good" has 3/2 to go, "film good good" 1/3 + 2 * 2/3."""
    paid = paid_by(shapley)
    assert paid[BEST] == pytest.approx([1.5, 0.5, 0.5, 0.5])
    assert paid[(FILM, FILM, GOOD, GOOD)] == pytest.approx([1 / 3, 1 / 3, 2 / 3, 2 / 3])
    gain, response = best_departure(BEST, OTHERS, paid)
    assert gain == pytest.approx(5 / 3 - 3 / 2)
    assert response == (FILM, FILM, GOOD, GOOD)


@pytest.fixture(scope="module")
def oracle():
    env = gym.make("tokengym/Oracle-v0", reward=None, max_new_tokens=3).unwrapped
    env.reset(seed=0)
    return env


def test_every_token_of_the_best_response_is_exchanged_for_every_other(oracle):
    best, others = best_play(oracle)
    decode = oracle.tokenizer.decode
    assert decode(best) == "film good good"
    written = {t: {decode(ids) for ids in responses} for t, responses in others.items()}
    # six other tokens each, EOS among them; the rest is played at best
    assert written[2] == {f"film good {w}" for w in ("bad", "not", "but", "film", "the", "<eos>")}
    assert "<eos>" in written[0]
    assert "the film good" in written[0]
    assert {"film film good", "film not bad"} <= written[1]


def test_rewards_are_those_of_the_rule_on_the_score_less_the_centre(oracle):
    best, others = best_play(oracle)
    responses = [best, *others[1]]
    reward, _ = task_reward("Oracle", {"reward": "scar", "max_new_tokens": 3})
    for centre in (0.0, 2.0):
        paid = token_rewards(reward, responses, "the", centre)
        for ids in responses:
            words = oracle.tokenizer.decode(ids, skip_special_tokens=True).split()
            assert paid[ids].sum() == pytest.approx(oracle_score(words) - centre, abs=1e-5)
    # "film good good": each good needs the film, so half of what it earns is the film's
    assert token_rewards(reward, [best], "the", 0.0)[best] == pytest.approx([1.0, 0.5, 0.5])
