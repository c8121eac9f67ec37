# mypy: no-check-untyped-defs
"""What an estimator makes of a row alone and in a batch, conversations among them."""

import pytest

from tests.support.agents.alone import check_rows
from tests.support.rewards.alone import played
from tests.support.rewards.common import WORDS
from tests.support.words import make_word_tokenizer
from tokengym.agents.ppo.advantages import find_advantage
from tokengym.agents.ppo.settings import CRITIC_FREE

SHIPPED = ("gae", "vineppo", *CRITIC_FREE)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_row_depends_on_what_the_estimator_declares(name):
    check_rows(find_advantage(name), played(6), make_word_tokenizer(WORDS))
