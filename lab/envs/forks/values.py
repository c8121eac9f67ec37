"""The automata of forks, and exact values of the prefixes of a response to one prompt.

Every family is an automaton that reads one decision after another: mazes, countdowns and bracket
sequences differ in their states alone.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tokengym.envs import SettingsError
from tokengym.lab.envs.enumerated import PolicyError

State = Hashable
Symbol = str
Layer = Mapping[State, Mapping[Symbol, State]]
"""State -> symbol -> next state. A symbol that is missing fails, and nothing makes up for that."""


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
    layers = [LayerValues(after, {})]
    for number, layer in reversed(list(enumerate(automaton.layers))):
        q_values = {
            state: {symbol: after.get(to, 0.0) for symbol, to in row.items()}
            for state, row in layer.items()
        }
        after = {state: value(number, state, q) for state, q in q_values.items()}
        layers.append(LayerValues(after, q_values))
    return tuple(reversed(layers))


def best(layer: int, state: State, q_values: Mapping[Symbol, float]) -> float:
    """Return the value of the best symbol, for `backward`."""
    del layer, state
    return max(q_values.values(), default=0.0)


Prefix = tuple[int, ...]
"""The response so far, token ids."""
FloatArray = NDArray[np.float64]
PolicyProbs = Callable[[Prefix], ArrayLike] | Mapping[Prefix, ArrayLike] | ArrayLike
"""A policy: prefix -> (vocab,) probabilities, as a function or a mapping, or (states, vocab) in the
order of `PrefixTree.states`."""
MAX_STATES = 100_000
"""Most prefixes that are enumerated: seconds, and some 50 MB of probabilities."""
_TOLERANCE = 1e-4


class PrefixTable(Mapping[Prefix, Any]):
    """A mapping from each prefix to a number or an array; computed when asked.

    Any prefix of legal tokens can be asked. Those that can no longer be solved have the value 0 and
    advantages of 0, and are left out of the iteration and of ``array``.
    """

    def __init__(self, tree: PrefixTree, entry: Callable[[Prefix], Any]) -> None:
        self._tree, self._entry = tree, entry

    @property
    def states(self) -> tuple[Prefix, ...]:
        """Prefixes that can still be solved, shorter ones first."""
        return self._tree.states

    @property
    def array(self) -> FloatArray:
        """(states, ...): all entries in the order of ``states``."""
        return np.array([self[state] for state in self.states])

    def along(self, response_ids: Sequence[int]) -> FloatArray:
        """Return the entries (n,) of a response's tokens; advantages sum to score minus V()."""
        ids = tuple(map(int, response_ids))
        entries = np.array([self[ids[:t]][token] for t, token in enumerate(ids)], dtype=np.float64)
        if np.isnan(entries).any():  # of the last one; an earlier one is no prefix
            self._tree.state_of(ids)
        return entries

    def __getitem__(self, prefix: Prefix) -> Any:
        return self._entry(prefix)

    def __iter__(self) -> Iterator[Prefix]:
        return iter(self.states)

    def __len__(self) -> int:
        return len(self.states)


class PrefixValues(NamedTuple):
    """Values of one policy, or of the best one, after every prefix."""

    values: PrefixTable
    """V: prefix -> probability that the finished response is right."""
    q_values: PrefixTable
    """Q: prefix -> (vocab,) the same after each token, NaN where illegal."""

    @property
    def advantages(self) -> PrefixTable:
        """A = Q - V: prefix -> (vocab,), NaN where a token is illegal."""
        values, q_values = self
        return PrefixTable(values._tree, lambda prefix: q_values[prefix] - values[prefix])


class PrefixTree:
    """All responses to one prompt.

    Args:
        automaton: What the prompt asks for.
        words: (vocab,) texts of the tokens.
        legal: (time, vocab) legal tokens at each position.
        decides: (time,) whether a decision stands at the position, and no filler.
    """

    def __init__(
        self,
        automaton: Automaton,
        words: Sequence[str],
        legal: NDArray[np.bool_],
        decides: NDArray[np.bool_],
    ) -> None:
        self.automaton = automaton
        self._words, self.legal, self._decides = words, legal, decides

    @cached_property
    def best_layers(self) -> tuple[LayerValues, ...]:
        """Values of the automaton's states under the best play of legal tokens."""
        allowed = [
            {self._words[token] for token in np.flatnonzero(row).tolist()}
            for row in self.legal[self._decides]
        ]

        def value(layer: int, state: State, q_values: Mapping[Symbol, float]) -> float:
            legal = {symbol: q for symbol, q in q_values.items() if symbol in allowed[layer]}
            return best(layer, state, legal)

        return backward(self.automaton, value)

    def state_of(self, prefix: Prefix) -> State | None:
        """Return the automaton's state after a prefix; None where it has failed."""
        ids = list(map(int, prefix))
        if len(ids) > len(self.legal) or not self.legal[range(len(ids)), ids].all():
            raise KeyError(f"{prefix!r} has an illegal token, or more than {len(self.legal)}")
        decisions = [
            self._words[i] for i, decides in zip(ids, self._decides, strict=False) if decides
        ]
        return self.automaton.run(decisions)

    @cached_property
    def optimal(self) -> PrefixValues:
        """Values of the best play, by dynamic programming on the automaton's states alone."""

        def value(prefix: Prefix) -> float:
            layer = self.best_layers[int(self._decides[: len(prefix)].sum())]
            state = self.state_of(prefix)
            return 0.0 if state is None else layer.values.get(state, 0.0)

        return self._tables(value)

    @cached_property
    def states(self) -> tuple[Prefix, ...]:
        """Unfinished prefixes that can still be solved, shorter ones first."""
        level: list[tuple[Prefix, State]] = [((), self.automaton.start)]
        level = [pair for pair in level if self.best_layers[0].values.get(pair[1], 0.0) > 0]
        prefixes: list[Prefix] = []
        for position, decides in enumerate(self._decides):
            prefixes += [prefix for prefix, _ in level]
            tokens = [int(i) for i in np.flatnonzero(self.legal[position])]
            if len(prefixes) + len(level) * len(tokens) > MAX_STATES:
                raise SettingsError(
                    f"the values of a policy need all prefixes that can still be solved, more than "
                    f"{MAX_STATES:,} here; pass filler_words=1 (fillers are forced then) or fewer "
                    "decisions, or measure them: tokengym replay --truth forks"
                )
            if not decides:
                level = [((*prefix, i), state) for prefix, state in level for i in tokens]
                continue
            number = int(self._decides[: position + 1].sum())
            layer, worth = self.automaton.layers[number - 1], self.best_layers[number].values
            level = [
                ((*prefix, token), to)
                for prefix, state in level
                for token in tokens
                if (to := layer[state].get(self._words[token])) is not None and worth.get(to, 0) > 0
            ]
        return tuple(prefixes)

    @property
    def legal_tokens(self) -> NDArray[np.bool_]:
        """(states, vocab): the tokens that are legal after each of ``states``."""
        return self.legal[[len(state) for state in self.states]]

    def under(self, policy_probs: PolicyProbs | None) -> PrefixValues:
        """Return the values of a policy, by enumeration; None is uniform over the legal tokens.

        V(prefix) = sum_a policy(prefix)[a] V(prefix + a), 0 where it can no longer be solved
        """
        probs = self._probabilities(policy_probs)
        known: dict[Prefix, float] = {}
        for row in range(len(self.states) - 1, -1, -1):
            prefix = self.states[row]
            tokens = np.flatnonzero(probs[row]).tolist()
            after = (self._value_of((*prefix, token), known) for token in tokens)
            known[prefix] = float(
                sum(probs[row, t] * v for t, v in zip(tokens, after, strict=True))
            )
        return self._tables(lambda prefix: self._value_of(prefix, known))

    def _value_of(self, prefix: Prefix, known: Mapping[Prefix, float]) -> float:
        """Return V of a prefix: known, or that of a finished or a failed one."""
        if prefix in known:
            return known[prefix]
        if len(prefix) < len(self.legal):
            self.state_of(prefix)  # refuses illegal tokens
            return 0.0
        return float(self.state_of(prefix) in self.automaton.accepting)

    def _tables(self, value: Callable[[Prefix], float]) -> PrefixValues:
        def q_values(prefix: Prefix) -> FloatArray:
            wide = np.full(self.legal.shape[1], np.nan)
            for token in np.flatnonzero(self.legal[len(prefix)]).tolist():
                wide[token] = value((*prefix, token))
            return wide

        return PrefixValues(PrefixTable(self, value), PrefixTable(self, q_values))

    def _probabilities(self, policy: Any) -> FloatArray:
        """Return a policy's probabilities (states, vocab), normalised and checked."""
        legal = self.legal_tokens
        if policy is None:
            policy = legal / legal.sum(axis=1, keepdims=True)
        if callable(policy):
            policy = [policy(state) for state in self.states]
        elif isinstance(policy, Mapping):
            policy = [policy[state] for state in self.states]
        probs = np.asarray(policy, dtype=np.float64)
        if probs.shape != legal.shape:
            raise PolicyError(
                f"policy_probs must have shape {legal.shape}, one row per state, got {probs.shape}"
            )
        totals = probs.sum(axis=1)
        wrong = ~(np.abs(totals - 1.0) <= _TOLERANCE) | ((probs > 0) & ~legal).any(axis=1)
        for row in np.flatnonzero(wrong | (probs < 0).any(axis=1)).tolist():
            raise PolicyError(
                f"policy_probs of state {self.states[row]} must be probabilities of legal tokens "
                f"with sum 1, got sum {totals[row]:.4g}; apply the action mask before the softmax"
            )
        return probs / totals[:, np.newaxis]
