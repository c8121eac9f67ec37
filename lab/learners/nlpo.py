"""NLPO: PPO that samples among the likeliest tokens of an earlier copy of itself."""

from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from tokengym.agents import PPO, CausalLMPolicy, likeliest, shape_logits
from tokengym.lab.learners.settings import NLPOSettings

MASKING_MODEL = "masking_model"
"""Name of the masking model among the policy's auxiliary ones."""


class MaskedPolicy(CausalLMPolicy):
    """A policy that samples among the likeliest tokens of a masking model beside it."""

    mask_top_p = 1.0
    """Probability that these tokens have together."""

    def sampling_logits(
        self,
        logits: Tensor,
        action_mask: Tensor | None,
        *auxiliary_states: Tensor,
        temperature: float | Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """See `CausalLMPolicy.sampling_logits`."""
        if not auxiliary_states:
            return super().sampling_logits(logits, action_mask, temperature=temperature)
        masking_logits = shape_logits(
            self.auxiliary_models[MASKING_MODEL].logits(*auxiliary_states),
            temperature=self.temperature if temperature is None else temperature,
            action_mask=action_mask,
            num_actions=self.num_actions,
        )
        keep = likeliest(masking_logits, top_p=self.mask_top_p)
        if keep is not None:  # its tokens are allowed ones
            action_mask = keep
        logits, fewer = super().sampling_logits(logits, action_mask, temperature=temperature)
        return logits, keep if fewer is None else fewer


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

    policy_aliases: ClassVar[dict[str, Any]] = {"CausalLMPolicy": MaskedPolicy}
    settings_class = NLPOSettings
    settings: NLPOSettings
    policy: MaskedPolicy  # type: ignore[assignment]
    built_in = PPO.built_in | {"mask_top_p"}

    if TYPE_CHECKING:  # PPO's keywords, of any type, and its own by name

        def __init__(
            self, *args: Any, mask_top_p: float = ..., mask_refresh: int = ..., **settings: Any
        ) -> None: ...

    def _setup_model(self) -> None:
        super()._setup_model()
        self.policy.auxiliary_models[MASKING_MODEL] = self.policy.language_model.frozen_copy()
        self.policy.mask_top_p = self.settings.mask_top_p

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
            present = self.policy.language_model.model.state_dict()
            self.policy.auxiliary_models[MASKING_MODEL].model.load_state_dict(present)
        return stats
