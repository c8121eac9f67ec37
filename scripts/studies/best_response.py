"""Does a learner that follows a credit rule's token rewards stay at the best response?

A policy gradient credits a token with the reward to go, the token rewards from it on. That leaves
out nothing only if what was paid before does not depend on what is written later. Rules known in
hindsight do not keep to that: a later token may take credit from an earlier one, and so earn more
while the score falls. On the Oracle the best response is known, and each of its tokens can be
exchanged for every other one: exactly, without learning or noise.

    python -m tokengym.scripts.studies.best_response [--docs docs/results]
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from tokengym.envs import Episode
from tokengym.evaluation.measure.evaluate import task_reward
from tokengym.evaluation.report.curves import read_curves
from tokengym.evaluation.report.summary import per_run
from tokengym.evaluation.report.verdict import signed
from tokengym.rewards import Reward
from tokengym.scripts.studies.cells import DOCS, Docs, command_line
from tokengym.scripts.studies.credit_grid import ORACLE_RULES
from tokengym.scripts.studies.grid_page import panel_of
from tokengym.scripts.studies.tables import fill, iqm_with_interval, markdown_table

Response = tuple[int, ...]


class Departure(NamedTuple):
    """One token of a response exchanged, and what that token's reward to go gains by it."""

    gain: float
    """Reward to go of the other token minus that of the one it replaces; score units."""
    response: Response
    """Response after the exchange."""


def best_departure(
    best: Response,
    others: Mapping[int, Sequence[Response]],
    paid: Mapping[Response, Sequence[float] | NDArray[np.floating]],
) -> Departure:
    """Return the departure from a response that gains most: above 0, a learner leaves it.

    gain = sum over k >= t of r_k(other) - sum over k >= t of r_k(best)

    Args:
        best: The response.
        others: Per place t the responses that agree with it before t and not at t.
        paid: Token rewards (n,) of all of them.

    Example:
        >>> best_departure((1, 1), {1: [(1, 0)]}, {(1, 1): [2.0, 0.5], (1, 0): [0.25, 1.0]})
        Departure(gain=0.5, response=(1, 0))
    """
    found = [
        Departure(float(np.sum(paid[other][t:]) - np.sum(paid[best][t:])), other)
        for t, responses in others.items()
        for other in responses
    ]
    return max(found)


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
    tokenizer: Any = reward.tokenizer
    scorer: Any = reward.scorer
    centred = Reward(scorer + (-centre), reward.credit, tokenizer=tokenizer) if centre else reward
    episodes = [
        Episode(
            prompt=prompt,
            response=tokenizer.decode(ids, skip_special_tokens=True),
            prompt_ids=tokenizer(prompt).input_ids,
            response_ids=ids,
        )
        for ids in responses
    ]
    return {
        ids: e.token_rewards for ids, e in zip(responses, centred.evaluate(episodes), strict=True)
    }


def departures_table(docs: Path) -> str:
    """Return, per rule, what leaving the best response gains, and where PPO ended in the grid.

    Args:
        docs: The folder whose ``grid`` has the Oracle's published runs.
    """
    oracle: Any = gym.make("tokengym/Oracle-v0", reward=None).unwrapped
    _, info = oracle.reset(seed=0)
    best, others = best_play(oracle)
    everything = [best, *(ids for responses in others.values() for ids in responses)]
    score = float(oracle.optimal_values().values[()])
    ended = [
        _final_scores(docs / "grid" / f"{name}.csv") for name in ("Oracle", "Oracle-not-centred")
    ]
    rows = []
    for rule in ORACLE_RULES:
        reward, _ = task_reward("Oracle", {"reward": rule})
        row = [f"`{rule}`"]
        for centre, finals in zip((score, 0.0), ended, strict=True):
            paid = token_rewards(reward, everything, info["prompt"], centre)
            gain, response = best_departure(best, others, paid)
            said = f' by "{oracle.tokenizer.decode(response)}"' if gain > 0 else ""
            row += [f"{signed(round(gain, 3))}{said}", finals.get(rule, "")]
        rows.append(row)
    header = ["rule", "centred: gain by leaving", "PPO ends at"]
    return markdown_table([*header, "not centred: gain by leaving", "PPO ends at"], rows)


def _final_scores(curves: Path) -> dict[str, str]:
    """Return each rule's final score in some published runs, with its interval."""
    panel = panel_of(read_curves(curves, group_by=()))
    return {
        rule: iqm_with_interval(per_run(panel, runs, "score", "final"))
        for rule, runs in panel.rewards.items()
    }


def main(docs: Docs = DOCS) -> None:
    """Fill the document."""
    fill(docs / "best_response.md", {"departures": departures_table(docs)})


if __name__ == "__main__":
    command_line(__doc__, main)
