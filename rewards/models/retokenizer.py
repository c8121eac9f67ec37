"""Reading a policy's episodes with a reward model of another tokenizer."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tokengym.envs.episode import Episode
from tokengym.envs.errors import TokenizerError
from tokengym.rewards.attribution.alignment import Span, continued_spans, spread_by_overlap

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Retokenized(NamedTuple):
    """One episode in another tokenizer's ids, and how its response's tokens lie on the policy's."""

    ids: list[int]
    """Prompt and response."""
    sources: list[Span]
    """Characters of the response under each of its tokens here; the closing EOS has none."""
    targets: list[Span]
    """Characters of the response under each of the policy's tokens."""
    closed: bool
    """Whether the last id is an EOS that stands for the policy's."""

    @property
    def size(self) -> int:
        """How many of the ids belong to the response."""
        return len(self.sources) + self.closed

    def spread(self, shares: ArrayLike) -> NDArray[np.float64]:
        """Return shares of the response's tokens here on the policy's tokens; the sum is kept.

        Args:
            shares: (size,).
        """
        shares = np.asarray(shares, dtype=np.float64)
        inner = shares[: len(self.sources)]
        spread = spread_by_overlap(inner, self.sources, self.targets)
        if self.closed:
            spread[-1] += shares[-1]  # EOS is EOS
        return spread


class Retokenizer:
    """Writes the text of an episode in a model's own tokens.

    The text is the prompt as written and what the response's ids add to it when they are decoded
    behind the prompt's; it is tokenised as one, with the special tokens that the model's tokenizer
    puts in front. An EOS that ends the response is the model's EOS too, if it has one.

    Args:
        policy: What made the ids.
        own: The model's tokenizer, a fast one.

    Raises:
        TokenizerError: if it gives no character offsets.
    """

    def __init__(self, policy: "PreTrainedTokenizerBase", own: "PreTrainedTokenizerBase") -> None:
        if not own.is_fast:
            raise TokenizerError(
                f"{type(own).__name__} gives no character offsets, so credit cannot travel from "
                "it to the policy's tokens; load the fast tokenizer"
            )
        self.policy = policy
        self.own = own

    def __call__(self, episodes: Sequence[Episode]) -> list[Retokenized]:
        """Return the episodes in the model's tokens."""
        return [self._read(episode) for episode in episodes]

    def _read(self, episode: Episode) -> Retokenized:
        prompt_ids, response_ids = list(episode.prompt_ids), list(episode.response_ids)
        added, targets = continued_spans(self.policy, prompt_ids, response_ids)
        start, text = len(episode.prompt), episode.prompt + added
        ids, offsets = self._tokenize(text)
        # The first token that reaches into the response may begin in the prompt.
        first = next((i for i, (_, end) in enumerate(offsets) if end > start), len(ids))
        sources = [(max(a - start, 0), max(b - start, 0)) for a, b in offsets[first:]]
        closed = (
            bool(response_ids)
            and response_ids[-1] == self.policy.eos_token_id
            and self.own.eos_token_id is not None
        )
        if closed:
            ids = [*ids, int(self.own.eos_token_id)]
        return Retokenized(ids, sources, targets, closed)

    def _tokenize(self, text: str) -> tuple[list[int], list[Span]]:
        """Return ids and offsets, without a second BOS and without a trailing EOS."""
        bos, eos = self.own.bos_token, self.own.eos_token
        tokens = self.own(
            text,
            add_special_tokens=not (bos and text.startswith(bos)),
            return_offsets_mapping=True,
            return_attention_mask=False,
            truncation=False,
            verbose=False,
        )
        ids, offsets = list(tokens["input_ids"]), list(tokens["offset_mapping"])
        if ids and ids[-1] == self.own.eos_token_id and not text.endswith(eos):
            ids, offsets = ids[:-1], offsets[:-1]
        return ids, offsets
