"""Losses, advantages and divergences: pure functions of tensors."""

from typing import TYPE_CHECKING

from tokengym.base.plugins import lazily

if TYPE_CHECKING:
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

__getattr__, __dir__, __all__ = lazily(__name__)
