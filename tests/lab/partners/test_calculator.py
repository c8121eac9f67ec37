"""The calculator: exact values, and no text that does anything but count."""

import copy
import json
from typing import Any

import numpy as np
import pytest

from tokengym.envs import SettingsError
from tokengym.envs.turns.partner import as_partner
from tokengym.lab.partners.calculator import Calculator, calculate


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("2 + 3 * 4", "14"),
        ("(2 + 3) * 4", "20"),
        ("10 - 4 - 3", "3"),
        ("24 / 4 / 3", "2"),
        ("-2 * -(3 - 5)", "-4"),
        ("0.1 + 0.2", "0.3"),
        ("1 / 3", "0.333333"),
        ("2.9999999", "3"),
        ("1 / 3000000", "0"),
        ("0 - 1 / 9999999", "0"),
        ("999999999999 * 999999999999", "999999999998000000000001"),
        ("  7  ", "7"),
    ],
)
def test_values(expression: str, value: str):
    assert calculate(expression) == value


@pytest.mark.parametrize(
    "expression",
    [
        *"|2 +|2 3|(2|2)|* 2|2 ** 3|1e9|__import__('os')|a + 1|1 / 0".split("|"),
        *("9" * 31, "9" * 20 + "*" + "9" * 20, "(" * 60 + "1" + ")" * 60, "-" * 5000 + "1"),
        "0." + "1" * 40,  # of a small value, and yet too long to count with
    ],
)
def test_no_expressions(expression: str):
    with pytest.raises((ValueError, ZeroDivisionError)):
        calculate(expression)


def answer(partner: Any, text: str) -> Any:
    said = [{"role": "user", "content": "?"}, {"role": "assistant", "content": text}]
    return partner.reply(said, {}, np.random.default_rng(0))


def test_replies():
    partner = as_partner("calculator")
    assert isinstance(partner, Calculator)
    assert answer(partner, "so calc 12 * 3 = and").text == "36"
    assert answer(partner, "calc 1 + 1 = calc 2 + 2").text == "4"
    for asked in ("1 / 0", "9" * 31, f"1{' / 3' * 20_000}", f"{' * '.join(11 * ['9' * 29])} / 7"):
        assert answer(partner, f"calc {asked} =").text == "error"
    assert answer(partner, "it is 36").done
    spaced = as_partner("calculator:spaced=true,begin=ask")
    assert answer(spaced, "ask 1 2 + 3 0 =").text == "4 2"
    with pytest.raises(SettingsError, match="begin must"):
        Calculator(begin="")
    with pytest.raises(SettingsError, match="'start'"):
        as_partner("calculator:start=x")


def test_the_name_survives_a_spec():
    import gymnasium
    from gymnasium.envs.registration import EnvSpec

    spec = copy.deepcopy(gymnasium.spec("tokengym/MovieReview-v0"))
    spec.kwargs.update(partner="calculator", max_turns=3)
    read = EnvSpec.from_json(spec.to_json())
    assert json.loads(spec.to_json())["kwargs"]["partner"] == "calculator"
    env: Any = gymnasium.make(read).unwrapped
    assert env.settings.max_turns == 3
