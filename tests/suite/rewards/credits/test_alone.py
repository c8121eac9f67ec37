# mypy: no-check-untyped-defs
"""Each row earns the same bits alone and in a batch, under every rule of this package."""

from typing import Any

import pytest

from tests.support.rewards.alone import check_alone, played
from tokengym.rewards import Rule
from tokengym.rewards.credits.words import REWARDS, SHIPPED

PIECES: tuple[dict[str, Any], ...] = (
    {},
    {"segments": 3},
    {"cut": "turn"},
    {"beta": 0.3},
)


@pytest.mark.parametrize("options", PIECES, ids=str)
@pytest.mark.parametrize("name", SHIPPED)
def test_a_row_earns_the_same_bits_in_any_batch(name, options, tokenizer):
    check_alone(Rule(REWARDS.find(name).factory.function, **options), tokenizer, played())
