"""Credit in conversations: rules see and pay the tokens that the policy wrote."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tokengym.envs.episode import Episode
from tokengym.rewards.credits.base import Credit, FloatArray
from tokengym.rewards.maths.shares import moved
from tokengym.rewards.scorers.base import Scores


def assign_written(
    credit: Credit, episodes: Sequence[Episode], scores: Scores
) -> Sequence[FloatArray]:
    """Return the token rewards of a rule, 0 at tokens that the policy did not write.

    A rule is shown the written tokens alone, with the scorer's account of them. What a reply's
    tokens have to do with the score belongs to the step that appended them, the last token of the
    turn before (see `moved`). A rule that reads turns, or a language model, is shown all tokens.

    Args:
        credit: The rule.
        episodes: Finished episodes; those without replies are assigned as ever.
        scores: Their scores.

    Returns:
        Per episode (len(response_ids),) reward units.
    """
    if all(episode.written is None for episode in episodes):
        return credit.assign(episodes, scores)
    masks = [
        np.ones(len(e.response_ids), np.int8) if e.written is None else e.written for e in episodes
    ]
    if credit.reads_turns or credit.needs_reference:
        rewards = credit.assign(episodes, scores)
        if len(rewards) != len(episodes) or not credit.sum_preserving:
            return [np.asarray(r) * m for r, m in zip(rewards, masks, strict=False)]
        return [moved(r, m) for r, m in zip(rewards, masks, strict=True)]
    shown = []
    for episode, mask in zip(episodes, masks, strict=True):
        places = np.flatnonzero(mask).tolist()
        known = {"log_probs": episode.log_probs, "token_rewards": episode.token_rewards}
        kept: dict[str, Any] = {k: None if v is None else v[places] for k, v in known.items()}
        ids = [episode.response_ids[place] for place in places]
        shown.append(replace(episode, response_ids=ids, written=None, turns=(), **kept))
    if scores.attributions is not None:
        rows = zip(scores.attributions, masks, strict=True)
        scores = Scores(
            scores.values,
            scores.parts,
            [moved(row, mask)[mask > 0] for row, mask in rows],
            additive=scores.additive,
            signed=scores.signed,
        )
    rewards = credit.assign(shown, scores)
    if [np.shape(r) for r in rewards] != [(len(e.response_ids),) for e in shown]:
        return rewards  # refused by whoever checks them
    placed = [np.zeros(len(mask), dtype=np.float32) for mask in masks]
    for target, tokens, mask in zip(placed, rewards, masks, strict=True):
        target[mask > 0] = tokens
    return placed


def newest(text: Episode) -> int:
    """Return the place of the token that the policy wrote last."""
    if text.written is None:
        return len(text.response_ids) - 1
    return int(np.flatnonzero(text.written)[-1])
