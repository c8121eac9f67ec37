# mypy: no-check-untyped-defs
"""Each row earns the same bits alone and in a batch, under every rule of the laboratory."""

import pickle

import pytest

from tests.support.rewards.alone import Steady, check_alone, played, reader
from tokengym.rewards import Rule
from tokengym.rewards.credits.words import REWARDS, SHIPPED

MODELS = {"prm": {"model": Steady()}, "rto": {"policy": reader(1)}}
NAMES = sorted(
    name
    for name in {*REWARDS.names()} - {*SHIPPED}
    if hasattr(REWARDS.find(name).factory, "function")
)


@pytest.mark.parametrize(
    "options", [{}, {"segments": 3}, {"cut": "turn", "pay": "evenly"}], ids=str
)
@pytest.mark.parametrize("name", NAMES)
def test_a_row_earns_the_same_bits_in_any_batch(name, options, tokenizer):
    function = REWARDS.find(name).factory.function
    options = {**options, **MODELS.get(name, {})}
    if name == "scar" and "cut" in options:
        options["segments"] = None  # its own default is a number
    check_alone(Rule(function, **options), tokenizer, played(3, time=20))


@pytest.mark.parametrize("name", NAMES)
def test_a_rule_is_sent_to_other_processes(name):
    rule = Rule(REWARDS.find(name).factory.function, **{n: "folder" for n in MODELS.get(name, {})})
    again = pickle.loads(pickle.dumps(rule))
    assert again.declared == rule.declared
    assert again.signature == rule.signature
