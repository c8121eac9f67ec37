"""Losses, advantages and divergences: pure functions of tensors."""

from tokengym.agents.losses.advantages import (
    check_groups,
    dr_grpo,
    gae,
    grpo,
    leave_one_out,
    mean_one,
    rewards_to_go,
    rewards_within,
    rloo,
    varied_groups,
)
from tokengym.agents.losses.policy import (
    KL_ESTIMATORS,
    adaptive_kl_coef,
    at_least_float32,
    check_shapes,
    clipped_loss,
    entropy,
    full_kl,
    kl_estimate,
    loss_weights,
    masked_mean,
    masked_std,
    masked_whiten,
    no_spread,
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
from tokengym.agents.losses.ranking import (
    Choice,
    best_against_worst,
    best_of,
    best_of_n_kl_bound,
    mean_of_best,
)

__all__ = [
    "KL_ESTIMATORS",
    "PREFERENCE_LOSSES",
    "Choice",
    "PreferenceFormula",
    "Ratios",
    "adaptive_kl_coef",
    "at_least_float32",
    "best_against_worst",
    "best_of",
    "best_of_n_kl_bound",
    "check_groups",
    "check_preference_loss",
    "check_shapes",
    "clipped_loss",
    "dpo_loss",
    "dr_grpo",
    "entropy",
    "full_kl",
    "gae",
    "grpo",
    "kl_estimate",
    "leave_one_out",
    "loss_weights",
    "masked_mean",
    "masked_std",
    "masked_whiten",
    "mean_of_best",
    "mean_one",
    "no_spread",
    "policy_loss",
    "register_preference_loss",
    "rewards_to_go",
    "rewards_within",
    "rloo",
    "value_loss",
    "varied_groups",
]


def __dir__() -> list[str]:
    """Return the public names alone: modules of the package are no part of it."""
    return __all__
