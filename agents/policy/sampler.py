"""Fast generation through an environment's own ``step``: one new token per step and row.

A `Sampler` chooses the tokens; the texts under a model are a `Stream`, which caches what was read.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from tokengym.agents.errors import ModelError, NonFiniteError
from tokengym.agents.policy.door import fast
from tokengym.agents.policy.language_model import LanguageModel, full_precision
from tokengym.agents.policy.responses import ReadsResponses
from tokengym.agents.policy.sampling import (
    as_action_mask,
    draw,
    packed,
    row_uniforms,
)

Observation: TypeAlias = Mapping[str, NDArray[np.generic]]
"""An observation of an environment: ids of tokens, or a dictionary with them."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Tokens chosen in one step, one per active row; None for what the agent does not know."""

    actions: NDArray[np.int64]
    """(active,) token ids."""
    log_probs: Tensor | None = None
    """(active,), nats, after temperature and action mask."""
    values: Tensor | None = None
    """(active,), reward units, of the text before the token."""
    entropy: Tensor | None = None
    """(active,), nats, of the distribution the token was drawn from."""
    support: Tensor | None = None
    """(active, ceil(vocab / 8)) uint8, the tokens it was drawn among as `packed` bits, where the
    agent itself excluded some."""
    vocab_size: int = 0
    """Words of the vocabulary, where there is a support."""


class Sampler(Protocol):
    """Anything that can play a round."""

    def begin(self, observation: Observation) -> None:
        """Start a round: every row of the observation begins an episode."""

    def act(
        self,
        rows: NDArray[np.integer],
        observation: Observation,
        action_masks: NDArray[np.generic] | None,
        *,
        deterministic: bool,
    ) -> Choice:
        """Choose the next token of ``rows``; observation and masks are those of all rows."""


class Appended(NamedTuple):
    """Tokens that were appended to rows."""

    tokens: NDArray[np.int64]
    """(sum of counts,), row after row: the one chosen last, and those of a reply."""
    counts: NDArray[np.int64]
    """(rows,), >= 1."""


class CachedSampler:
    """Plays a `CausalLMPolicy`, with a `Stream` that caches the texts.

    Prompts are padded on the left, so that all rows' next tokens are in one column. A row that is
    no longer asked for is removed. Every row draws its own random number at each step whether
    it acts or not, so what it samples does not depend on when others end.

    Args:
        policy: The policy to play.
        generator: Source of the uniform numbers that choose tokens.
        share: See `row_uniforms`.
    """

    def __init__(
        self,
        policy: ReadsResponses,
        generator: torch.Generator,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        self.policy = policy
        self.generator = generator
        self._share = share
        # Values of a network of their own are read from whole texts, when the round is over.
        has_own = policy.critic is None or policy.critic.network is not None
        self._critic = None if has_own else policy.critic

    @torch.inference_mode()
    def begin(self, observation: Observation) -> None:
        """Start a round; `act` reads its prompts."""
        self._device = self.policy.device  # found among all parameters: not at every step
        self._time = 0
        self._num_rows = len(observation["attention_mask"])
        self._replies = Replies(observation)
        capacity = columns_needed(observation)
        self._streams: list[Any] = []  # the last round's caches and packed weights go first
        for model in (self.policy.language_model, self.policy.masking_model):
            if model is not None:
                self._streams.append(make_stream(model, capacity))
        self._rows: NDArray[np.integer] | None = None  # of each row of the batch; None: none read
        self._tokens: Tensor  # (rows,) chosen last, not yet read by the streams

    @torch.inference_mode()
    def act(
        self,
        rows: NDArray[np.integer],
        observation: Observation,
        action_masks: NDArray[np.generic] | None,
        *,
        deterministic: bool,
    ) -> Choice:
        """Choose the next token of each of ``rows``, a subset of the last call's."""
        policy, streams = self.policy, self._streams
        appended = self._replies.since(rows, observation)
        if self._rows is None or (appended and not all(stream.appends for stream in streams)):
            # A round begins, or replies have come that only a new reading of the texts takes in.
            texts = {name: np.asarray(array)[rows] for name, array in observation.items()}
            inputs = left_padded(texts, self._device)
            hidden = [stream.start(*inputs) for stream in streams]
        else:
            if len(rows) < len(self._rows):  # those that have ended are taken out of the batch
                keep = torch.from_numpy(np.searchsorted(self._rows, rows)).to(self._device)
                self._tokens = self._tokens[keep]
                for stream in streams:
                    stream.keep(keep)
            if appended:
                tokens, counts = (torch.from_numpy(array).to(self._device) for array in appended)
                hidden = [stream.append(tokens, counts) for stream in streams]
            else:
                hidden = [stream.step(self._tokens) for stream in streams]
        self._rows = rows
        states, *masking_states = hidden  # (active, hidden) each
        mask = None
        if action_masks is not None:
            mask = as_action_mask(action_masks, self._device, rows)
        # (active, vocab) both
        logits, support = policy.sampling_logits(streams[0].logits(states), mask, *masking_states)
        # Of all rows, (rows,): what a row draws must not hang on which others have ended.
        uniforms = row_uniforms(self._num_rows, self.generator, self._share)
        if len(rows) < self._num_rows:
            uniforms = uniforms[rows]  # (active,)
        uniforms = uniforms.to(logits.device)
        self._tokens, log_probs, entropy = draw(logits, None if deterministic else uniforms)
        # One look at a sum, which waits for the device once a step; the row is found if it fails.
        if not math.isfinite(log_probs.sum().item()):
            raise not_finite(rows[int(log_probs.isfinite().int().argmin())], self._time)
        self._time += 1
        return Choice(
            actions=self._tokens.cpu().numpy(),
            log_probs=log_probs,
            values=None if self._critic is None else self._critic.of_states(states),
            entropy=entropy,
            support=None if support is None else packed(support),
            vocab_size=logits.shape[-1],
        )


class Replies:
    """Notices the replies of partners, which observations have beside the tokens chosen.

    Args:
        observation: The environment's at the beginning of a round.
    """

    def __init__(self, observation: Observation) -> None:
        self._ends = text_ends(np.asarray(observation["attention_mask"]))

    def since(self, rows: NDArray[np.integer], observation: Observation) -> Appended | None:
        """Return what was appended to the rows since the last call, None where no reply was.

        Args:
            rows: Rows that act, each of which had a token appended since the last call.
            observation: The environment's, with every row.
        """
        masks = np.asarray(observation["attention_mask"])
        ends = self._ends[rows]
        has_reply = masks[rows, np.minimum(ends, masks.shape[1] - 1)] > 0
        has_reply &= ends < masks.shape[1]
        self._ends[rows] = ends + 1
        if not has_reply.any():
            return None
        new = text_ends(masks[rows])
        self._ends[rows] = new + 1
        columns = np.arange(masks.shape[1])
        is_new = (columns >= ends[:, None] - 1) & (columns < new[:, None])
        return Appended(np.asarray(observation["input_ids"])[rows][is_new], is_new.sum(1))


def text_ends(attention_mask: NDArray[np.generic]) -> NDArray[np.int64]:
    """Return the column after each text's last token: (rows, length) -> (rows,)."""
    ends: NDArray[np.int64] = attention_mask.shape[1] - attention_mask[:, ::-1].argmax(axis=1)
    return ends


def left_padded(
    observation: Observation, device: torch.device, *, multiple: int = 1
) -> tuple[Tensor, Tensor]:
    """Return the texts of an observation and their attention mask, padded on the left.

    Args:
        observation: The environment's.
        device: Where they are needed.
        multiple: The width is one of this number.

    Returns:
        Both (rows, width) int64.
    """
    masks = np.asarray(observation["attention_mask"], dtype=bool)  # (rows, length)
    prompts = [
        ids[mask] for ids, mask in zip(np.asarray(observation["input_ids"]), masks, strict=True)
    ]
    width = -(-max(map(len, prompts)) // multiple) * multiple
    ids = np.zeros((len(prompts), width), dtype=np.int64)
    attention_mask = np.zeros((len(prompts), width), dtype=np.int64)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = prompt
        attention_mask[row, width - len(prompt) :] = 1
    return torch.from_numpy(ids).to(device), torch.from_numpy(attention_mask).to(device)


def columns_needed(observation: Observation, *, multiple: int = 1) -> int:
    """Return the columns of a cache in which all rows can be written to their end.

    Texts are aligned at their end. Where some responses are begun and others are not, the longest
    text decides where the shortest continues, and that one has further to go.

    Args:
        observation: The environment's.
        multiple: See `left_padded`; there is room for every round's padding.
    """
    masks = np.asarray(observation["attention_mask"], dtype=bool)  # (rows, length)
    length, ends = masks.shape[1], text_ends(masks)
    written, longest = int(ends.max()), int(masks.sum(axis=1).max())
    return max(
        length + -written % multiple, longest + -longest % multiple + length - int(ends.min())
    )


def not_finite(row: int, time: int) -> NonFiniteError:
    """Return the error of logits that are not finite."""
    return NonFiniteError(
        f"logits of row {row} at response token {time} are not finite; the policy's weights have "
        "diverged: lower learning_rate or raise kl_coef"
    )


# --- the texts under a model ---------------------------------------------------------------------


class Stream(Protocol):
    """Texts being written, one per row."""

    @property
    def appends(self) -> bool:
        """Whether `append` takes several tokens; else texts with more are to be read anew."""

    def start(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Read the prompts and return the hidden states of their last tokens.

        A stream that has begun begins anew.

        Args:
            input_ids: (rows, width) int64, padded on the left.
            attention_mask: (rows, width) int64, 1 on the prompts' own tokens.

        Returns:
            (rows, hidden).
        """

    def step(self, tokens: Tensor) -> Tensor:
        """Append one token to every row, (rows,); return its hidden states, (rows, hidden)."""

    def append(self, tokens: Tensor, counts: Tensor) -> Tensor:
        """Append several tokens to some rows and one to others, in one pass.

        Args:
            tokens: (sum of counts,) int64, row after row.
            counts: (rows,) int64, >= 1.

        Returns:
            (rows, hidden), the hidden states of each row's last token.
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


class ModelStream:
    """A stream under any causal language model, through its own forward and ``DynamicCache``.

    Positions are passed explicitly: models do not derive them from the mask.
    """

    def __init__(self, language_model: LanguageModel) -> None:
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
        return self._model.hidden(
            input_ids,
            attention_mask=self._attention_mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
        )


def make_stream(language_model: LanguageModel, capacity: int) -> Stream:
    """Return the fastest stream that there is for the model.

    Args:
        language_model: The model, with its adapters on or off as they are now.
        capacity: Most tokens of a text.
    """
    for fits, stream in fast().stream_kinds:
        if fits(language_model):
            faster: Stream = stream(language_model, capacity)
            return faster
    return ModelStream(language_model)


@torch.no_grad()
@full_precision()
def check_decoding(
    language_model: LanguageModel,
    make: Callable[[LanguageModel, int], Stream] = make_stream,
) -> None:
    """Raise unless two cached steps under left padding equal one forward over the whole text.

    A model that ignores the cache or the padding (recurrent ones, which take a cache of another
    kind) would sample from other distributions than the ones that it is trained with, and so would
    one that reads ahead (XLNet).

    Args:
        language_model: The model.
        make: Returns a stream of the model for texts of so many tokens.

    Raises:
        ModelError: naming the model and how far its hidden states are off.
    """
    # Two texts of different lengths, so that one is padded, and two steps: the second reads a cache
    # that a step has written to.
    lengths, steps = (5, 3), 2
    width = max(lengths)
    name = type(language_model.model).__name__
    ids = torch.arange(1, len(lengths) * (width + steps) + 1).view(len(lengths), -1) * 7
    ids = (ids % language_model.vocab_size).to(language_model.device)
    prompts, mask = torch.zeros_like(ids[:, :width]), torch.zeros_like(ids[:, :width])
    for row, length in enumerate(lengths):
        prompts[row, width - length :], mask[row, width - length :] = ids[row, :length], 1
    gap, ahead, scale = 0.0, 0.0, 0.0
    try:
        stream = make(language_model, width + steps)
        step_states = [stream.start(prompts, mask)]
        for step in range(steps):
            rows = enumerate(lengths)
            step_states.append(stream.step(torch.stack([ids[r, n + step] for r, n in rows])))
        for row, length in enumerate(lengths):
            whole = language_model.hidden(ids[row : row + 1, : length + steps], use_cache=False)[0]
            prompt = language_model.hidden(ids[row : row + 1, :length], use_cache=False)[0]
            ahead = max(ahead, (prompt - whole[:length]).abs().max().item())
            for step, states in enumerate(step_states):
                expected = whole[length - 1 + step].float()
                gap = max(gap, (states[row].float() - expected).abs().max().item())
                scale = max(scale, expected.abs().max().item())
    except torch.OutOfMemoryError:  # which says nothing of the model
        raise
    except Exception as error:
        raise ModelError(
            f"{name} cannot be decoded with a key-value cache ({type(error).__name__}: {error}); "
            "use a decoder-only transformer such as GPT-2, Llama or Qwen"
        ) from error
    if not ahead <= (1e-4 if language_model.is_float32 else 0.05) * scale:
        raise ModelError(
            f"{name} reads tokens that come later (hidden states change by {ahead:.3g} of "
            f"{scale:.3g}); use a decoder-only transformer such as GPT-2, Llama or Qwen"
        )
    tolerance = 0.01 if language_model.is_float32 else 0.25
    if not gap <= tolerance * scale:
        raise ModelError(
            f"{name} decodes with a cache to other hidden states than its whole forward gives (off "
            f"by {gap:.3g} of {scale:.3g}), as recurrent models do here; use a decoder-only "
            "transformer such as GPT-2, Llama or Qwen"
        )
