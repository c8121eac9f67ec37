"""NLPO: PPO that samples among the likeliest tokens of an earlier copy of itself."""

from typing import TYPE_CHECKING, Any

from tokengym.agents import PPO
from tokengym.lab.learners.settings import NLPOSettings


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
    built_in = PPO.built_in | {"mask_top_p"}

    if TYPE_CHECKING:  # PPO's keywords, of any type, and its own by name

        def __init__(
            self, *args: Any, mask_top_p: float = ..., mask_refresh: int = ..., **settings: Any
        ) -> None: ...

    def _setup_model(self) -> None:
        super()._setup_model()
        masking_model = self.policy.language_model.frozen_copy()
        self.policy.sample_within(masking_model, self.settings.mask_top_p)

    def update(self, experience: Any) -> Any:
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
            assert self.policy.masking_model is not None
            present = self.policy.language_model.model.state_dict()
            self.policy.masking_model.model.load_state_dict(present)
        return stats
