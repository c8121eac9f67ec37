"""A model that an option names, with its names of one batch: ``policy.log_probs``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokengym.rewards.credits.inputs import Inputs
from tokengym.rewards.credits.names import ACCOUNTS, NAMES
from tokengym.rewards.scorers.base import Scorer


class ModelNames:
    """Names of a batch under a language model or a reward model of its own.

    Args:
        model: A `PolicyReader` or a `RewardModel`.
        inputs: The batch.
        names: Names that may be read of it, so that what one pass gives comes from one.
    """

    def __init__(self, model: Any, inputs: Inputs, names: Sequence[str] = ()) -> None:
        self.model, self.is_scorer = model, isinstance(model, Scorer)
        kind: dict[str, Any] = {"scorer" if self.is_scorer else "reference": model}
        if self.is_scorer:
            kinds = model.attribution_kinds or ()
            reads = [name for name in names if ACCOUNTS.get(name) in kinds]
        else:
            reads = [f"ref_{name}" for name in names]
        self.inputs = Inputs(
            inputs.episodes, tokenizer=inputs.tokenizer, dtype=inputs.dtype, reads=reads, **kind
        )
        self.inputs.shape = inputs.shape

    @property
    def config(self) -> dict[str, Any]:
        """The model's configuration, by key."""
        config: dict[str, Any] = self.model.model.config.to_dict()
        return config

    def __getattr__(self, name: str) -> Any:
        """Return what stands for a name."""
        if self.is_scorer:
            known = [one for one, entry in NAMES.items() if entry.supplier == "scorer"]
        else:
            known = [
                one.removeprefix("ref_")
                for one, entry in NAMES.items()
                if entry.supplier == "reference"
            ]
        if name not in known:
            raise AttributeError(f"a model has no {name!r}; it has {', '.join(known)}")
        return self.inputs[name if self.is_scorer else f"ref_{name}"]
