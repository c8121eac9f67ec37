"""NLPO: PPO that samples among the likeliest tokens of an earlier copy of itself."""

from typing import Any

import torch
from stable_baselines3.common.type_aliases import Schedule

from tokengym.agents.policy.policy import CausalLMPolicy
from tokengym.agents.ppo.experience import Experience
from tokengym.agents.ppo.objective import UpdateStats
from tokengym.agents.ppo.ppo import PPO
from tokengym.agents.rollouts.environments import Environments


class NLPO(PPO):
    """Natural language policy optimisation: PPO with a learned mask over the vocabulary.

    A masking model, a copy of the policy, says which tokens may be sampled: the fewest that have
    ``mask_top_p`` of its probability. Every ``mask_refresh`` updates it becomes the present policy.
    As with top-p, what could be sampled is kept with the sample and counts in update and reference
    alike; the authors' code recomputes the mask there and leaves the reference unmasked.

    Source: Ramamurthy et al. 2023, "Is reinforcement learning (not) for natural language
    processing?", arXiv:2210.01241, algorithm 1 and their default of 0.9.

    Args:
        policy: As for `PPO`.
        env: As for `PPO`.
        learning_rate: As for `PPO`.
        mask_top_p: Probability that the masking model's likeliest tokens must have together.
        mask_refresh: Updates between two refreshes of the masking model.
        policy_kwargs: As for `PPO`.
        settings: The other arguments of `PPO`.

    Raises:
        ValueError: if a setting is out of range.
    """

    sampling_settings = (*PPO.sampling_settings, "mask_top_p")

    def __init__(
        self,
        policy: str | type[CausalLMPolicy],
        env: Environments,
        learning_rate: float | Schedule = 3e-4,
        *,
        mask_top_p: float = 0.9,
        mask_refresh: int = 20,
        policy_kwargs: dict[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        if "mask_top_p" in (policy_kwargs or {}):
            raise ValueError("mask_top_p is a setting of NLPO; pass it beside policy_kwargs")
        if mask_refresh < 1:
            raise ValueError(f"mask_refresh must be an integer >= 1, got {mask_refresh}")
        self.mask_top_p = mask_top_p
        self.mask_refresh = mask_refresh
        kwargs = {**(policy_kwargs or {}), "mask_top_p": mask_top_p}
        super().__init__(policy, env, learning_rate, policy_kwargs=kwargs, **settings)

    def update(self, experience: Experience) -> UpdateStats:
        """Take the gradient steps of one update, and refresh the masking model when it is time."""
        kept = experience.action_masks
        share = 1.0 if kept is None else _allowed_share(kept.table, kept.index, experience)
        self.logger.record("train/mask_share", share)
        stats = super().update(experience)
        if self._n_updates % self.mask_refresh == 0:
            self.policy.refresh_masking_model()
        return stats


def _allowed_share(table: torch.Tensor, index: torch.Tensor, experience: Experience) -> float:
    """Return the mean share of the vocabulary that could be sampled."""
    return float(table.float().mean(1)[index][experience.response_mask].mean())
