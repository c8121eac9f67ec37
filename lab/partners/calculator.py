"""A calculator as a partner: it answers a sum in the policy's turn, and executes nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from tokengym.envs import Partner, Reply, SettingsError

_TOKEN = re.compile(r"\s*(\d+(?:\.\d+)?|[-+*/()])")
MAX_DIGITS = 30
"""Most digits of a number in an expression or a result."""
MAX_CHARACTERS = 1_000
"""Longest expression, characters."""
MAX_DEPTH = 50
"""Most brackets and signs inside one another."""


class Calculator(Partner):
    """Answers the last expression between two marks with its value.

    "calc ( 12 + 3 ) * 4 =" is answered by "60". The expression is read by a parser of numbers,
    + - * / and brackets. A turn without a mark is the policy's answer and ends the conversation.

    Args:
        begin: Mark before an expression.
        end: Mark after it; a turn that stops short of it is read to its end.
        error: Reply to what is no expression.
        spaced: Whether digits are apart from each other, as in vocabularies of single digits.

    Example:
        >>> said = [{"role": "assistant", "content": "Let me see: calc 2 * ( 3 + 4 ) ="}]
        >>> Calculator().reply(said, {}, np.random.default_rng(0))
        Reply(text='14', score=None, done=False)
    """

    name = "calculator"

    def __init__(
        self, begin: str = "calc", end: str = "=", error: str = "error", spaced: bool = False
    ) -> None:
        if not begin:
            raise SettingsError("begin must be a text before each expression, got ''; e.g. 'calc'")
        self.begin, self.end, self.error, self.spaced = begin, end, error, spaced

    def reply(
        self,
        conversation: Sequence[Mapping[str, str]],
        metadata: Mapping[str, Any],
        rng: np.random.Generator,
    ) -> Reply:
        """Return the value of the turn's last expression, or the end of the conversation."""
        _, mark, asked = conversation[-1]["content"].rpartition(self.begin)
        if not mark:
            return Reply("", done=True)
        expression = asked.partition(self.end)[0] if self.end else asked
        if self.spaced:
            expression = re.sub(r"(?<=[\d.])\s+(?=[\d.])", "", expression)
        try:
            value = calculate(expression)
        except (ValueError, ArithmeticError):
            return Reply(self.error)
        return Reply(" ".join(value) if self.spaced else value)


def calculate(expression: str) -> str:
    """Return the value of an arithmetic expression, a whole number or six digits after the point.

    Example:
        >>> calculate("(1 + 2) * -3"), calculate("1 / 8"), calculate("2 / 3")
        ('-9', '0.125', '0.666667')
    """
    tokens, position = [], 0
    text = expression.strip()
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"an expression of more than {MAX_CHARACTERS} characters")
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise ValueError(f"no arithmetic at {text[position : position + 10]!r}")
        tokens.append(match[1])
        position = match.end()
    if any(len(token) > MAX_DIGITS for token in tokens):
        raise ValueError(f"a number has more than {MAX_DIGITS} digits")
    value, left = _sum(tokens, 0, 0)
    if left < len(tokens):
        raise ValueError(f"no operator before {tokens[left]!r}")
    if abs(value) >= 10**MAX_DIGITS:  # which a float may not hold
        raise ValueError(f"the value has more than {MAX_DIGITS} digits")
    answer = str(value.numerator)
    if value.denominator > 1:
        answer = f"{float(value):.6f}".rstrip("0").rstrip(".")
    if len(answer) > MAX_DIGITS:
        raise ValueError(f"the value has more than {MAX_DIGITS} digits")
    return "0" if answer == "-0" else answer


def _sum(tokens: list[str], place: int, depth: int) -> tuple[Fraction, int]:
    """Return the value of terms added up, and the place after them."""
    value, place = _product(tokens, place, depth)
    while place < len(tokens) and tokens[place] in "+-":
        term, after = _product(tokens, place + 1, depth)
        value, place = (value + term if tokens[place] == "+" else value - term), after
    return value, place


def _product(tokens: list[str], place: int, depth: int) -> tuple[Fraction, int]:
    value, place = _factor(tokens, place, depth)
    while place < len(tokens) and tokens[place] in "*/":
        factor, after = _factor(tokens, place + 1, depth)
        value, place = (value * factor if tokens[place] == "*" else value / factor), after
    return value, place


def _factor(tokens: list[str], place: int, depth: int) -> tuple[Fraction, int]:
    if depth > MAX_DEPTH or place >= len(tokens):
        raise ValueError("an expression that is too deep, or ends too soon")
    token = tokens[place]
    if token == "-":
        value, place = _factor(tokens, place + 1, depth + 1)
        return -value, place
    if token == "(":
        value, place = _sum(tokens, place + 1, depth + 1)
        if place >= len(tokens) or tokens[place] != ")":
            raise ValueError("a bracket is not closed")
        return value, place + 1
    if not token[0].isdigit():
        raise ValueError(f"{token!r} stands where a number should")
    return Fraction(token), place + 1
