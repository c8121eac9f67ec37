"""Where a learner that follows each credit rule's token rewards settles, on the Oracle, exactly.

A policy gradient credits a token with the reward to go, the token rewards from it on. That leaves
out nothing only if what was paid before does not depend on what is written later. Rules known in
hindsight do not keep to that: a later token can take credit from an earlier one, and so earn
without raising the score. Here every token in turn takes what maximises its reward to go, the later
ones having chosen already: backward induction over all responses, no learning and no noise.

    python -m tokengym.scripts.studies.settling [--docs docs/results]
"""

import argparse
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import ArrayLike

from tokengym.envs import Episode
from tokengym.evaluation.curves import read_curves
from tokengym.evaluation.evaluate import task_reward
from tokengym.evaluation.statistics import final_mean, interval, iqm
from tokengym.evaluation.summary import FINAL_WINDOW
from tokengym.evaluation.verdict import number
from tokengym.scripts.studies.grid_page import panel_of
from tokengym.scripts.studies.tables import fill, markdown_table

ENV = "Oracle"
RULES = (
    "sparse",
    "uniform",
    "recency",
    "red:delivery=end",
    "abc",
    "abc:beta=1",
    "abc-signed",
    "attribution",
    "attribution:method=leave-one-out",
    "scar",
)
BATCH = 4096
"""Responses scored at once."""
TIE = 1e-5
"""Rewards to go that differ by less are alike."""

Response = tuple[int, ...]


def settled(token_rewards: Mapping[Response, ArrayLike]) -> Response:
    """Return the response that tokens write of which each maximises its own reward to go.

    pi(s) = argmax_a sum over k >= |s| of r_k(y(s + a)), y(s + a) = what pi makes of s + a

    Of choices that pay alike the one with the higher score is taken: what is lost is lost surely.

    Args:
        token_rewards: Every complete response with its token rewards (n,), which sum to its score.
            A response that is the beginning of another one ends by a token of its own, EOS.

    Example:
        >>> settled({(0, 0): [1.0, 0.0], (0, 1): [0.0, 2.0], (1, 1): [1.5, 0.0]})
        (0, 1)
    """
    paid = {ids: np.asarray(rewards, dtype=np.float64) for ids, rewards in token_rewards.items()}
    following: dict[Response, set[int]] = {}
    for ids in paid:
        for length in range(len(ids)):
            following.setdefault(ids[:length], set()).add(ids[length])

    @cache
    def play(state: Response) -> Response:
        if state in paid:
            return state
        ends = [play((*state, token)) for token in sorted(following[state])]
        to_go = np.array([paid[ids][len(state) :].sum() for ids in ends])
        best = [ids for ids, value in zip(ends, to_go, strict=True) if value > to_go.max() - TIE]
        return max(best, key=lambda ids: paid[ids].sum())

    return play(())


def all_episodes(env: str, **env_kwargs: Any) -> list[Episode]:
    """Return every response of an Oracle as a played episode, EOS included where it is written."""
    made: Any = gym.make(f"tokengym/{env}-v0", reward=None, **env_kwargs)
    oracle = made.unwrapped
    observation, info = made.reset(seed=0)
    prompt_ids = observation["input_ids"][observation["attention_mask"] == 1]
    tokenizer, legal, states = oracle.tokenizer, oracle.legal_tokens, oracle.states
    longest = len(states[-1]) + 1
    episodes = []
    for state, allowed in zip(states, legal, strict=True):
        for token in map(int, np.flatnonzero(allowed)):
            ids = (*state, token)
            if token == tokenizer.eos_token_id or len(ids) == longest:
                response = tokenizer.decode(ids, skip_special_tokens=True)
                episodes.append(
                    Episode(
                        prompt=info["prompt"],
                        response=response,
                        prompt_ids=prompt_ids,
                        response_ids=ids,
                    )
                )
    return episodes


def settling_table(curves: Path) -> str:
    """Return where each rule's learner settles, beside where PPO ended in the grid's runs.

    Args:
        curves: The grid's published Oracle runs.
    """
    ended = panel_of(read_curves(curves, group_by=())).rewards
    episodes, rows = all_episodes(ENV), []
    for rule in RULES:
        reward, tokenizer = task_reward(ENV, {"reward": rule})
        paid: dict[Response, Any] = {}
        for start in range(0, len(episodes), BATCH):
            for episode in reward.evaluate(episodes[start : start + BATCH]):
                paid[tuple(episode.response_ids)] = episode.token_rewards
        ids = settled(paid)
        rows.append([f"`{rule}`", tokenizer.decode(ids), number(float(np.sum(paid[ids]))), ""])
        if rule in ended:
            runs = ended[rule].values["score"]
            finals = [final_mean(run, FINAL_WINDOW) for run in runs]
            low, high = interval(finals)
            rows[-1][-1] = f"{number(iqm(finals))} ({number(low)} to {number(high)})"
    return markdown_table(["rule", "settles at", "its score", "PPO's final score"], rows)


def main() -> None:
    """Fill the document."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--docs", type=Path, default=Path("docs/results"))
    docs = parser.parse_args().docs
    table = settling_table(docs / "grid" / f"{ENV}.csv")
    fill(docs / "credit_grid.md", {"settling": table})


if __name__ == "__main__":
    main()
