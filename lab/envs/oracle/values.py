"""Exact values of an environment whose states all fit in a table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tokengym.lab.envs.enumerated import PolicyError
from tokengym.lab.envs.oracle.dynamic_programming import (
    FloatArray,
    level_starts,
    optimal_values,
    policy_values,
    response_probs,
    soft_optimal_values,
)

State = tuple[int, ...]
"""A state is the response so far, as token ids; the prompt is the same for all."""

PolicyProbs = Callable[[State], ArrayLike] | Mapping[State, ArrayLike] | ArrayLike
"""A policy: state -> (vocab,) probabilities, as a function or a mapping; or all of them at once,
(states, vocab) in the order of ``states``."""


_TOLERANCE = 1e-4
"""Largest deviation of a float32 softmax's sum from 1."""


class StateTable(Mapping[State, Any]):
    """A mapping from each state to a number or an array.

    Args:
        tree: The states.
        array: (states, ...) entries in the order of the states.
    """

    array: FloatArray
    """(states, ...) float64, read-only: all entries in the order of ``states``."""

    def __init__(self, tree: ResponseTree, array: FloatArray) -> None:
        self._tree = tree
        self.array = array
        array.flags.writeable = False

    @property
    def states(self) -> tuple[State, ...]:
        """The states: shorter ones first."""
        return self._tree.states

    def __getitem__(self, state: State) -> Any:
        entry = self.array[self._tree.row(state)]
        return entry if entry.ndim else float(entry)

    def __iter__(self) -> Iterator[State]:
        return iter(self.states)

    def __len__(self) -> int:
        return len(self.array)

    def __repr__(self) -> str:
        return f"StateTable({len(self)} states, array {self.array.shape})"

    def along(self, response_ids: Sequence[int]) -> FloatArray:
        """Return the entries of a response's tokens.

        Args:
            response_ids: (n,) as in ``info["response_ids"]``.

        Returns:
            (n,) the entry of token t in the state of the tokens before it. The entries of
            advantages sum to the score minus the value of the empty response.
        """
        ids = tuple(map(int, response_ids))
        entries = np.array([self[ids[:t]][token] for t, token in enumerate(ids)], dtype=np.float64)
        if np.isnan(entries).any():
            index = int(np.flatnonzero(np.isnan(entries))[0])
            raise KeyError(f"token {ids[index]} is not legal after {ids[:index]}")
        return entries


class ExactValues(NamedTuple):
    """Values of one policy, or of the optimal one, in every state."""

    values: StateTable
    """V: state -> expected score of the finished response; array (states,)."""
    q_values: StateTable
    """Q: state -> (vocab,) expected score after each token, NaN where illegal; array (states,
    vocab)."""

    @property
    def advantages(self) -> StateTable:
        """A = Q - V: state -> (vocab,), NaN where a token is illegal; array (states, vocab)."""
        return StateTable(
            self.q_values._tree, self.q_values.array - self.values.array[:, np.newaxis]
        )


class Responses(NamedTuple):
    """All responses, and how likely a policy is to write each."""

    ids: tuple[State, ...]
    """(responses,) token ids as in ``info["response_ids"]``, EOS included below the horizon."""
    scores: FloatArray
    """(responses,) score units."""
    probs: FloatArray
    """(responses,) with sum 1; 0 where the response may not end."""


class ResponseTree:
    """All responses of legal tokens and their scores.

    Args:
        tokens: Ids that are legal and do not end the response.
        eos_id: The id that ends it.
        end_from: Tokens before EOS is legal; ``horizon`` or more if it never is.
        horizon: Tokens after which a response ends.
        vocab_size: Length of a probability vector.
        score: Score of the response of these ids (without EOS).
    """

    def __init__(
        self,
        *,
        tokens: Sequence[int],
        eos_id: int,
        end_from: int,
        horizon: int,
        vocab_size: int,
        score: Callable[[State], float],
    ) -> None:
        self._tokens = tuple(tokens)
        self._index_of = {token: index for index, token in enumerate(self._tokens)}
        self._columns = [*self._tokens, eos_id]
        self._vocab_size = vocab_size
        self._shape = {"branching": len(self._tokens), "horizon": horizon, "end_from": end_from}
        starts = level_starts(len(self._tokens), horizon)
        self._num_states = starts[-2]
        self._sequences = _sequences(self._tokens, horizon)
        self._scores = np.array([score(ids) for ids in self._sequences], dtype=np.float64)
        self._lengths = np.repeat(np.arange(horizon), np.diff(starts[:-1]))

    @cached_property
    def states(self) -> tuple[State, ...]:
        """Every response that is not over yet, shorter ones first."""
        return tuple(self._sequences[: self._num_states])

    @cached_property
    def legal(self) -> NDArray[np.bool_]:
        """(states, vocab): the tokens that are legal in each state."""
        legal = np.zeros((self._num_states, self._vocab_size), dtype=np.bool_)
        legal[:, list(self._tokens)] = True
        legal[:, self._columns[-1]] = self._lengths >= self._shape["end_from"]
        return legal

    def row(self, state: State) -> int:
        """Return a state's place in ``states``."""
        row = 0
        for token in state:
            if token not in self._index_of:
                row = self._num_states
                break
            row = row * len(self._tokens) + self._index_of[token] + 1
        if row >= self._num_states:
            raise KeyError(
                f"{state!r} is none of the {self._num_states} states: fewer than "
                f"{self._shape['horizon']} legal tokens, no EOS"
            )
        return row

    @cached_property
    def optimal(self) -> ExactValues:
        """Values of the optimal policy."""
        return self._tables(*optimal_values(self._scores, **self._shape))

    def soft_optimal(self, reference: PolicyProbs, kl_coef: float) -> ExactValues:
        """Return the values of the policy that is best by score - kl_coef * KL."""
        probs = self.probabilities(reference)[:, self._columns]
        return self._tables(
            *soft_optimal_values(self._scores, probs, kl_coef=kl_coef, **self._shape)
        )

    def under(
        self,
        policy_probs: PolicyProbs | None,
        reference: PolicyProbs | None = None,
        kl_coef: float = 0.0,
    ) -> ExactValues:
        """Return the values of a policy; None is uniform over the legal tokens."""
        probs = self.probabilities(policy_probs)[:, self._columns]
        ref = None if reference is None else self.probabilities(reference)[:, self._columns]
        return self._tables(
            *policy_values(self._scores, probs, ref_probs=ref, kl_coef=kl_coef, **self._shape)
        )

    def responses(self, policy_probs: PolicyProbs | None) -> Responses:
        """Return all responses and their probabilities; None is uniform over the legal tokens."""
        probs = self.probabilities(policy_probs)[:, self._columns]
        branching, horizon = self._shape["branching"], self._shape["horizon"]
        end = self._columns[-1:]
        ids = [(*s, *end) if len(s) < horizon else s for s in self._sequences]
        weights = response_probs(probs, branching=branching, horizon=horizon)
        return Responses(tuple(ids), self._scores.copy(), weights)

    def _tables(self, values: FloatArray, q_values: FloatArray) -> ExactValues:
        """Return V, and Q spread over the vocabulary, as tables."""
        wide = np.full((self._num_states, self._vocab_size), np.nan)
        wide[:, self._columns] = q_values
        return ExactValues(StateTable(self, values), StateTable(self, wide))

    def probabilities(self, policy: PolicyProbs | None) -> FloatArray:
        """Return a policy's probabilities (states, vocab), normalised and checked.

        None is uniform over the legal tokens.
        """
        rows: Any = policy
        if policy is None:
            rows = self.legal / self.legal.sum(axis=1, keepdims=True)
        elif callable(policy):
            rows = [policy(state) for state in self.states]
        elif isinstance(policy, Mapping):
            missing = [state for state in self.states if state not in policy]
            if missing:
                raise PolicyError(
                    f"policy_probs lacks {len(missing)} of {self._num_states} states, the first "
                    f"{missing[0]}; give each state its probabilities"
                )
            rows = [policy[state] for state in self.states]
        probs = np.asarray(rows, dtype=np.float64)
        if probs.shape != self.legal.shape:
            raise PolicyError(
                f"policy_probs must give {self._vocab_size} probabilities in each of "
                f"{self._num_states} states, shape {self.legal.shape}, got {probs.shape}"
            )
        totals = probs.sum(axis=1)
        wrong = np.flatnonzero(~(np.abs(totals - 1.0) <= _TOLERANCE) | (probs < 0).any(axis=1))
        if wrong.size:
            raise PolicyError(
                f"policy_probs of state {self.states[wrong[0]]} are {probs[wrong[0]].tolist()}; "
                "give probabilities, none negative, with sum 1"
            )
        if (illegal := (probs > 0) & ~self.legal).any():
            row, token = (int(indices[0]) for indices in np.nonzero(illegal))
            raise PolicyError(
                f"policy_probs of state {self.states[row]} give the illegal token {token} "
                f"{probs[row, token]:.3g}; apply the action mask before the softmax"
            )
        return probs / totals[:, np.newaxis]


def _sequences(tokens: Sequence[int], longest: int) -> list[State]:
    """Return all sequences of tokens, level by level."""
    level: list[State] = [()]
    sequences = list(level)
    for _ in range(longest):
        level = [(*sequence, token) for sequence in level for token in tokens]
        sequences += level
    return sequences
