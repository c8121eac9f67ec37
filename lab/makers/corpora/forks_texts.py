"""Responses to forks by a demonstrator that gets each decision right with a given probability."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from tokengym.lab.envs.forks import families
from tokengym.lab.envs.forks.values import State, backward, best

HABIT = ("well", "so", "then", "now")
"""Fillers in the order in which the demonstrator prefers them."""
PREFERENCE = (0.4, 0.3, 0.2, 0.1)
CHANCES = (0.25, 0.25, 0.2, 0.2, 0.1)
"""Shares of prompts with 1 to 5 decisions."""


class Demonstration(NamedTuple):
    """A response, and the demonstrator's chance of success after each of its tokens."""

    prompt: str
    words: tuple[str, ...]
    chances: tuple[float, ...]


def write_prompt(rng: np.random.Generator) -> tuple[families.FamilyName, str]:
    """Return a prompt of any family, most of them with few decisions."""
    family = families.FAMILIES[rng.integers(len(families.FAMILIES))]
    decisions = int(rng.choice(5, p=CHANCES) + 1)
    return family, families.write(
        family,
        rng,
        decisions=decisions,
        recoverable=int(rng.random() < 0.2),
        distractors=int(rng.choice(3, p=(0.5, 0.3, 0.2))),
    )


def demonstrate(
    family: families.FamilyName,
    prompt: str,
    *,
    skill: float,
    judged_by: float,
    fillers: int,
    rng: np.random.Generator,
) -> Demonstration:
    """Return a response of a demonstrator.

    In a state that can still be solved it takes, with probability ``skill``, a symbol that keeps it
    so, and otherwise any symbol.

    Args:
        family: Family of the prompt.
        prompt: Task.
        skill: In [0, 1].
        judged_by: Skill of the demonstrator whose chances of success are given.
        fillers: Fillers before each decision.
        rng: Where every choice comes from.
    """
    task, symbols = families.read(prompt), families.symbols(family)
    solvable = backward(task, best)

    def chance(layer: int, state: State, q_values: Mapping[str, float]) -> float:
        probs = _probabilities(symbols, solvable[layer].q_values[state], judged_by)
        return sum(probs[symbol] * q for symbol, q in q_values.items())

    chances = backward(task, chance)
    state: State | None = task.start
    words, values = [], []
    for number, layer in enumerate(task.layers):
        before = 0.0 if state is None else chances[number].values.get(state, 0.0)
        words += [str(word) for word in rng.choice(HABIT, fillers, p=PREFERENCE)]
        values += [before] * fillers
        row = {} if state is None else solvable[number].q_values[state]
        probs = _probabilities(symbols, row, skill)
        words.append(str(rng.choice(symbols, p=list(probs.values()))))
        state = None if state is None else layer[state].get(words[-1])
        values.append(0.0 if state is None else chances[number + 1].values.get(state, 0.0))
    return Demonstration(prompt, tuple(words), tuple(values))


def _probabilities(
    symbols: tuple[str, ...], row: Mapping[str, float], skill: float
) -> dict[str, float]:
    """Return the demonstrator's probability of each symbol."""
    right = [symbol for symbol in symbols if row.get(symbol, 0.0) > 0]
    luck = 1.0 - skill if right else 1.0
    return {s: luck / len(symbols) + skill * (s in right) / max(len(right), 1) for s in symbols}
