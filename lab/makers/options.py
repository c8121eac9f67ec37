"""Sizes and steps of a bundle from labelled texts, and what is refused; without torch."""

from dataclasses import dataclass


class BuildError(ValueError):
    """The bundle cannot be built; the message names the value and the remedy."""


@dataclass(frozen=True, kw_only=True)
class CorpusOptions:
    """Sizes and steps; the defaults suit about 7,000 short sentences and one core.

    Raises:
        BuildError: if steps or dropout are out of range.
    """

    vocab_size: int = 2000
    """Tokens of the corpus's byte-level BPE."""
    layers: int = 2
    """Transformer blocks of the corpus's models."""
    width: int = 96
    """Hidden size of the corpus's models."""
    heads: int = 4
    """Attention heads of the corpus's models."""
    language_steps: int = 2000
    """Optimiser steps of the corpus's language model, 32 texts each."""
    reward_steps: int = 400
    """Optimiser steps of each of the corpus's two reward models, 64 texts each."""
    dropout: float = 0.1
    """While training the corpus's language model; the stored models have none."""
    reward_dropout: float = 0.3
    """While training the corpus's reward models; each sees half of the labels, and overfits
    sooner."""
    encoder_steps: int = 0
    """Optimiser steps of an encoder, 32 texts each, which `r3` reads; 500 are enough for the
    defaults' corpus, and 0 trains none."""

    def __post_init__(self) -> None:
        if self.encoder_steps < 0:
            raise BuildError(f"encoder_steps must be >= 0, got {self.encoder_steps}")
        if min(self.language_steps, self.reward_steps) < 1 or not all(
            0 <= dropout < 1 for dropout in (self.dropout, self.reward_dropout)
        ):
            raise BuildError(
                "steps must be >= 1 and dropout in [0, 1), got language_steps "
                f"{self.language_steps}, reward_steps {self.reward_steps}, dropout "
                f"{self.dropout}, reward_dropout {self.reward_dropout}"
            )
