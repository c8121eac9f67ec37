"""The frozen reference of a policy: a copy of its model, or the model with its adapters off."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers import PreTrainedModel

from tokengym.agents.policy.language_model import LanguageModel, load_causal_lm


def make_reference(
    policy: LanguageModel, model: str | Path | PreTrainedModel | None, dtype: str
) -> LanguageModel | None:
    """Return the frozen model that the KL is measured to; None: the policy with its adapters off.

    Args:
        policy: The policy's language model, before it learns.
        model: The reference where it is not the policy as it is now.
        dtype: See `load_causal_lm`.
    """
    if model is not None:
        reference = LanguageModel(load_causal_lm(model, dtype).requires_grad_(False))
        reference.autocasts = policy.autocasts
        return reference
    return policy.frozen_copy() if policy.adapters is None else None


@contextmanager
def reference_weights(
    policy: LanguageModel, reference: LanguageModel | None
) -> Iterator[LanguageModel]:
    """Yield the model to compute the reference with; see `make_reference`."""
    if reference is not None:
        yield reference
        return
    assert policy.adapters is not None
    with policy.adapters.disable_adapter():
        yield policy
