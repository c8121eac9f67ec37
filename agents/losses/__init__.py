"""Losses, advantages and divergences: pure functions of tensors."""

from tokengym.agents.losses.policy import (
    KL_ESTIMATORS,
    adaptive_kl_coef,
    check_shapes,
    entropy,
    full_kl,
    gae,
    kl_estimate,
    masked_mean,
    masked_whiten,
    policy_loss,
    value_loss,
)
from tokengym.agents.losses.preference import (
    Ratios,
    check_dpo_settings,
    cpo_loss,
    dpo_loss,
    dpop_loss,
    kto_loss,
    orpo_loss,
    rpo_loss,
    simpo_loss,
)

__all__ = [
    "KL_ESTIMATORS",
    "Ratios",
    "adaptive_kl_coef",
    "check_dpo_settings",
    "check_shapes",
    "cpo_loss",
    "dpo_loss",
    "dpop_loss",
    "entropy",
    "full_kl",
    "gae",
    "kl_estimate",
    "kto_loss",
    "masked_mean",
    "masked_whiten",
    "orpo_loss",
    "policy_loss",
    "rpo_loss",
    "simpo_loss",
    "value_loss",
]
