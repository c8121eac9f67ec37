"""A classifier's scores of growing texts: each token is read once, with a key-value cache.

The rows of a batch are at different positions, so every row writes where its own text ends: column
p of a row's cache is position p of its text, whatever the other rows do.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import CacheLayerMixin

from tokengym.envs.episode import Episode
from tokengym.rewards.attribution.prefixes import DifferenceReader
from tokengym.rewards.models.classifier import Classifier
from tokengym.rewards.models.loading import evaluating, padded_batches

_GROWTH = 32
"""Columns added at a time."""


def caches_rows(classifier: Classifier) -> bool:
    """Return whether a model's keys and values can be kept as this module does.

    Every layer must attend to the whole text so far: windows and chunks count columns of the
    cache, recurrent layers have no columns.
    """
    config = classifier.config.to_dict()
    # GPT-Neo has a list of "global" and "local" by another name.
    layers = config.get("layer_types") or config.get("attention_layers") or []
    plain = all(layer in ("full_attention", "global") for layer in layers)
    windowed = config.get("sliding_window") is not None and not layers
    return plain and not windowed and classifier.takes_positions


class KeyValueReader(DifferenceReader):
    """Scores texts that grow by a token, at one token's cost; others are read anew.

    Args:
        classifier: What scores.
        check: Called with the sequences before they are read; raises for those that cannot be.
    """

    def __init__(
        self, classifier: Classifier, check: Callable[[Sequence[Sequence[int]]], None]
    ) -> None:
        super().__init__()
        self._classifier = classifier
        self._check = check
        self._cached: dict[int, tuple[int, ...]] = {}
        self._scores: dict[int, float] = {}
        self._layers: list[_RowLayer] = []

    def read(self, rows: Sequence[int], episodes: Sequence[Episode]) -> NDArray[np.floating]:
        """Return the score of each text, feeding only what the cache lacks.

        An empty text, of an empty prompt, is worth 0.
        """
        texts = {
            row: (*episode.prompt_ids, *episode.response_ids)
            for row, episode in zip(rows, episodes, strict=True)
        }
        self._check(list(texts.values()))
        grown = [row for row, ids in texts.items() if ids and self._cached.get(row) == ids[:-1]]
        anew = [row for row, ids in texts.items() if self._cached.get(row) != ids]
        anew = [row for row in anew if row not in set(grown)]
        with evaluating(self._classifier.model), torch.no_grad():
            if anew:
                self._prefill(anew, [texts[row] for row in anew])
            if grown:
                self._extend(grown, [texts[row] for row in grown])
        self._cached.update(texts)
        return np.array([self._scores[row] for row in rows])

    def _prefill(self, rows: Sequence[int], texts: Sequence[tuple[int, ...]]) -> None:
        """Read whole texts, and copy their keys and values into the rows' columns."""
        for row, ids in zip(rows, texts, strict=True):
            if not ids:
                self._scores[row] = 0.0
        filled = [(row, ids) for row, ids in zip(rows, texts, strict=True) if ids]
        if not filled:
            return
        (batch,) = padded_batches([ids for _, ids in filled], batch_size=len(filled))
        chosen = [filled[index][0] for index in batch.indices]
        ends = batch.attention_mask.sum(axis=1) - 1
        inputs = self._classifier.inputs(batch, ends)
        cache = DynamicCache()
        hidden = self._classifier.backbone(
            **inputs.tokens, **inputs.others, past_key_values=cache, use_cache=True
        ).last_hidden_state
        scores = self._classifier.end_scores(hidden, inputs.ends)
        self._scores.update(zip(chosen, scores.tolist(), strict=True))
        if not self._layers:
            self._layers = [_RowLayer() for _ in cache.layers]
        sources: list[Any] = list(cache.layers)
        for layer, source in zip(self._layers, sources, strict=True):
            layer.copy_rows(chosen, source.keys, source.values)

    def _extend(self, rows: Sequence[int], texts: Sequence[tuple[int, ...]]) -> None:
        """Read the last token of each text behind what its row has cached."""
        if not self._layers:  # nothing but empty prompts so far
            self._prefill(rows, texts)
            return
        device = self._classifier.model.device
        positions = torch.tensor([len(ids) - 1 for ids in texts], device=device)
        width = int(positions.max()) + 1
        places = torch.tensor(rows, device=device)
        for layer in self._layers:
            layer.aim(places, positions, width)
        dtype = self._classifier.model.dtype
        later = torch.arange(width, device=device) > positions[:, None]  # (rows, width)
        mask = torch.zeros(later.shape, dtype=dtype, device=device)
        mask = mask.masked_fill(later, torch.finfo(dtype).min)[:, None, None]
        hidden = self._classifier.backbone(
            input_ids=torch.tensor([[ids[-1]] for ids in texts], device=device),
            attention_mask=mask,
            position_ids=positions[:, None],
            past_key_values=Cache(layers=list(self._layers)),
            use_cache=True,
        ).last_hidden_state
        scores = self._classifier.scores(hidden[:, -1])
        self._scores.update(zip(rows, scores.tolist(), strict=True))


class _RowLayer(CacheLayerMixin):
    """One layer's keys and values, (rows, heads, columns, width); grows in both directions."""

    is_sliding = False

    def __init__(self) -> None:
        super().__init__()
        self.keys: Tensor | None = None
        self.values: Tensor | None = None
        self._rows = self._positions = torch.zeros(0, dtype=torch.int64)
        self._width = 0

    def copy_rows(self, rows: Sequence[int], keys: Tensor, values: Tensor) -> None:
        """Write the first columns of some rows, (rows, heads, columns, width) each."""
        self._ensure(max(rows) + 1, keys.shape[2], keys, values)
        assert self.keys is not None
        assert self.values is not None
        self.keys[rows, :, : keys.shape[2]] = keys
        self.values[rows, :, : values.shape[2]] = values

    def aim(self, rows: Tensor, positions: Tensor, width: int) -> None:
        """Say where the next update writes, row and column, and the columns it attends to."""
        self._rows, self._positions, self._width = rows, positions, width

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write one column of each row aimed at, and return all that these rows hold."""
        self._ensure(int(self._rows.max()) + 1, self._width, key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        self.keys[self._rows, :, self._positions] = key_states[:, :, 0]
        self.values[self._rows, :, self._positions] = value_states[:, :, 0]
        if len(self._rows) == len(self.keys) and bool((self._rows.diff() == 1).all()):
            return self.keys[:, :, : self._width], self.values[:, :, : self._width]
        return (
            self.keys[self._rows, :, : self._width],
            self.values[self._rows, :, : self._width],
        )

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Do nothing: `_ensure` makes the room."""

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the number of keys, and where they begin."""
        return self._width, 0

    def get_seq_length(self) -> int:
        """Return the columns before the newest."""
        return max(self._width - 1, 0)

    def get_max_length(self) -> int:
        """Return -1: it grows."""
        return -1

    def _ensure(self, rows: int, columns: int, keys: Tensor, values: Tensor) -> None:
        """Make room for as many rows and columns."""
        have = (0, 0) if self.keys is None else (self.keys.shape[0], self.keys.shape[2])
        if rows <= have[0] and columns <= have[1]:
            return
        rows, columns = max(rows, have[0]), max(columns + _GROWTH, have[1])
        grown = []
        for old, new in ((self.keys, keys), (self.values, values)):
            room = new.new_zeros(rows, new.shape[1], columns, new.shape[3])
            if old is not None:
                room[: have[0], :, : have[1]] = old
            grown.append(room)
        self.keys, self.values = grown
        self.is_initialized = True
