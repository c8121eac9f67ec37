"""Frozen language models that read finished responses: log-probabilities and entropies."""

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from typing_extensions import Self

from tokengym.base.settings import check_count
from tokengym.base.stored.adapters import unwrapped
from tokengym.envs.episode import Episode
from tokengym.rewards.errors import ScorerError
from tokengym.rewards.models.forward import PaddedBatch, reading
from tokengym.rewards.models.loading import (
    check_lengths,
    check_vocabularies,
    load_pretrained,
    load_tokenizer,
    longest_input,
    vocabulary_size,
)
from tokengym.rewards.scores import Shared

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


FIGURES: Mapping[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "log_probs": lambda logits, tokens: logits.log_softmax(-1).gather(-1, tokens)[..., 0],
    "entropy": lambda logits, _: torch.special.entr(logits.softmax(-1)).sum(-1),
}
"""Figures of tokens: from logits (rows, time, vocab) and tokens (rows, time, 1) to (rows, time)."""
Shape = Callable[[torch.Tensor, int], torch.Tensor]
"""From a model's logits before an episode's tokens, (n, vocab), and the episode's number to those
that tokens are drawn from, as by temperature and action mask."""


class PolicyReader(Shared):
    """A causal language model that reads prompts with finished responses.

    Args:
        model: The language model; put in eval mode while it reads.
        tokenizer: Its tokenizer, compared to the policy's by `bind`; None compares sizes.
        batch_size: Most sequences per pass.
        name: In messages.

    Raises:
        ScorerError: if ``batch_size`` is not positive.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        *,
        tokenizer: "PreTrainedTokenizerBase | None" = None,
        batch_size: int = 32,
        name: str = "",
    ) -> None:
        self.model = model = unwrapped(model)
        self.tokenizer = tokenizer
        self.num_tokens: int | None = None if tokenizer is None else len(tokenizer)
        """Tokens of the vocabulary; further rows of the head have no probability."""
        self.batch_size = batch_size
        check_count(self, "batch_size", error=ScorerError)
        self.name = name or type(self).__name__
        parameters = inspect.signature(model.base_model.forward).parameters
        self._takes_positions = "position_ids" in parameters

    @classmethod
    def from_pretrained(
        cls, path: str | Path, *, device: str = "auto", dtype: str = "float32"
    ) -> Self:
        """Return the reader of a stored language model, or of a saved agent's policy.

        Args:
            path: Folder or hub name of a model or of adapters, or a folder that an agent's ``save``
                or ``tokengym train`` wrote; adapters are merged.
            device: "auto" takes a GPU if there is one.
            dtype: Type of the weights.

        Raises:
            ScorerError: if there is no such model.
        """
        from transformers import AutoModelForCausalLM

        model: Any = load_pretrained(AutoModelForCausalLM, path, dtype=dtype, device=device)
        name = f"{cls.__name__}({Path(path).name})"
        return cls(model, tokenizer=load_tokenizer(path), name=name)

    def bind(self, tokenizer: "PreTrainedTokenizerBase") -> Self:
        """Return the reader of this vocabulary, after comparing it with the model's.

        Raises:
            TokenizerError: if an id would be outside the model, or mean another word.
        """
        size = vocabulary_size(self.model)
        check_vocabularies(policy=tokenizer, model=self.tokenizer, size=size, name=self.name)
        if self.num_tokens == len(tokenizer):
            return self
        bound = copy.copy(self)
        bound.num_tokens = len(tokenizer)
        return bound

    def batches(self, episodes: Sequence[Episode]) -> Iterator[PaddedBatch]:
        """Yield prompts and responses as padded batches, refusing what the model cannot read."""
        sequences = [[*episode.prompt_ids, *episode.response_ids] for episode in episodes]
        check_lengths(sequences, longest_input(self.model), self.name)
        with reading(
            self.model, sequences, batch_size=self.batch_size, positions=self._takes_positions
        ) as batches:
            yield from batches

    def log_probs(self, episodes: Sequence[Episode]) -> list[NDArray[np.float64]]:
        """Return, per episode, log pi(y_t | x, y_<t) of its tokens, (n,) nats.

        Neither temperature nor action mask is applied.
        """
        return self.figures(episodes, ["log_probs"])["log_probs"]

    def entropies(self, episodes: Sequence[Episode]) -> list[NDArray[np.float64]]:
        """Return, per episode, the entropy of pi( | x, y_<t) before each token, (n,) nats."""
        return self.figures(episodes, ["entropy"])["entropy"]

    def hidden_states(self, episodes: Sequence[Episode]) -> list[NDArray[np.float64]]:
        """Return, per episode, the last layer's states before each token, (n, width)."""
        result = [np.zeros((0, 0))] * len(episodes)
        for batch in self.batches(episodes):
            states = self.model.base_model(**batch.tensors, use_cache=False)[0]
            table = states.double().cpu().numpy()
            for place, index in enumerate(batch.indices):
                start = len(episodes[index].prompt_ids) - 1
                result[index] = table[place, start : start + len(episodes[index].response_ids)]
        return result

    def figures(
        self, episodes: Sequence[Episode], names: Sequence[str], *, shape: Shape | None = None
    ) -> dict[str, list[NDArray[np.float64]]]:
        """Return figures of each token by name, (n,) nats per episode, all from one pass.

        Args:
            episodes: Finished episodes.
            names: "log_probs" or "entropy", as the methods above return them.
            shape: How a sampler shapes logits; None takes them as they are.

        Raises:
            ScorerError: if a prompt is empty, or a text too long for the model.
        """
        if any(len(one.prompt_ids) == 0 and len(one.response_ids) > 0 for one in episodes):
            raise ScorerError(
                f"{self.name} reads at least one token before a response, and a prompt is empty; "
                "pass prompts=, or a prompt of the BOS token alone"
            )
        result = {name: [np.zeros(0)] * len(episodes) for name in names}
        for batch in self.batches(episodes):
            logits = self.model(**batch.tensors, use_cache=False).logits
            logits = logits[:, :-1, : self.num_tokens].float()
            tokens = batch.tensors["input_ids"][:, 1:, None]
            spans = []
            for index in batch.indices:
                start = len(episodes[index].prompt_ids) - 1
                spans.append(slice(start, start + len(episodes[index].response_ids)))
            if shape is not None:
                for place, (index, span) in enumerate(zip(batch.indices, spans, strict=True)):
                    logits[place, span] = shape(logits[place, span], index)
            for name, rows in result.items():
                table = FIGURES[name](logits, tokens).double().cpu().numpy()
                for place, (index, span) in enumerate(zip(batch.indices, spans, strict=True)):
                    rows[index] = table[place, span]
        return result
