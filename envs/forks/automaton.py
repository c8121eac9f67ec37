"""A finite automaton that reads one decision after another, and its values.

Every family of forks is one: mazes, countdowns and bracket sequences differ in their states alone.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import NamedTuple

State = Hashable
Symbol = str
Layer = Mapping[State, Mapping[Symbol, State]]
"""State -> symbol -> next state. A symbol that is missing fails, and nothing mends that."""


class Automaton(NamedTuple):
    """States, symbols, transitions and accepting states, layer by layer."""

    start: State
    """State before the first decision."""
    layers: tuple[Layer, ...]
    """Transitions of each decision, from the states that can be reached."""
    accepting: frozenset[State]
    """States after the last decision that solve the task."""

    def run(self, symbols: Sequence[Symbol]) -> State | None:
        """Return the state after some decisions; None if they failed, or are too many."""
        state: State | None = self.start
        for number, symbol in enumerate(symbols):
            if state is None or number >= len(self.layers):
                return None
            state = self.layers[number][state].get(symbol)
        return state

    def accepts(self, symbols: Sequence[Symbol]) -> bool:
        """Return whether these are all decisions, and they end in an accepting state."""
        return len(symbols) == len(self.layers) and self.run(symbols) in self.accepting


class LayerValues(NamedTuple):
    """Values of the states of one layer; those of a failed run are 0."""

    values: Mapping[State, float]
    """V: probability that the run is accepted."""
    q_values: Mapping[State, Mapping[Symbol, float]]
    """Q: the same after each symbol that does not fail."""


def backward(
    automaton: Automaton, value: Callable[[int, State, Mapping[Symbol, float]], float]
) -> tuple[LayerValues, ...]:
    """Return the values of every state, from the last layer to the first.

    Q(s, a) = V(s'),   V(s) = value(layer, s, Q(s, .)),   V = 1 in an accepting state, else 0

    Args:
        automaton: Task.
        value: V of a state from its layer and its Q values: their maximum is the best play's, their
            mean under a policy's probabilities is the policy's.

    Returns:
        One entry per layer, and one for the states after the last.

    Example:
        >>> coin = Automaton(0, ({0: {"heads": 1, "tails": 0}},), frozenset({1}))
        >>> first, last = backward(coin, best)
        >>> first.values[0], dict(first.q_values[0])
        (1.0, {'heads': 1.0, 'tails': 0.0})
    """
    after: Mapping[State, float] = dict.fromkeys(automaton.accepting, 1.0)
    found = [LayerValues(after, {})]
    for number, layer in reversed(list(enumerate(automaton.layers))):
        q_values = {
            state: {symbol: after.get(to, 0.0) for symbol, to in row.items()}
            for state, row in layer.items()
        }
        after = {state: value(number, state, q) for state, q in q_values.items()}
        found.append(LayerValues(after, q_values))
    return tuple(reversed(found))


def best(layer: int, state: State, q_values: Mapping[Symbol, float]) -> float:
    """Return the value of the best symbol, for `backward`."""
    del layer, state
    return max(q_values.values(), default=0.0)
