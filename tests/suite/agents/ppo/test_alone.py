# mypy: no-check-untyped-defs
"""What an estimator makes of a row alone and in a batch, conversations among them."""

import pytest

from tests.support.agents.alone import check_rows
from tests.support.rewards.alone import played
from tests.support.rewards.common import WORDS
from tests.support.words import make_word_tokenizer
from tokengym.agents.ppo.advantages import Estimator, find_advantage
from tokengym.agents.ppo.settings import CRITIC_FREE
from tokengym.rewards import token_credit

SHIPPED = ("gae", "vineppo", *CRITIC_FREE)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_row_depends_on_what_the_estimator_declares(name):
    check_rows(find_advantage(name), played(6), make_word_tokenizer(WORDS))


def test_a_fact_that_is_not_so_is_seen():
    def of_the_batch(scores, response_mask):
        return (scores - scores.mean())[:, None] * response_mask

    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check_rows(Estimator(of_the_batch), played(6), make_word_tokenizer(WORDS))
    declared = token_credit(by_row=False)(lambda scores, response_mask: 1.0 * response_mask)
    with pytest.raises(AssertionError, match="no row depends on another"):
        check_rows(Estimator(declared), played(6), make_word_tokenizer(WORDS))
