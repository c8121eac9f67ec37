"""NLPO: PPO that samples among the likeliest tokens of an earlier copy of itself."""

from typing import TYPE_CHECKING, Any

from tokengym.agents.ppo.experience import Experience, UpdateStats
from tokengym.agents.ppo.ppo import PPO
from tokengym.agents.ppo.settings import NLPOSettings

if TYPE_CHECKING:
    import torch
    from typing_extensions import Unpack

    from tokengym.agents.keywords import NLPOKeywords
    from tokengym.agents.policy.policy import CausalLMPolicy
    from tokengym.agents.policy.settings import Schedule
    from tokengym.agents.rollouts.environments import Environments


class NLPO(PPO):
    """Natural language policy optimisation: PPO with a learned mask over the vocabulary.

    A masking model, a copy of the policy, says which tokens may be sampled: the fewest that have
    ``mask_top_p`` of its probability. Every ``mask_refresh`` updates it becomes the present policy.
    As with top-p, what could be sampled is kept with the sample and counts in update and reference
    alike; the authors' code recomputes the mask there and does not mask the reference.

    Arguments are those of `PPO`, with the fields of `NLPOSettings`.

    Source: Ramamurthy et al. 2023, "Is reinforcement learning (not) for natural language
    processing?", arXiv:2210.01241, algorithm 1 and their default of 0.9.
    """

    settings_class = NLPOSettings
    settings: NLPOSettings

    if TYPE_CHECKING:  # the settings by name, for a user's type checker

        def __init__(
            self,
            policy: str | type[CausalLMPolicy],
            env: Environments,
            learning_rate: float | Schedule | None = None,
            *,
            tensorboard_log: str | None = None,
            policy_kwargs: dict[str, Any] | None = None,
            verbose: int = 0,
            seed: int | None = None,
            device: torch.device | str = "auto",
            **settings: Unpack[NLPOKeywords],
        ) -> None: ...

    def update(self, experience: Experience) -> UpdateStats:
        """Take the gradient steps of one update, and refresh the masking model if it is due."""
        share, kept = 1.0, experience.action_masks  # of the vocabulary, what could be sampled
        if kept is not None:
            shares = kept.shares()  # (batch, time)
            if not kept.has_all:
                shares = self.processes.add(shares.masked_fill(~kept.is_here[:, None], 0.0))
            share = float(shares[experience.response_mask].mean())
        self.logger.record("train/mask_share", share)
        stats = super().update(experience)
        if self._n_updates % self.settings.mask_refresh == 0:
            self.policy.refresh_masking_model()
        return stats
