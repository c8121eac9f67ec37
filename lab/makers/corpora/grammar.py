"""A context-free grammar that writes text from a numpy Generator."""

import re
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any, TypeVar

import numpy as np

from tokengym.rewards.gold import GrammarRules

Alternatives = Sequence[str] | Mapping[str, float]
"""Texts to choose from, equally likely or with weights; ``{symbol}`` in them is expanded."""

Choice = TypeVar("Choice")

_SLOT = re.compile(r"\{([^{}]+)\}")
_BLOCK = 4096  # a single Generator.random() call costs more than the choice it makes


class Dice:
    """Draws from a Generator, the uniform ones taken from it in blocks."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._block: list[float] = []

    def random(self) -> float:
        """Return a draw from [0, 1)."""
        if not self._block:
            self._block = self._rng.random(_BLOCK)[::-1].tolist()
        return self._block.pop()

    def chance(self, probability: float) -> bool:
        """Return True with the given probability."""
        return self.random() < probability

    def integer(self, low: int, high: int) -> int:
        """Return an integer from ``low`` to ``high``, both possible."""
        return low + int(self.random() * (high - low + 1))

    def pick(self, choices: Sequence[Choice]) -> Choice:
        """Return one of the choices, each with equal chance."""
        return choices[self.integer(0, len(choices) - 1)]

    def sample(self, choices: Sequence[Choice], count: int) -> list[Choice]:
        """Return up to ``count`` different ones of the choices."""
        left = list(choices)
        return [left.pop(self.integer(0, len(left) - 1)) for _ in range(min(count, len(left)))]

    def beta(self, a: float, b: float) -> float:
        """Return a draw from a Beta distribution."""
        return float(self._rng.beta(a, b))


class Grammar:
    """Rules ``symbol -> alternatives``, expanded recursively."""

    def __init__(self, rules: Mapping[str, Alternatives]) -> None:
        self._texts = {symbol: tuple(choices) for symbol, choices in rules.items()}
        self._rules = {symbol: _compile(choices) for symbol, choices in rules.items()}
        for symbol, (_, choices) in self._rules.items():
            for name in {name for choice in choices for name in choice[1::2]}:
                if not name.startswith("~") and name not in self._rules:
                    raise ValueError(f"rule {symbol!r} uses {{{name}}}, which has no rule")

    def rules(self, *variants: str, **options: Any) -> GrammarRules:
        """Return the grammar as a gold score reads it.

        Args:
            variants: What ``{~name}`` stands for: ``{variant_name}`` of any of them.
            options: The other settings of `GrammarRules`, such as ``start``.
        """
        either = {
            name: tuple(f"{{{variant}_{name[1:]}}}" for variant in variants)
            for _, choices in self._rules.values()
            for choice in choices
            for name in choice[1::2]
            if name.startswith("~")
        }
        return GrammarRules(rules=self._texts | either, **options)

    def write(self, symbol: str, dice: Dice, resolve: Callable[[str], str] | None = None) -> str:
        """Return one text of a symbol.

        Args:
            symbol: The rule to start from.
            dice: Where the choices come from.
            resolve: Names the rule that stands for ``{~name}``, given ``name``.
        """
        if symbol.startswith("~"):
            if resolve is None:
                raise ValueError(f"{{{symbol}}} needs a resolve function, got None")
            symbol = resolve(symbol[1:])
        cumulative, choices = self._rules[symbol]
        choice = choices[bisect_right(cumulative, dice.random() * cumulative[-1])]
        # Pieces alternate: literal, symbol, literal, symbol, ..., literal.
        return "".join(
            self.write(piece, dice, resolve) if index % 2 else piece
            for index, piece in enumerate(choice)
        )


def mend_articles(words: Sequence[str]) -> list[str]:
    """Return the words with "a" turned into "an" before a vowel."""
    following = [*words[1:], ""]
    return [
        "an" if word == "a" and after[:1] in set("aeiou") else word
        for word, after in zip(words, following, strict=True)
    ]


def _compile(choices: Alternatives) -> tuple[list[float], list[list[str]]]:
    weights = list(choices.values()) if isinstance(choices, Mapping) else [1.0] * len(choices)
    return list(accumulate(weights)), [_SLOT.split(text) for text in choices]
