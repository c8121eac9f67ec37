"""A stream over a cache allocated once, whose step always works on the same memory.

So a GPU can capture the step in a CUDA graph and replay it, without the Python and the launches of
hundreds of small kernels. Every layer's cache has room for the whole text; what a layer may see
(all before a token, or a window) is said by the attention masks, which are computed in the step
from the number of the column. The prompts go through the model's own forward and cache.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache, CacheLayerMixin

from tokengym.agents.errors import ModelError
from tokengym.agents.fast.lora import decoding_model
from tokengym.agents.policy.language_model import CausalLM
from tokengym.agents.policy.streams import check_decoding, last_position, layer_windows

MAX_PREFILLED_TOKENS = 2**15
"""Most tokens of prompts that are read at once, so that long ones do not decide the memory."""
ALIGNMENT = 8
"""Attention kernels copy a mask whose rows do not begin at a multiple of this."""


class StaticStream:
    """A `Stream` under any causal language model of full or sliding-window attention."""

    appends = True

    def __init__(self, language_model: CausalLM, capacity: int, *, rows: int) -> None:
        self._model = language_model
        self.capacity = capacity
        self._windows, self._by_kind = attention_windows(language_model)
        self._last_position = last_position(language_model, capacity)
        device, dtype = language_model.device, language_model.model.dtype
        room = -(-capacity // ALIGNMENT) * ALIGNMENT
        self._columns = torch.arange(room, device=device)
        self._lowest = torch.finfo(dtype).min
        self.size = rows  # of the batch as it is now: the buffers' first rows
        self.length = 0  # columns read
        self.tokens = torch.zeros(rows, 1, dtype=torch.int64, device=device)
        """(rows, 1): what the next `read` reads."""
        self.states = torch.zeros(rows, language_model.hidden_size, dtype=dtype, device=device)
        """(rows, hidden): of the last token read."""
        self._positions = torch.zeros_like(self.tokens)
        self._column = torch.zeros_like(self.tokens)  # of each row's last token read
        self._reading = self._column  # (rows, n), of the tokens that a call reads
        self._is_ragged = False
        self._bias = torch.zeros(rows, 1, 1, room, dtype=dtype, device=device)  # of the padding
        self._layers: list[_Layer] = []
        self._cache = Cache(layers=[])

    def start(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """See `Stream.start`."""
        rows, width = input_ids.shape
        self.size, self.length, self._is_ragged = rows, width, False
        places = (attention_mask.cumsum(-1) - 1).clamp(min=0)
        # Rows that answer one prompt, as groups do, have it read once and copied.
        firsts, sources = distinct_rows(torch.cat([input_ids, attention_mask], 1))
        for layer in self._layers:
            layer.clear()
        for part in torch.arange(len(firsts)).split(max(1, MAX_PREFILLED_TOKENS // width)):
            some = firsts[part[0] : part[-1] + 1]
            states, prompts = self.read_prompts(input_ids[some], attention_mask[some], places[some])
            if not self._layers:
                room = len(self._columns)
                self._layers = [
                    _Layer(both, len(self.tokens), room, self._column) for both in prompts
                ]
                self._cache = Cache(layers=list(self._layers))
            whose = ((sources >= part[0]) & (sources <= part[-1])).nonzero()[:, 0]
            copied = sources[whose] - part[0]
            for layer, seen in zip(self._layers, prompts, strict=True):
                layer.begin(seen, whose, copied)
            self.states[whose] = states[copied]
        for layer in self._layers:
            layer.narrow(rows)
        self._column.fill_(width - 1)
        self._positions[:rows] = places[:, -1:]
        self._bias.zero_()
        self._bias[:rows, 0, 0, :width].masked_fill_(attention_mask == 0, self._lowest)
        return self.states[:rows].clone()

    def read_prompts(
        self, input_ids: Tensor, attention_mask: Tensor, places: Tensor
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Return the states of the prompts' last tokens, and each layer's keys and values.

        Of ids, mask and places in the texts, (rows, width) int64 padded on the left: (rows, hidden)
        and for each layer (rows, key heads, width, head width) twice.
        """
        prompts: Any = DynamicCache()  # no config: sliding layers keep the whole prompt
        hidden = self._model.hidden(
            input_ids,
            attention_mask=attention_mask,
            position_ids=places,
            cache=prompts,
        )
        return hidden[:, -1], [(layer.keys, layer.values) for layer in prompts.layers]

    def step(self, tokens: Tensor) -> Tensor:
        """See `Stream.step`."""
        self.tokens[: self.size, 0] = tokens
        self.advance()
        self.read()
        return self.states[: self.size].clone()

    def advance(self) -> None:
        """Move to the next column."""
        if self.length == self.capacity:
            raise ModelError(
                f"the cache holds {self.capacity} tokens of a text and all are used; make it with "
                "a larger capacity"
            )
        self._column += 1
        self._positions += 1
        if self._is_ragged:  # rows that have ended come to the last column before others
            self._column.clamp_(max=self.capacity - 1)
        else:
            self.length += 1
        self._positions.clamp_(max=self._last_position)

    def read(self) -> None:
        """Read `tokens` in the present column and write `states`; doing it twice changes nothing.

        Everything read and written stays where it is, so this can be captured.
        """
        self._read(self.tokens[: self.size], self._positions[: self.size])

    def append(self, tokens: Tensor, counts: Tensor) -> Tensor:
        """See `Stream.append`; a row's count may be 0. It is no part of a captured step.

        A row with fewer tokens than others reads its last one again, which changes nothing.
        """
        size, width = self.size, int(counts.max())
        counts = counts[:, None]
        steps = torch.arange(1, width + 1, device=tokens.device)
        ids = self.tokens[:size].repeat(1, width + 1)
        ids[:, 1:].masked_scatter_(steps <= counts, tokens)
        taken = torch.minimum(steps, counts)
        self._reading = self._column[:size] + taken
        for layer in self._layers:
            layer.columns = self._reading
        self._read(ids.gather(1, taken), self._positions[:size] + taken)
        self.tokens[:size] = ids.gather(1, counts)
        self._column[:size] += counts
        self._positions[:size] += counts
        self._reading, self._is_ragged = self._column, True
        for layer in self._layers:
            layer.columns = self._column
        return self.states[:size].clone()

    def _read(self, ids: Tensor, places: Tensor) -> None:
        """Read tokens, (size, n) each, in the columns that are being read."""
        masks = {kind: self._mask(window) for kind, window in self._windows.items()}
        hidden = self._model.hidden(
            ids,
            attention_mask=masks if self._by_kind else next(iter(masks.values())),
            position_ids=places,
            cache=self._cache,
        )
        self.states[: self.size].copy_(hidden[:, -1])

    def logits(self, states: Tensor) -> Tensor:
        """See `Stream.logits`."""
        return self._model.logits(states)

    def keep(self, rows: Tensor) -> None:
        """See `Stream.keep`; a row may also be given several times."""
        self.size = len(rows)
        for buffer in self.per_row():
            buffer[: self.size] = buffer[rows]
        for layer in self._layers:
            layer.narrow(self.size)

    def per_row(self) -> list[Tensor]:
        """Return the buffers that have something for each row."""
        rows = [self.tokens, self.states, self._positions, self._column, self._bias]
        return [*rows, *self.caches()]

    def tensors(self) -> list[Tensor]:
        """Return the tensors that take memory."""
        return self.caches()

    def caches(self) -> list[Tensor]:
        """Return keys and values of all layers."""
        return [cache for layer in self._layers for cache in (layer.all_keys, layer.all_values)]

    def _mask(self, window: int | None) -> Tensor:
        """Return what a layer adds to its attention scores, (size, 1, n, room)."""
        # From tensors alone: a number of Python's would stay in the graph as it was when captured.
        now = self._reading[: self.size, None, :, None]
        is_seen = self._columns <= now
        if window is not None:
            is_seen &= self._columns > now - window
        bias = self._bias[: self.size]
        return bias.masked_fill(~is_seen, self._lowest)


class _Layer(CacheLayerMixin):
    """Keys and values of one layer; each row's are written in its own columns."""

    is_compileable = True
    is_sliding = False

    def __init__(
        self, prompts: tuple[Tensor, Tensor], rows: int, room: int, columns: Tensor
    ) -> None:
        super().__init__()
        self.all_keys, self.all_values = (
            states.new_zeros(rows, states.shape[1], room, states.shape[-1]) for states in prompts
        )
        self.columns = columns
        self.is_initialized = True

    def clear(self) -> None:
        for buffer in (self.all_keys, self.all_values):
            buffer.zero_()  # what an earlier round left may be nan, which a mask does not hide

    def begin(self, prompts: tuple[Tensor, Tensor], rows: Tensor, sources: Tensor) -> None:
        for buffer, states in zip((self.all_keys, self.all_values), prompts, strict=True):
            buffer[rows, :, : states.shape[2]] = states[sources]

    def narrow(self, rows: int) -> None:
        self.keys, self.values = self.all_keys[:rows], self.all_values[:rows]

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        assert self.keys is not None
        assert self.values is not None
        columns = self.columns[: len(key_states), None, :, None].expand_as(key_states)
        self.keys.scatter_(2, columns, key_states)
        self.values.scatter_(2, columns, value_states)
        return self.keys, self.values

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None: ...

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_max_length(), 0

    def get_seq_length(self) -> int:
        return self.get_max_length()  # only read where positions or masks are not given

    def get_max_length(self) -> int:
        return int(self.all_keys.shape[2])

    def get_max_cache_shape(self) -> int:
        return self.get_max_length()  # its name in transformers 5.8


def distinct_rows(table: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first row of each kind, (kinds,) ascending, and which of these each row equals.

    Example:
        >>> distinct_rows(torch.tensor([[5, 1], [2, 2], [5, 1]]))
        (tensor([0, 1]), tensor([0, 1, 0]))
    """
    rows = torch.arange(len(table), device=table.device)
    kinds, kind_of = table.unique(dim=0, return_inverse=True)
    firsts = rows.new_full((len(kinds),), len(table)).scatter_reduce(0, kind_of, rows, "amin")
    firsts, order = firsts.sort()
    return firsts, order.argsort()[kind_of]


def check_static(language_model: CausalLM, dtype: torch.dtype | None = None) -> None:
    """Raise unless the model decodes with a static cache to what its whole forward gives."""
    try:
        decodes, _ = decoding_model(language_model, dtype)
        check_decoding(decodes, partial(StaticStream, rows=2))
    except ModelError as error:
        raise ModelError(
            f"{type(language_model.model).__name__} has no static cache, use decoding='auto' or "
            f"'dynamic': {error.__cause__ or error}"
        ) from error


def attention_windows(language_model: CausalLM) -> tuple[dict[str, int | None], bool]:
    """Return how far each kind of layer looks back, and whether the model takes a mask per kind."""
    config: Any = language_model.model.config.get_text_config(decoder=True)
    windows: dict[str, int | None] = {}
    for kind, window in layer_windows(config):
        is_known = kind in ("full_attention", "sliding_attention")
        if not is_known or windows.setdefault(kind, window) != window:
            raise ModelError(f"layers of kind {kind!r}, window {window}, among {windows}")
    return windows, getattr(config, "layer_types", None) is not None
