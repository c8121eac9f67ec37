"""RTO: token rewards from the log-ratio of a DPO-trained policy, the score on the last token."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from tokengym.base import check_number
from tokengym.rewards import CreditError, on_last, token_credit

if TYPE_CHECKING:
    from torch import Tensor

    from tokengym.rewards import Source


def _check(options: SimpleNamespace) -> None:
    check_number(options, "beta", least=0, finite=True, error=CreditError)
    options.reference = options.reference or _saved_reference(options.policy)


@token_credit(conserves=False, check=_check, models={"policy": "language"})
def rto(
    paid: Tensor,
    response_mask: Tensor,
    policy_log_probs: Tensor,
    ref_log_probs: Tensor,
    beta: float = 0.1,
) -> Tensor:
    """Each token earns how much likelier DPO made it, and the last one the score as well.

    r_t = beta * (log pi_dpo(y_t | x, y_<t) - log pi_ref(y_t | x, y_<t)) + R * 1[t = n - 1]

    The log-probabilities are the models' own, without temperature or action mask. The paper's price
    on the KL is the learner's (``kl_coef``). The rewards sum to the score plus beta times the
    response's log-ratio, not to the score.

    Args:
        paid: R.
        response_mask: The tokens.
        policy_log_probs: log pi_dpo, of ``policy=PATH``: what ``tokengym train --agent dpo`` or
            ``DPO.save`` wrote, or folder or hub name of a language model.
        ref_log_probs: log pi_ref, of ``reference=PATH``, else of the reference saved with the
            policy, else of the bundle's policy.
        beta: Reward units per nat. 0.1 is DPO's usual beta, at which the log-ratio is DPO's own
            implicit reward; 0 leaves `sparse`.

    Source: Zhong et al. 2024, "DPO Meets PPO: Reinforced Token Optimization for RLHF",
    arXiv:2404.18922; implicit reward: Rafailov et al. 2024, arXiv:2404.12358.
    """
    log_ratio = policy_log_probs - ref_log_probs
    return beta * log_ratio + on_last(paid, response_mask)


def _saved_reference(policy: Source) -> Path | None:
    """Return the folder of the reference that was saved with a policy, None if there is none."""
    if not isinstance(policy, str | Path):
        return None
    places = (Path(policy) / "reference", Path(policy) / "agent" / "reference")
    return next((folder for folder in places if folder.is_dir()), None)
