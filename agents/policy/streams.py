"""The texts under a model while they are written: what was read is cached.

A `Sampler` chooses the tokens; see `tokengym.agents.policy.sampler`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from tokengym.agents.errors import ModelError
from tokengym.agents.policy.backend import backend
from tokengym.agents.policy.language_model import CausalLM, full_precision
from tokengym.rewards.models.loading import longest_input

REMEDY = "use a decoder-only transformer such as GPT-2, Llama or Qwen"


class Stream(Protocol):
    """Texts being written, one per row."""

    @property
    def appends(self) -> bool:
        """Whether `append` takes several tokens; else texts with more are to be read anew."""

    def start(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Read prompts, perhaps anew; return the hidden states of their last tokens.

        Ids and mask are (rows, width) int64, padded on the left; the states (rows, hidden).
        """

    def step(self, tokens: Tensor) -> Tensor:
        """Append one token to every row, (rows,); return its hidden states, (rows, hidden)."""

    def append(self, tokens: Tensor, counts: Tensor) -> Tensor:
        """Append counts of tokens, (rows,) >= 1, in one pass; return states of each row's last.

        The tokens are (sum of counts,) int64, row after row; the states (rows, hidden).
        """

    def logits(self, states: Tensor) -> Tensor:
        """Return the logits of such states: (rows, hidden) -> (rows, vocab)."""

    def keep(self, rows: Tensor) -> None:
        """Continue with some of the rows only: (kept,) int64, ascending."""


READ_NOTES: list[Callable[[int], None]] = []
"""Called with the number of prompts that a stream reads without its model's forward."""


@contextmanager
def noting_reads(note: Callable[[int], None]) -> Iterator[None]:
    """Have streams that read prompts without their model's forward say so within the block.

    Args:
        note: Called with the number of texts that are read.
    """
    READ_NOTES.append(note)
    try:
        yield
    finally:
        READ_NOTES.remove(note)


def layer_windows(config: Any) -> list[tuple[str, int | None]]:
    """Return each layer's kind of attention, and how many tokens it looks back; None: all.

    As transformers chooses the layers of a cache. Its own function for that is newer than 5.8.
    """
    layers = getattr(config, "per_layer_config", None) or [config] * config.num_hidden_layers
    kinds = getattr(config, "layer_types", None) or [
        "sliding_attention" if getattr(layer, "sliding_window", None)
        else "chunked_attention" if getattr(layer, "attention_chunk_size", None)
        else "full_attention"
        for layer in layers
    ]  # fmt: skip
    shares = getattr(config, "kv_sharing_modes", None) or getattr(config, "num_kv_shared_layers", 0)
    return [
        ("shared", None) if shares
        else (kind, layer.sliding_window if kind == "sliding_attention" else None)
        for kind, layer in zip(kinds, layers, strict=True)
    ]  # fmt: skip


class ModelStream:
    """A stream under any causal language model, through its own forward and ``DynamicCache``.

    Positions are passed explicitly: models do not derive them from the mask.
    """

    def __init__(self, language_model: CausalLM) -> None:
        self._model = language_model

    def start(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """See `Stream.start`."""
        self._cache: Any = DynamicCache(config=self._model.model.config)
        self._attention_mask = attention_mask
        positions = (attention_mask.cumsum(-1) - 1).clamp(min=0)  # any value does under the mask
        self._positions = positions[:, -1:]
        return self._read(input_ids, positions)[:, -1]

    def step(self, tokens: Tensor) -> Tensor:
        """See `Stream.step`."""
        # Left padding puts every row's new token into one column, which all rows may read.
        grown = self._attention_mask.new_ones(len(tokens), 1)
        self._attention_mask = torch.cat([self._attention_mask, grown], dim=1)
        self._positions = self._positions + 1
        return self._read(tokens.unsqueeze(-1), self._positions)[:, -1]

    @property
    def appends(self) -> bool:
        """See `Stream.appends`: a layer that keeps a window has lost what shorter texts need."""
        return all(type(layer) is DynamicLayer for layer in self._cache.layers)

    def append(self, tokens: Tensor, counts: Tensor) -> Tensor:
        """See `Stream.append`."""
        steps = torch.arange(int(counts.max()), device=tokens.device)  # (width,)
        is_new = steps < counts[:, None]  # (rows, width): padded on the right for now
        ids = tokens.new_zeros(is_new.shape).masked_scatter(is_new, tokens)
        seen = self._attention_mask.shape[1]
        self._attention_mask = torch.cat([self._attention_mask, is_new.long()], dim=1)
        positions = self._positions + 1 + torch.minimum(steps, counts[:, None] - 1)
        hidden = self._read(ids, positions)  # (rows, width, hidden)
        rows = torch.arange(len(counts), device=tokens.device)
        self._positions = self._positions + counts[:, None]
        # What was read past a text's end goes: texts are moved to end in one column again.
        lengths = self._attention_mask.sum(1, keepdim=True)
        longest = int(lengths.max())
        columns = torch.arange(longest, device=tokens.device)
        sources = (columns + seen + counts[:, None] - longest).clamp(min=0)  # (rows, longest)
        sources = sources[:, None, :, None]
        self._attention_mask = (columns >= longest - lengths).long()
        for layer in self._cache.layers:
            for name in ("keys", "values"):
                states = getattr(layer, name)  # (rows, heads, columns, head width)
                index = sources.expand(-1, states.shape[1], -1, states.shape[3])
                setattr(layer, name, states.gather(2, index))
        return hidden[rows, counts - 1]

    def logits(self, states: Tensor) -> Tensor:
        """See `Stream.logits`."""
        return self._model.logits(states)

    def keep(self, rows: Tensor) -> None:
        """See `Stream.keep`."""
        self._positions = self._positions[rows]
        self._attention_mask = self._attention_mask[rows]
        self._cache.reorder_cache(rows)

    def _read(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        """Return the states of tokens, (rows, n) -> (rows, n, hidden)."""
        return self._model.hidden(
            input_ids,
            attention_mask=self._attention_mask,
            position_ids=positions,
            cache=self._cache,
        )


def make_stream(language_model: CausalLM, capacity: int) -> Stream:
    """Return the fastest stream of a model, with its adapters on or off as they are now."""
    for fits, stream in backend().stream_kinds:
        if fits(language_model):
            faster: Stream = stream(language_model, capacity)
            return faster
    return ModelStream(language_model)


@torch.no_grad()
@full_precision()
def decoded(
    language_model: CausalLM,
    make: Callable[[CausalLM, int], Stream],
    lengths: tuple[int, int],
    capacity: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the hidden states that a stream and the model's whole forward give of two texts.

    The prompts have two lengths, the longer first, so that one is padded, and two steps are taken:
    the second reads a cache that a step has written to. States are (rows, 3, hidden) float32, at
    the last token of a prompt and after each step; then comes how far the prompts' states are off
    where nothing follows.
    """
    steps, width = 2, lengths[0]
    ids = 7 * torch.arange(1, 2 * (width + steps) + 1, device=language_model.device).view(2, -1)
    ids %= language_model.vocab_size
    prompts, mask = torch.zeros_like(ids[:, :width]), torch.zeros_like(ids[:, :width])
    for row, length in enumerate(lengths):
        prompts[row, width - length :], mask[row, width - length :] = ids[row, :length], 1
    stream = make(language_model, capacity)
    states = [stream.start(prompts, mask)]
    for step in range(steps):
        states.append(stream.step(torch.stack([ids[r, n + step] for r, n in enumerate(lengths)])))
    expected, ahead = [], []
    for row, length in enumerate(lengths):
        whole = language_model.hidden(ids[row : row + 1, : length + steps])[0]
        prompt = language_model.hidden(ids[row : row + 1, :length])[0]
        ahead.append((prompt - whole[:length]).abs().max().float())
        expected.append(whole[length - 1 : length + steps].float())
    return torch.stack(states, 1).float(), torch.stack(expected), torch.stack(ahead).max()


def check_decoding(
    language_model: CausalLM,
    make: Callable[[CausalLM, int], Stream] = make_stream,
) -> None:
    """Raise unless two cached steps under left padding equal one forward over the whole text.

    A model that ignores the cache or the padding (recurrent ones, which take a cache of another
    kind) would sample from other distributions than the ones that it is trained with, and so would
    one that reads ahead (XLNet).
    """
    name = type(language_model.model).__name__
    try:
        states, expected, ahead = decoded(language_model, make, (5, 3), 7)
    except torch.OutOfMemoryError:  # which says nothing of the model
        raise
    except Exception as error:
        raise ModelError(
            f"{name} cannot be decoded with a key-value cache ({type(error).__name__}: {error}); "
            f"{REMEDY}"
        ) from error
    gap, scale = (states - expected).abs().max().item(), expected.abs().max().item()
    if not ahead <= (1e-4 if language_model.is_float32 else 0.05) * scale:
        raise ModelError(
            f"{name} reads tokens that come later (hidden states change by {ahead:.3g} of "
            f"{scale:.3g}); {REMEDY}"
        )
    tolerance = 0.01 if language_model.is_float32 else 0.25
    if not gap <= tolerance * scale:
        raise ModelError(
            f"{name} decodes with a cache to other hidden states than its whole forward gives (off "
            f"by {gap:.3g} of {scale:.3g}), as recurrent models do here; {REMEDY}"
        )


def last_position(language_model: CausalLM, capacity: int) -> int:
    """Return the last position that a row of a stream may have.

    No text is longer, but rows that have ended count on beside those that have not.
    """
    return min(capacity, longest_input(language_model.model) or capacity) - 1
