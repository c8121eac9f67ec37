"""Losses, advantages and divergences: pure functions of tensors, each imported when it is used."""

from typing import TYPE_CHECKING

from tokengym.base.plugins import lazily

if TYPE_CHECKING:
    from tokengym.agents.losses.advantages import check_groups as check_groups
    from tokengym.agents.losses.advantages import dr_grpo as dr_grpo
    from tokengym.agents.losses.advantages import gae as gae
    from tokengym.agents.losses.advantages import grpo as grpo
    from tokengym.agents.losses.advantages import leave_one_out as leave_one_out
    from tokengym.agents.losses.advantages import mean_one as mean_one
    from tokengym.agents.losses.advantages import rewards_to_go as rewards_to_go
    from tokengym.agents.losses.advantages import rewards_within as rewards_within
    from tokengym.agents.losses.advantages import rloo as rloo
    from tokengym.agents.losses.advantages import varied_groups as varied_groups
    from tokengym.agents.losses.policy import KL_ESTIMATORS as KL_ESTIMATORS
    from tokengym.agents.losses.policy import adaptive_kl_coef as adaptive_kl_coef
    from tokengym.agents.losses.policy import at_least_float32 as at_least_float32
    from tokengym.agents.losses.policy import check_shapes as check_shapes
    from tokengym.agents.losses.policy import clipped_loss as clipped_loss
    from tokengym.agents.losses.policy import entropy as entropy
    from tokengym.agents.losses.policy import full_kl as full_kl
    from tokengym.agents.losses.policy import kl_estimate as kl_estimate
    from tokengym.agents.losses.policy import loss_weights as loss_weights
    from tokengym.agents.losses.policy import masked_mean as masked_mean
    from tokengym.agents.losses.policy import masked_std as masked_std
    from tokengym.agents.losses.policy import masked_whiten as masked_whiten
    from tokengym.agents.losses.policy import no_spread as no_spread
    from tokengym.agents.losses.policy import policy_loss as policy_loss
    from tokengym.agents.losses.policy import value_loss as value_loss
    from tokengym.agents.losses.preference import PREFERENCE_LOSSES as PREFERENCE_LOSSES
    from tokengym.agents.losses.preference import PreferenceFormula as PreferenceFormula
    from tokengym.agents.losses.preference import Ratios as Ratios
    from tokengym.agents.losses.preference import check_preference_loss as check_preference_loss
    from tokengym.agents.losses.preference import dpo_loss as dpo_loss
    from tokengym.agents.losses.preference import (
        register_preference_loss as register_preference_loss,
    )
    from tokengym.agents.losses.ranking import Choice as Choice
    from tokengym.agents.losses.ranking import best_against_worst as best_against_worst
    from tokengym.agents.losses.ranking import best_of as best_of
    from tokengym.agents.losses.ranking import best_of_n_kl_bound as best_of_n_kl_bound
    from tokengym.agents.losses.ranking import mean_of_best as mean_of_best

__getattr__, __dir__, __all__ = lazily(__name__)
