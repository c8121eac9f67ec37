# mypy: no-check-untyped-defs
"""What the laboratory's estimators and weights make of a row alone and in a batch."""

import pytest

from tests.support.agents.alone import check_rows
from tests.support.rewards.alone import played, reader
from tests.support.rewards.common import WORDS
from tests.support.words import make_word_tokenizer
from tokengym.agents.ppo import WEIGHTS, Weights
from tokengym.agents.ppo.advantages import ADVANTAGES, find_advantage

OF_SUITE = {"gae", "vineppo", "reinforce", "reinforce++", "rloo", "grpo", "dr-grpo", "loo"}


@pytest.mark.parametrize("name", sorted({*ADVANTAGES.names()} - OF_SUITE))
def test_a_row_depends_on_what_the_estimator_declares(name):
    check_rows(find_advantage(name), played(6), make_word_tokenizer(WORDS))


@pytest.mark.parametrize("name", WEIGHTS.names())
def test_a_row_depends_on_what_the_weights_declare(name):
    options = {"path": reader(1)} if name == "teacher" else {}
    weights = Weights(WEIGHTS.find(name), **options) if options else Weights.find(name)
    if "generator" in weights.reads:
        pytest.skip("drawn anew for each round, by place")
    check_rows(weights, played(6), make_word_tokenizer(WORDS))
