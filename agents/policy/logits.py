"""The models of a policy, and the logits that its tokens are drawn from."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor

from tokengym.agents.errors import ModelError
from tokengym.agents.policy.door import fast
from tokengym.agents.policy.language_model import LanguageModel
from tokengym.agents.policy.sampling import likeliest, shape_logits
from tokengym.agents.policy.settings import PolicySettings
from tokengym.agents.policy.value import ValueFunction

logger = logging.getLogger(__name__)


class ShapesLogits(BasePolicy):
    """A policy's models with temperature, action mask and sampling support; samplers read it."""

    settings: PolicySettings
    language_model: LanguageModel
    """The policy's own."""
    reference: LanguageModel | None
    """The frozen reference; None: the policy with its adapters off."""
    critic: ValueFunction | None
    masking_model: LanguageModel | None
    """The one whose top-p tokens are sampled among; None without ``mask_top_p``."""
    decoders: list[Any]
    """Memory that rounds by captured steps keep from one to the next."""
    temperature: float
    num_actions: int
    """Size of the vocabulary of the environment; a model may have more rows."""

    @contextmanager
    def weights(self, reference: bool) -> Iterator[LanguageModel]:
        """Yield the model to compute with: the policy, or the frozen reference."""
        if not reference:
            yield self.language_model
        elif self.reference is not None:
            yield self.reference
        else:  # the policy with its adapters off
            assert self.language_model.adapters is not None
            with self.language_model.adapters.disable_adapter():
                yield self.language_model

    @property
    def kernels(self) -> bool:
        """Whether kernels compute; see `PolicySettings.kernels`."""
        wanted = self.settings.kernels
        if wanted == "plain" or (wanted == "auto" and self.device.type != "cuda"):
            return False
        fault = _fault_of_kernels(self.device)
        if fault and wanted == "triton":
            raise ModelError(f"kernels='triton' does not work, use 'auto' or 'plain': {fault}")
        return fault is None

    @property
    def decoding_dtype(self) -> torch.dtype | None:
        """Precision of the weights that static decoding copies; None: their own."""
        return torch.bfloat16 if self.settings.precision == "bf16-mixed" else None

    def shaped_logits(
        self, states: Tensor, action_mask: Tensor | None, *, reference: bool = False
    ) -> Tensor:
        """Return the logits tokens are drawn from, after temperature and action mask.

        Args:
            states: (n, hidden).
            action_mask: (n or 1, vocab) bool, or None.
            reference: Use the frozen reference instead of the policy.

        Returns:
            (n, vocab) float32.
        """
        with self.weights(reference) as language_model:
            return self.shaped(language_model.logits(states), action_mask)

    def shaped(
        self,
        logits: Tensor,
        action_mask: Tensor | None,
        temperature: float | Tensor | None = None,
    ) -> Tensor:
        """Return a model's logits, (n, vocab), after temperature and action mask.

        Args:
            logits: (n, vocab), as the model gives them.
            action_mask: (n or 1, vocab) bool, or None.
            temperature: The temperature, () where a captured step reads it; None: the policy's.
        """
        if logits.shape[-1] > self.num_actions:
            logits = logits[..., : self.num_actions]
        given = self.temperature if temperature is None else temperature
        return shape_logits(logits, temperature=given, action_mask=action_mask)

    def support(
        self,
        logits: Tensor,
        action_mask: Tensor | None,
        masking_states: Tensor | None = None,
        *,
        temperature: float | Tensor | None = None,
    ) -> Tensor | None:
        """Return the tokens to sample among, (n, vocab) bool; None for all.

        Args:
            logits: (n, vocab), shaped.
            action_mask: (n or 1, vocab) bool, or None.
            masking_states: (n, hidden) of the masking model, where there is one.
            temperature: See `shaped`.
        """
        settings, keep = self.settings, None
        if self.masking_model is not None and masking_states is not None:
            masking_logits = self.masking_model.logits(masking_states)
            masking_logits = self.shaped(masking_logits, action_mask, temperature)
            keep = likeliest(masking_logits, top_p=settings.mask_top_p or 1.0)
        if settings.top_k == 0 and settings.top_p == 1.0:
            return keep
        among = logits if keep is None else logits.masked_fill(~keep, -torch.inf)
        fewer = likeliest(among, top_k=settings.top_k, top_p=settings.top_p)
        return keep if fewer is None else fewer


@cache
def _fault_of_kernels(device: torch.device) -> str | None:
    """Return why a device cannot use the kernels, which is logged once; None where it can."""
    try:
        fast().check_kernels(device)
    except (ImportError, ModelError) as error:
        logger.warning("kernels are not used, which is slower: %s", error)
        return str(error)
    return None
