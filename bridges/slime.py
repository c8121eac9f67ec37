"""Token credit in slime, never run inside it: rewards of whole groups, read on every rank.

A module of your own, such as ``my_credit.py``, has the two functions that slime's options name:

    from transformers import AutoTokenizer
    from tokengym import TokenCredit
    from tokengym.bridges.slime import TokenCreditRewards, advantages

    tokenizer = AutoTokenizer.from_pretrained("path/to/policy")
    credit = TokenCredit("path/to/reward_model", "abc-signed", tokenizer=tokenizer)
    rewards = TokenCreditRewards(credit)

    --custom-reward-post-process-path my_credit.rewards
    --custom-advantage-function-path my_credit.advantages

slime calls the first where all samples of a rollout are together, so that groups are whole, and the
second on each rank. Written from slime at 624b824 (August 2026), whose own samples were paid.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from tokengym.base.errors import SettingsError
from tokengym.bridges.functions import Advantage, as_door_advantage
from tokengym.bridges.rows import Row, check_scored, credit_rows
from tokengym.credit import TokenCredit

logger = logging.getLogger(__name__)


class TokenCreditRewards:
    """slime's post-processing of rewards: a list of advantages for each sample.

    Args:
        credit: Scorer, rule and tokenizer.
        advantage: "loo", "reinforce", or a function of named inputs, see `Advantage`.
    """

    def __init__(self, credit: TokenCredit, advantage: Advantage = "loo") -> None:
        self.credit, self.advantage = (
            credit,
            as_door_advantage(advantage, "slime", scorer=credit.reward.raw_scorer),
        )

    def __call__(self, args: Any, samples: Sequence[Any]) -> tuple[list[float], list[list[float]]]:
        """Return each sample's score, and the advantages of its response tokens.

        slime needs a number for each sample: one whose loss mask is empty is not scored and has 0
        in slime's log, which is said once. It is nobody's baseline and nothing is learned from it.

        Raises:
            ScorerError: if a sample that the policy wrote has no score.
            SettingsError: under settings that would take the advantages for scores, or if a sample
                does not name its group, which the advantage reads.
        """
        if args.custom_advantage_function_path is None:
            raise SettingsError(
                "slime would take the advantages for scores; set --custom-advantage-function-path "
                "to tokengym.bridges.slime.advantages"
            )
        if args.context_parallel_size > 1:
            raise SettingsError(
                f"context_parallel_size={args.context_parallel_size} splits responses over ranks, "
                "which token advantages do not follow; set it to 1"
            )
        rows = []
        for number, sample in enumerate(samples):
            if sample.group_index is None and self.advantage.reads_groups:
                raise SettingsError(
                    f"sample {number} has group_index=None, so that its prompt's other samples are "
                    "not known; set it in your rollout function, or take advantage='reinforce'"
                )
            size = sample.response_length
            mask = [0] * size if sample.remove_sample else sample.loss_mask
            rows.append(
                Row(
                    prompt_ids=sample.tokens[: len(sample.tokens) - size],
                    response_ids=sample.tokens[len(sample.tokens) - size :],
                    group=sample.group_index,
                    written=mask,
                    log_probs=getattr(sample, "rollout_log_probs", None),
                    reference=sample.label,
                )
            )
        credited = credit_rows(rows, self.credit, self.advantage)
        is_written = np.array([row.is_written for row in rows], dtype=bool)
        check_scored(credited.scores[is_written], "slime")
        if not is_written.all():
            _say_unscored()
        scores = np.where(is_written, credited.scores, np.float32(0))
        return scores.tolist(), [row.tolist() for row in credited.advantages]


@functools.cache
def _say_unscored() -> None:
    """Log, once, what slime is told of samples that nobody scores."""
    logger.warning(
        "samples whose loss mask is empty (remove_sample too) are not scored: slime gets 0 as "
        "their score, which lowers or raises the mean reward that it logs; they are nobody's "
        "baseline, and nothing is learned from them"
    )


def advantages(args: Any, rollout_data: dict[str, Any]) -> None:
    """Put the advantages of `TokenCreditRewards` where slime reads them, on this rank."""
    del args
    like = rollout_data["kl"]  # (samples,) of (time,), on the rank's device
    rows = [
        torch.tensor(row, dtype=torch.float32, device=kl.device)
        for row, kl in zip(rollout_data["rewards"], like, strict=True)
    ]
    rollout_data["advantages"] = rollout_data["returns"] = rows
