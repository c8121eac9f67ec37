"""Losses, advantages and divergences: pure functions of tensors."""

from tokengym.agents.losses.advantages import (
    gae,
    rewards_to_go,
    rewards_within,
)
from tokengym.agents.losses.groups import (
    check_groups,
    dr_grpo,
    grpo,
    leave_one_out,
    rloo,
    varied_groups,
)
from tokengym.agents.losses.kl import (
    KL_ESTIMATORS,
    adaptive_kl_coef,
    entropy,
    full_kl,
    kl_estimate,
)
from tokengym.agents.losses.masks import (
    check_shapes,
    masked_mean,
    masked_std,
    masked_whiten,
)
from tokengym.agents.losses.policy import (
    loss_weights,
    policy_loss,
    value_loss,
)
from tokengym.agents.losses.preference import (
    PREFERENCE_LOSSES,
    PreferenceFormula,
    Ratios,
    check_preference_loss,
    dpo_loss,
    register_preference_loss,
)
from tokengym.agents.losses.weights import (
    entropy_bonus_weights,
    mean_one,
    softmax_weights,
    top_weights,
)

__all__ = [
    "KL_ESTIMATORS",
    "PREFERENCE_LOSSES",
    "PreferenceFormula",
    "Ratios",
    "adaptive_kl_coef",
    "check_groups",
    "check_preference_loss",
    "check_shapes",
    "dpo_loss",
    "dr_grpo",
    "entropy",
    "entropy_bonus_weights",
    "full_kl",
    "gae",
    "grpo",
    "kl_estimate",
    "leave_one_out",
    "loss_weights",
    "masked_mean",
    "masked_std",
    "masked_whiten",
    "mean_one",
    "policy_loss",
    "register_preference_loss",
    "rewards_to_go",
    "rewards_within",
    "rloo",
    "softmax_weights",
    "top_weights",
    "value_loss",
    "varied_groups",
]
