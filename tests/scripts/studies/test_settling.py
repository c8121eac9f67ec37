"""Where token rewards lead: small games whose outcome is worked out by hand."""

from itertools import product

import gymnasium as gym
import numpy as np
import pytest

from tokengym.envs.oracle_score import oracle_score
from tokengym.rewards.shares import shapley_exact
from tokengym.scripts.studies.settling import all_episodes, settled

FILM, GOOD = 0, 1
WORDS = ("film", "good")


def score(ids) -> float:
    return oracle_score([WORDS[token] for token in ids])


def game(length: int, credit) -> dict:
    return {ids: credit(ids) for ids in product((FILM, GOOD), repeat=length)}


def sparse(ids):
    return [0.0] * (len(ids) - 1) + [score(ids)]


def increments(ids):
    return np.diff([score(ids[:t]) for t in range(len(ids) + 1)])


def shapley(ids):
    coalitions = range(2 ** len(ids))
    return shapley_exact([score([i for t, i in enumerate(ids) if c >> t & 1]) for c in coalitions])


@pytest.mark.parametrize("credit", [sparse, increments])
def test_what_is_paid_when_it_is_known_leads_to_the_best_response(credit):
    assert settled(game(4, credit)) == (FILM, GOOD, GOOD, GOOD)


def test_shapley_values_pay_a_second_film_with_what_the_first_earned():
    """The rest of "film good good good" earns 3 * 1/2; of "film film good good" 1/3 + 2 * 2/3."""
    assert shapley((FILM, GOOD, GOOD, GOOD)) == pytest.approx([1.5, 0.5, 0.5, 0.5])
    assert shapley((FILM, FILM, GOOD, GOOD)) == pytest.approx([1 / 3, 1 / 3, 2 / 3, 2 / 3])
    assert settled(game(4, shapley)) == (FILM, FILM, GOOD, GOOD)  # 2 of 3
    assert settled(game(3, shapley)) == (FILM, GOOD, GOOD)  # 1/6 + 2/3 < 2 * 1/2


def test_responses_that_end_early_are_choices_too():
    assert settled({(9,): [2.0], (0, 9): [0.0, 1.0], (0, 0): [0.0, 3.0]}) == (0, 0)
    assert settled({(9,): [4.0], (0, 9): [0.0, 1.0], (0, 0): [0.0, 3.0]}) == (9,)


def test_of_choices_that_pay_alike_the_better_score_is_taken():
    paid = {(0, 0): [0.0, 1.0], (0, 1): [5.0, 1.0]}
    assert settled(paid) == (0, 1)


def test_every_response_of_an_oracle_is_there_once():
    episodes = all_episodes("Oracle", max_new_tokens=3)
    # 1 + 6 + 36 that write EOS, 216 of full length
    assert len(episodes) == len({episode.response_ids for episode in episodes}) == 259
    env = gym.make("tokengym/Oracle-v0", max_new_tokens=3)
    env.reset(seed=0)
    played = next(e for e in episodes if e.response == "film good good")
    for token in played.response_ids:
        *_, terminated, truncated, info = env.step(token)
    assert terminated or truncated
    assert (info["response"], info["score"]) == ("film good good", 2.0)
