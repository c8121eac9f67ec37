"""Whether token rewards keep a learner at the best response: exactly, on the Oracle.

A policy gradient credits a token with the reward to go. If exchanging a token of the best response
raises that token's reward to go, a learner leaves the best response.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokengym.lab.gradients.oracle import as_episodes, shifted
from tokengym.rewards import Reward

Response = tuple[int, ...]


class BestDeviation(NamedTuple):
    """One token of a response exchanged, and what that token's reward to go gains by it."""

    gain: float
    """Reward to go of the other token minus that of the one it replaces; score units."""
    response: Response
    """Response after the exchange."""


def best_departure(
    best: Response,
    others: Mapping[int, Sequence[Response]],
    paid: Mapping[Response, Sequence[float] | NDArray[np.floating]],
) -> BestDeviation:
    """Return the departure from a response that gains most: above 0, a learner leaves it.

    gain = sum over k >= t of r_k(other) - sum over k >= t of r_k(best)

    Args:
        best: The response.
        others: Per place t the responses that agree with it before t and not at t.
        paid: Token rewards (n,) of all of them.

    Example:
        >>> best_departure((1, 1), {1: [(1, 0)]}, {(1, 1): [2.0, 0.5], (1, 0): [0.25, 1.0]})
        BestDeviation(gain=0.5, response=(1, 0))
    """
    departures = [
        BestDeviation(float(np.sum(paid[other][t:]) - np.sum(paid[best][t:])), other)
        for t, responses in others.items()
        for other in responses
    ]
    return max(departures)


def best_play(oracle: Any) -> tuple[Response, dict[int, list[Response]]]:
    """Return an Oracle's best response, and what comes of each other token, played on at best.

    Returns:
        The response, and per place the responses that leave it there.
    """
    q_values = oracle.optimal_values().q_values

    def play_on(ids: Response) -> Response:
        while ids in q_values:
            ids = (*ids, int(np.nanargmax(q_values[ids])))
            if ids[-1] == oracle.tokenizer.eos_token_id:
                break
        return ids

    best = play_on(())
    others: dict[int, list[Response]] = {}
    for t, written in enumerate(best):
        legal = np.flatnonzero(~np.isnan(q_values[best[:t]]))
        eos_id = oracle.tokenizer.eos_token_id
        others[t] = [
            (*best[:t], token) if token == eos_id else play_on((*best[:t], int(token)))
            for token in map(int, legal)
            if token != written
        ]
    return best, others


def token_rewards(
    reward: Reward, responses: Sequence[Response], prompt: str, centre: float
) -> dict[Response, Any]:
    """Return what a rule pays each response after ``centre`` is subtracted from its score."""
    centred = shifted(reward, -centre) if centre else reward
    scored = centred.evaluate(as_episodes(responses, prompt, reward.tokenizer))
    return {ids: e.token_rewards for ids, e in zip(responses, scored, strict=True)}
