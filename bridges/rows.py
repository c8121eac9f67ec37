"""Rows of any trainer to an advantage for each of their tokens: what every door does.

    advantages = row_advantages(rows, credit)  # a TokenCredit(scorer, "abc-signed", tokenizer=...)

Token ids are credited as they are; nothing is encoded again.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tokengym.bridges.advantages import check_peers, check_token_estimator, token_advantages
from tokengym.credit import TokenCredit
from tokengym.rewards import ScorerError


@dataclass(frozen=True, kw_only=True)
class Row:
    """One response, or conversation, to one prompt."""

    prompt_ids: Sequence[int]
    """Tokens of the prompt."""
    response_ids: Sequence[int]
    """Tokens after it, those of tools and users included."""
    group: Hashable
    """Tells the prompts apart: rows of one group are each other's baseline."""
    written: Sequence[int] | None = None
    """(time,) 1 at each response token that the policy wrote; None where it wrote all."""
    reference: Any = None
    """Ground truth, for a scorer that compares with one, which gets it as text: trainers' labels
    are any JSON."""


@dataclass(frozen=True, kw_only=True)
class CreditedRows:
    """Scores of rows, and an advantage for each of their response tokens."""

    scores: NDArray[np.float32]
    """(rows,), 0 for a row without a token of the policy's, NaN for one without a score."""
    token_rewards: list[NDArray[np.float32]]
    """(rows,) of (time,), reward units."""
    advantages: list[NDArray[np.float32]]
    """(rows,) of (time,), reward units; 0 where the policy did not write."""


def check_scored(scores: NDArray[np.float32], trainer: str) -> None:
    """Refuse scores, (rows,), of which some are missing, for a trainer that cannot leave them out.

    Raises:
        ScorerError: naming the trainer.
    """
    if missing := int(np.isnan(scores).sum()):
        raise ScorerError(
            f"{missing} of {len(scores)} responses have no score, and {trainer} cannot leave them "
            "out; return a number, or take on_error='raise' of the scorer"
        )


def credit_rows(rows: Sequence[Row], credit: TokenCredit, estimator: str = "loo") -> CreditedRows:
    """Score rows, divide their scores among their tokens, and return the tokens' advantages.

    A row without a token of the policy's is not scored. It is nobody's baseline, nor is one that
    the scorer gave no score, whose advantages are 0.

    Args:
        rows: All rows of each group: a group that is split has another baseline.
        credit: Scorer, rule and tokenizer.
        estimator: See `token_advantages`.
    """
    check_token_estimator(estimator)
    masks: list[NDArray[Any]] = [
        np.ones(len(row.response_ids)) if row.written is None else np.asarray(row.written)
        for row in rows
    ]
    longest = max((len(row.response_ids) for row in rows), default=0)
    rewards, mask = (torch.zeros(len(rows), longest) for _ in range(2))
    scores = np.zeros(len(rows), dtype=np.float32)
    kept = [number for number, own in enumerate(masks) if own.any()]
    if kept or not rows:  # no rows at all are refused by the credit
        paid = credit(
            [rows[number].response_ids for number in kept],
            prompts=[rows[number].prompt_ids for number in kept],
            references=[
                None if (truth := rows[number].reference) is None else str(truth) for number in kept
            ],
            written=[[int(own) for own in masks[number]] for number in kept],
        )
        scores[kept] = paid.scores
        rewards[kept, : paid.token_rewards.shape[1]] = torch.from_numpy(paid.token_rewards)
    for number, own in enumerate(masks):
        if not np.isnan(scores[number]):
            mask[number, : len(own)] = torch.from_numpy(own.astype(np.float32))
    groups = [row.group for row in rows]
    check_peers(mask, groups, estimator)
    advantages = token_advantages(rewards, mask.bool(), groups, estimator)
    sizes = [len(row.response_ids) for row in rows]
    return CreditedRows(
        scores=scores,
        token_rewards=[row[:size].numpy() for row, size in zip(rewards, sizes, strict=True)],
        advantages=[row[:size].numpy() for row, size in zip(advantages, sizes, strict=True)],
    )
