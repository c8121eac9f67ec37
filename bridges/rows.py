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

from tokengym.base.errors import SettingsError
from tokengym.bridges.advantages import check_peers
from tokengym.bridges.doors import who_has
from tokengym.bridges.functions import Advantage, DoorAdvantage
from tokengym.credit import TokenCredit
from tokengym.rewards import ScorerError
from tokengym.rewards.credits.names import CARRIED


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
    log_probs: Sequence[float] | None = None
    """(time,) nats, of the response tokens as they were sampled, for a rule or advantage that reads
    them."""
    entropy: Sequence[float] | None = None
    """(time,) nats, of the policy before each response token, likewise."""
    reference: Any = None
    """Ground truth, for a scorer that compares with one, which gets it as text: trainers' labels
    are any JSON."""

    @property
    def is_written(self) -> bool:
        """Whether the policy wrote any of its tokens; else it is not scored."""
        return len(self.response_ids) > 0 if self.written is None else any(self.written)


@dataclass(frozen=True, kw_only=True)
class CreditedRows:
    """Scores of rows, and an advantage for each of their response tokens."""

    scores: NDArray[np.float32]
    """(rows,), NaN for a row without a score, and so for one without a token of the policy's."""
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


def check_carried(credit: TokenCredit, trainer: str, **has: str) -> None:
    """Refuse a rule that reads figures of the policy which a trainer does not hand over.

    Args:
        credit: Scorer, rule and tokenizer.
        trainer: Its name, for the message.
        has: Names that it hands over, with the setting under which it does.

    Raises:
        SettingsError: with who has the figure.
    """
    for name in credit.carries:
        if name not in has:
            raise SettingsError(
                f"credit {credit.reward.credit_name!r} reads {name!r}, which {trainer} does not "
                f"hand over; {who_has(name)}, in an advantage"
            )


def carried(
    credit: TokenCredit, trainer: str, log_probs: Sequence[Any] | None, setting: str
) -> dict[str, Any]:
    """Return the figures that a rule reads as `TokenCredit` takes them, or refuse their lack.

    Args:
        credit: Scorer, rule and tokenizer.
        trainer: Its name, for the message.
        log_probs: (rows,) of (time,) nats, as the trainer recorded them; None where it did not.
        setting: What makes the trainer record them.
    """
    check_carried(credit, trainer, log_probs=setting)
    if not credit.carries:
        return {}
    if log_probs is None or any(row is None for row in log_probs):
        raise SettingsError(
            f"credit {credit.reward.credit_name!r} reads 'log_probs', and {trainer} recorded none; "
            f"set {setting}"
        )
    return {"log_probs": log_probs}


def credit_rows(
    rows: Sequence[Row],
    credit: TokenCredit,
    advantage: Advantage = "loo",
    *,
    door: str = "rows",
) -> CreditedRows:
    """Score rows, divide their scores among their tokens, and return the tokens' advantages.

    A row without a token of the policy's is not scored. It is nobody's baseline, nor is one that
    the scorer gave no score: the score of both is NaN, and their advantages are 0.

    Args:
        rows: All rows of each group: a group that is split has another baseline.
        credit: Scorer, rule and tokenizer.
        advantage: "loo", "reinforce", or a function of named inputs, see `Advantage`.
        door: Name of the trainer whose rows they are, in `tokengym.bridges.doors.DOORS`.

    Raises:
        SettingsError: if the function reads what the rows do not say, with who can supply it.
        ValueError: if ``written`` has not one entry for each response token, of any row.
    """
    called = DoorAdvantage(advantage, door, scorer=credit.reward.raw_scorer)
    called.check_credit(credit)
    masks: list[NDArray[Any]] = [
        np.ones(len(row.response_ids)) if row.written is None else np.asarray(row.written)
        for row in rows
    ]
    for number, (row, own) in enumerate(zip(rows, masks, strict=True)):
        if own.shape != (len(row.response_ids),):
            raise ValueError(
                f"written of row {number} has shape {own.shape} for {len(row.response_ids)} "
                "response tokens; pass one entry per token, 1 where the policy wrote it"
            )
    kept = [number for number, row in enumerate(rows) if row.is_written]
    figures = _carried(rows, kept, called, credit)
    longest = max((len(row.response_ids) for row in rows), default=0)
    rewards, mask = (torch.zeros(len(rows), longest, dtype=torch.float32) for _ in range(2))
    scores = np.full(len(rows), np.nan, dtype=np.float32)
    episodes: list[Any] = [None] * len(rows)
    if kept or not rows:  # no rows at all are refused by the credit
        paid = credit(
            [rows[number].response_ids for number in kept],
            prompts=[rows[number].prompt_ids for number in kept],
            references=[
                None if (truth := rows[number].reference) is None else str(truth) for number in kept
            ],
            written=[[int(own) for own in masks[number]] for number in kept],
            **{name: [getattr(rows[number], name) for number in kept] for name in figures},
        )
        scores[kept] = paid.scores
        rewards[kept, : paid.token_rewards.shape[1]] = torch.from_numpy(paid.token_rewards)
        for number, episode in zip(kept, paid.episodes, strict=True):
            episodes[number] = episode
    for number, own in enumerate(masks):
        if not np.isnan(scores[number]):
            mask[number, : len(own)] = torch.from_numpy(own.astype(np.float32))
    groups = [row.group for row in rows]
    if called.word == "loo":
        check_peers(mask, groups, "loo")
    advantages, _ = called(
        rewards,
        mask.bool(),
        groups,
        given={"scores": torch.from_numpy(np.nan_to_num(scores))},
        episodes=episodes,
        tokenizer=credit.tokenizer,
    )
    sizes = [len(row.response_ids) for row in rows]
    return CreditedRows(
        scores=scores,
        token_rewards=[row[:size].numpy() for row, size in zip(rewards, sizes, strict=True)],
        advantages=[row[:size].numpy() for row, size in zip(advantages, sizes, strict=True)],
    )


def _carried(
    rows: Sequence[Row], kept: Sequence[int], called: DoorAdvantage, credit: TokenCredit
) -> list[str]:
    """Return the figures of the policy that are read.

    Raises:
        SettingsError: if one of the ``kept`` rows lacks one, or any row has another number of them.
    """
    wanted = {*called.reads, *credit.carries} & CARRIED
    for number, row in enumerate(rows):
        for name in sorted(wanted):
            values = getattr(row, name)
            if values is None and number not in kept:
                continue
            if values is None or len(values) != len(row.response_ids):
                got = "None" if values is None else f"{len(values)} numbers"
                by = called.name if name in called.reads else credit.reward.credit_name
                raise SettingsError(
                    f"{by!r} reads {name!r}, and row {number} of {len(row.response_ids)} tokens "
                    f"has {got}; pass Row({name}=...), one number for each token"
                )
    return sorted(wanted)
