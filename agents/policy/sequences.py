"""Prompts and responses as one batch of tensors, and the action masks of their sampling."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tokengym.agents.policy.sampling import MAX_LOGITS, forbid_, packed, unpacked

TOKENS_OF_LAUNCHES = 2**13
"""Tokens below which a GPU takes as long for any part of a minibatch, launching its kernels: an
H200 took 0.10 s for 4,608 tokens of a 0.5B model as for 9,216."""


@dataclass(frozen=True, kw_only=True)
class Sequences:
    """Texts as token ids: prompt, then response, padded on the right.

    Padded so, no padding precedes a token: positions count from 0, and under a causal mask no
    real token attends to padding, so models need neither ``attention_mask`` nor ``position_ids``.
    """

    input_ids: Tensor
    """(batch, length) int64; padding repeats the row's last token and is never read."""
    prompt_lengths: Tensor
    """(batch,) int64, >= 1."""
    response_lengths: Tensor
    """(batch,) int64, >= 1."""
    written: Tensor | None = None
    """(batch, time) bool, True at the tokens that the policy wrote, in conversations; None: all."""

    @classmethod
    def from_ids(
        cls,
        prompt_ids: Sequence[Sequence[int]],
        response_ids: Sequence[Sequence[int]],
        device: torch.device | str = "cpu",
        *,
        written: Sequence[NDArray[np.generic] | None] = (),
    ) -> "Sequences":
        """Return the batch of the given texts.

        Args:
            prompt_ids: Token ids of the prompts.
            response_ids: Token ids of the responses.
            device: Device of the tensors.
            written: Per response (len(response),), non-zero where the policy wrote the token; None
                where it wrote all. () stands for None everywhere.

        Raises:
            ValueError: if the numbers of texts differ, or a prompt or response is empty.
        """
        if len(prompt_ids) != len(response_ids):
            raise ValueError(
                f"got {len(prompt_ids)} prompts and {len(response_ids)} responses; "
                "pass one response per prompt"
            )
        for name, texts in (("prompt", prompt_ids), ("response", response_ids)):
            for row, ids in enumerate(texts):
                if len(ids) == 0:
                    raise ValueError(f"{name} {row} has no tokens; drop empty texts")
        # Padding is the last token once more: an id that every model has, whatever its pad token.
        texts = [[*p, *r] for p, r in zip(prompt_ids, response_ids, strict=True)]
        input_ids = np.zeros((len(texts), max(map(len, texts), default=0)), dtype=np.int64)
        for row, ids in enumerate(texts):
            input_ids[row, : len(ids)] = ids
            input_ids[row, len(ids) :] = ids[-1]
        lengths, table = [len(ids) for ids in response_ids], None
        if any(mask is not None for mask in written):
            table = np.zeros((len(lengths), max(lengths)), dtype=np.bool_)  # (batch, time)
            for row, (mask, length) in enumerate(zip(written, lengths, strict=True)):
                table[row, :length] = True if mask is None else mask
        both = np.array([[len(p), n] for p, n in zip(prompt_ids, lengths, strict=True)], np.int64)
        both = both.reshape(-1, 2)
        to = torch.device(device)
        made = cls(
            input_ids=sent(torch.from_numpy(input_ids), to),
            prompt_lengths=sent(torch.from_numpy(both[:, 0].copy()), to),
            response_lengths=sent(torch.from_numpy(both[:, 1].copy()), to),
            written=None if table is None else sent(torch.from_numpy(table), to),
        )
        vars(made).update(host_lengths=both, host_written=table)
        return made

    def __len__(self) -> int:
        return len(self.input_ids)

    @cached_property
    def lengths(self) -> Tensor:
        """(batch,) int64: tokens of prompt and response together."""
        return self.prompt_lengths + self.response_lengths

    @cached_property
    def host_lengths(self) -> NDArray[np.int64]:
        """(batch, 2) int64 on the host: tokens of prompt and response, never waited for again."""
        both: NDArray[np.int64] = (
            torch.stack([self.prompt_lengths, self.response_lengths], dim=1).cpu().numpy()
        )
        return both

    @cached_property
    def host_written(self) -> NDArray[np.bool_] | None:
        """(batch, time) bool on the host: the tokens of ``written``, never waited for again."""
        return None if self.written is None else self.written.cpu().numpy()

    @cached_property
    def host_mask(self) -> NDArray[np.bool_]:
        """(batch, time) bool on the host: `response_mask`, never waited for again."""
        in_response: NDArray[np.bool_] = np.arange(self.num_times) < self.host_lengths[:, 1:]
        return in_response if self.host_written is None else in_response & self.host_written

    @property
    def num_tokens(self) -> int:
        """Number of tokens in the response mask."""
        if self.host_written is None:
            return int(self.host_lengths[:, 1].sum())
        return int(self.host_written.sum())

    @property
    def num_times(self) -> int:
        """Tokens of the longest response."""
        return int(self.host_lengths[:, 1].max())

    @cached_property
    def response_mask(self) -> Tensor:
        """(batch, time) bool: True on each response's own tokens, those of replies left out."""
        times = torch.arange(self.num_times, device=self.input_ids.device)
        in_response = times < self.response_lengths.unsqueeze(1)
        return in_response if self.written is None else in_response & self.written

    @cached_property
    def response_positions(self) -> tuple[Tensor, Tensor, Tensor]:
        """(row, time, column) of every response token, each (tokens,) int64.

        ``input_ids[row, column]`` is token ``time`` of response ``row``; the model predicts it, and
        the value of the state before it is read, at ``column - 1``.
        """
        if self.host_written is None:  # their number is known: a GPU is not asked for it
            lengths, count = self.response_lengths, self.num_tokens
            numbers = torch.arange(len(lengths), device=lengths.device)
            rows = numbers.repeat_interleave(lengths, output_size=count)
            firsts = lengths.cumsum(0) - lengths
            times = torch.arange(count, device=lengths.device) - firsts[rows]
        else:
            places = torch.from_numpy(np.argwhere(self.host_written).T.copy())
            rows, times = sent(places, self.input_ids.device)
        return rows, times, self.prompt_lengths[rows] + times

    def padded(self, figures: Tensor) -> Tensor:
        """Return a figure of every response token, (tokens,), as (batch, time); 0 elsewhere."""
        rows, times, _ = self.response_positions
        return figures.new_zeros(self.response_mask.shape).index_put((rows, times), figures)

    def select(self, rows: Tensor) -> "Sequences":
        """Return the batch of (kept,) rows, with no more padding than they need.

        A GPU is waited for where the rows are on it, and not where they are on the host.
        """
        numbers = (rows if rows.device.type == "cpu" else rows.cpu()).numpy()
        kept, on_host = self.host_lengths[numbers], self.host_written
        rows, written = sent(rows, self.input_ids.device), self.written
        if written is not None and on_host is not None:
            time = int(kept[:, 1].max())
            written, on_host = written[rows, :time], on_host[numbers, :time]
        made = Sequences(
            input_ids=self.input_ids[rows, : int(kept.sum(1).max())],
            prompt_lengths=self.prompt_lengths[rows],
            response_lengths=self.response_lengths[rows],
            written=written,
        )
        vars(made).update(host_lengths=kept, host_written=on_host)
        return made

    def buckets(
        self, max_size: int | None = None, *, fewest_tokens: int | None = None
    ) -> list[Tensor]:
        """Return rows grouped by length: in a group none is shorter than half the longest.

        Less than half of a model's computation is then padding, whatever the lengths; but for
        groups too small for that to matter.

        Args:
            max_size: The most rows of a group; None sets no limit.
            fewest_tokens: Tokens, padding counted, below which a group takes rows of any length;
                None: `TOKENS_OF_LAUNCHES` on a GPU, 0 elsewhere.

        Returns:
            Tensors of row numbers, (size,) int64, on the host; each row in exactly one of them.
        """
        if fewest_tokens is None:
            fewest_tokens = TOKENS_OF_LAUNCHES if self.input_ids.is_cuda else 0
        lengths = self.host_lengths.sum(1).tolist()
        groups: list[list[int]] = []
        # Longest first: a group's first row decides how short its others may be.
        for row in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
            group = groups[-1] if groups else [row]
            longest = lengths[group[0]]
            is_short = 2 * lengths[row] < longest and len(group) * longest >= fewest_tokens
            if not groups or len(group) == max_size or is_short:
                groups.append([row])
            else:
                group.append(row)
        return [torch.tensor(group) for group in groups]


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device; one of the host without waiting for what the device does."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


IN_ANOTHER_PROCESS = -1


@dataclass(frozen=True, kw_only=True)
class ActionMasks:
    """Tokens allowed at each step: the distinct masks, and the mask of each step.

    A mask has one entry per word of the vocabulary. An environment has few distinct ones; those
    of top-k and top-p differ at every step, and are kept as bits.
    """

    table: Tensor
    """(distinct, vocab) bool, True where the token is allowed; or (distinct, ceil(vocab / 8)) uint8
    where they are `packed`."""
    index: Tensor
    """(batch, time) int64, rows of ``table``; 0 past a response's end; `IN_ANOTHER_PROCESS` in
    rows whose masks another process has."""
    vocab_size: int = 0
    """Words of the vocabulary where the masks are packed."""
    columns: Tensor | None = None
    """(few,) int64, the forbidden tokens where there is one mask that forbids few."""
    has_all: bool = True
    """Whether the masks of all rows are in ``table``; see `is_here`."""

    @classmethod
    def from_arrays(
        cls, masks: Sequence[NDArray[np.generic]], device: torch.device | str = "cpu"
    ) -> "ActionMasks | None":
        """Return the masks of responses, (length, vocab) each; None if nothing is forbidden."""
        recorder = MaskRecorder()
        for of_response in masks:
            recorder.add(of_response)
        lengths = [len(of_response) for of_response in masks]
        return recorder.finish(
            lambda numbers: pad_sequence(numbers.split(lengths), batch_first=True), device
        )

    @property
    def is_here(self) -> Tensor:
        """(batch,) bool, the rows whose masks this process has."""
        return self.index[:, 0] != IN_ANOTHER_PROCESS

    def to(self, device: torch.device | str) -> "ActionMasks":
        """Return the masks on a device."""
        columns = None if self.columns is None else self.columns.to(device)
        table, index = self.table.to(device), self.index.to(device)
        return replace(self, table=table, index=index, columns=columns)

    def at(self, rows: Tensor, times: Tensor, *, allowed: bool = True) -> Tensor:
        """Return the masks of tokens at (tokens,) rows and times, (tokens or 1, vocab).

        Without ``allowed`` it is the opposite, True where a token is forbidden.
        """
        table = self.table if len(self.table) == 1 else self.table[self.index[rows, times]]
        if self.vocab_size:
            return unpacked(table, self.vocab_size, where=allowed)
        return table if allowed else ~table

    def forbid_(
        self, logits: Tensor, rows: Tensor, times: Tensor, *, value: float = -torch.inf
    ) -> Tensor:
        """Return logits, (tokens, vocab), with what could not be sampled at a value, in place.

        See `tokengym.agents.policy.sampling.forbid_`; rows and times are (tokens,) int64.
        """
        columns = self.columns
        if columns is None:
            columns = self.at(rows, times, allowed=False)
        return forbid_(logits, columns, value)

    def bits(self, rows: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
        """Return the distinct masks, `packed`, and the number of each given token's."""
        return self.table if self.vocab_size else packed(self.table), self.index[rows, times]

    def select(self, rows: Tensor) -> "ActionMasks":
        """Return the masks of (kept,) rows."""
        return replace(self, index=self.index[sent(rows, self.index.device)])

    def shares(self) -> Tensor:
        """Return the allowed share of the vocabulary at each step, (batch, time)."""
        parts = self.table.split(max(1, MAX_LOGITS // max(1, self.vocab_size)))
        if self.vocab_size:
            parts = tuple(unpacked(part, self.vocab_size) for part in parts)
        return torch.cat([part.float().mean(1) for part in parts])[self.index]


def few_forbidden(table: Tensor) -> Tensor | None:
    """Return the forbidden tokens, (few,) int64, where there is one mask that forbids few."""
    columns = (~table[0]).nonzero()[:, 0]
    return columns if len(table) == 1 and len(columns) * 16 <= table.shape[1] else None


class MaskRecorder:
    """Collects a rollout's action masks and keeps only the distinct ones."""

    def __init__(self) -> None:
        self._numbers: dict[bytes, int] = {}  # packed mask -> row of the table
        self._table: list[NDArray[np.bool_]] = []
        self._tokens: list[NDArray[np.int64]] = []  # number of each token's mask
        self._last: tuple[NDArray[np.generic], NDArray[np.int64]] | None = None

    def add(self, masks: NDArray[np.generic]) -> None:
        """Record the masks of some tokens, (tokens, vocab), non-zero where allowed."""
        count = len(masks)
        if masks.strides[0] == 0:  # one mask broadcast over the rows
            masks = masks[:1]
        if self._last is not None and np.array_equal(self._last[0], masks):
            numbers = self._last[1]
        else:
            allowed = masks.astype(bool)
            if (allowed == allowed[0]).all():
                allowed = allowed[:1]
            places = []
            for mask in allowed:
                key = np.packbits(mask).tobytes()
                if key not in self._numbers:
                    self._numbers[key] = len(self._table)
                    self._table.append(mask)
                places.append(self._numbers[key])
            numbers = np.array(places, dtype=np.int64)
            self._last = masks.copy(), numbers
        self._tokens.append(np.broadcast_to(numbers, count))

    def finish(
        self, placed: Callable[[Tensor], Tensor], device: torch.device | str
    ) -> ActionMasks | None:
        """Return the recorded masks, or None if nothing was ever forbidden.

        ``placed`` returns figures of the recorded tokens, (tokens,), as (batch, time).
        """
        if all(mask.all() for mask in self._table):
            return None
        table = torch.from_numpy(np.stack(self._table))
        index = placed(torch.from_numpy(np.concatenate(self._tokens)))
        return ActionMasks(table=table, index=index, columns=few_forbidden(table)).to(device)
