"""Rollouts whose step is captured: the same work on the same memory, replayed by a GPU.

A step is two captured functions. `Decoder.read` reads the chosen tokens into hidden states. On a
GPU it is started as soon as they are chosen, so that it runs while the environment steps.
`Decoder.choose` goes from the states, the action masks and uniform numbers to the next tokens with
their log-probs, entropies and values. Tokens are copied to the host once a step; nothing else waits
for the GPU. On a CPU both are plain calls.
"""

import logging
import weakref
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokengym.agents.errors import ModelError
from tokengym.agents.fast.lora import MergedModel, decoding_model
from tokengym.agents.fast.replayed import Replayed, bucket
from tokengym.agents.fast.static import StaticStream
from tokengym.agents.policy.language_model import LENGTHS, CausalLM
from tokengym.agents.policy.models import PolicyModels
from tokengym.agents.policy.sampler import (
    Observation,
    Replies,
    SampledTokens,
    columns_needed,
    left_padded,
    not_finite,
)
from tokengym.agents.policy.sampling import Draws, as_action_mask, draw, packed, row_uniforms
from tokengym.agents.policy.sequences import sent
from tokengym.agents.policy.streams import Stream, check_decoding, decoded
from tokengym.base.registry import imported
from tokengym.rewards.models.loading import longest_input

logger = logging.getLogger(__name__)

HAS_FUSED_SHAPE = "tokengym.agents.fast.kernels.blocks:has_fused_shape"
FUSED_STREAM = "tokengym.agents.fast.kernels.blocks:FusedStream"
TEXT_COLUMNS = 640
"""Columns of the texts that kernels are tried on: attention's take 16 to 64 a turn, and those of
few rows 512 a program."""
FUSED_DRAW = "tokengym.agents.fast.kernels.vocabulary:draw"


class Decoder:
    """Memory and captured functions of a policy's rollouts, kept from one round to the next."""

    def __init__(self, policy: PolicyModels, rows: int, capacity: int) -> None:
        self._policy = policy
        self.rows, self.capacity = bucket(rows), capacity
        self.user: weakref.ref[CapturedSampler] | None = None
        self.vocab_size = policy.num_actions
        self._critic = policy.critic
        if self._critic is not None and self._critic.network is not None:
            self._critic = None  # it reads whole texts, when the round is over
        self._built_on = self._addresses()
        self._copies: list[MergedModel] = []
        self._streams: list[StaticStream] = []
        kernels = policy.kernels
        for model in policy.sampling_models:
            decodes, merged = decoding_model(model, policy.decoding_dtype)
            self._copies += [] if merged is None else [merged]
            self._streams.append(static_stream(decodes, capacity, rows=self.rows, kernels=kernels))
        device = policy.device
        self._draw = imported(FUSED_DRAW) if kernels else draw
        self._replayed = Replayed(device, must_capture=policy.settings.decoding == "static")
        self._temperature = torch.ones((), dtype=torch.float32, device=device)  # filled later
        self._masks: dict[str, Tensor] = {}
        self._mask_kind = ""  # "": everything is allowed; "shared" by all rows; one per row: "rows"
        self._shared_mask: Tensor | None = None  # as it was given last
        figures = torch.zeros(4, self.rows, dtype=torch.float32, device=device)
        self._uniforms, self.log_probs, self.entropy, values = figures
        self.values = None if self._critic is None else values
        self.allowed_tokens: Tensor | None = None
        """(rows, bytes) uint8, `packed`; None where all tokens are sampled among."""
        self._chosen = torch.zeros(self.rows, dtype=torch.int64, device=device)
        is_gpu = device.type == "cuda"
        self._given = torch.zeros(self.rows, dtype=torch.float32, pin_memory=is_gpu)
        self._copied = torch.zeros(self.rows, dtype=torch.int64, pin_memory=is_gpu)
        self._is_copied = torch.cuda.Event() if is_gpu else None

    @property
    def size(self) -> int:
        """Rows of the batch."""
        return self._streams[0].size

    @property
    def captured(self) -> bool:
        """Whether steps are captured graphs: `read` then returns before it is done."""
        return self._replayed.captures

    @property
    def is_fused(self) -> bool:
        """Whether kernels read tokens; else the model's own forward does."""
        return all(type(stream) is not StaticStream for stream in self._streams)

    @property
    def dtypes(self) -> set[torch.dtype]:
        """Precisions of the weights that are decoded with."""
        return {stream.states.dtype for stream in self._streams}

    @property
    def is_full(self) -> bool:
        """Whether the cache has no room for another token."""
        return self._streams[0].length == self.capacity

    def fits(self, rows: int, capacity: int) -> bool:
        """Return whether it can play such a round: large enough, on weights still in place."""
        return rows <= self.rows and capacity <= self.capacity and self.is_current

    @property
    def is_current(self) -> bool:
        """Whether the weights are where its steps read them."""
        return self._built_on == self._addresses()

    def start(self, input_ids: Tensor, attention_mask: Tensor) -> None:
        """Read the prompts of a new round, (rows, width) each, with the weights of this moment."""
        for merged in self._copies:
            merged.refresh()
        for stream in self._streams:
            stream.start(input_ids, attention_mask)
        rows = len(input_ids)
        if bucket(rows) > rows:
            self.keep(torch.arange(rows))

    def keep(self, rows: Tensor) -> None:
        """Continue with some rows of the batch, (kept,) int64, moved to its beginning.

        The last one is repeated up to the next size of a captured batch.
        """
        padded = rows[torch.arange(bucket(len(rows))).clamp(max=len(rows) - 1)]
        for stream in self._streams:
            stream.keep(sent(padded, self.log_probs.device))

    def read(self) -> None:
        """Read the tokens chosen last."""
        # Moving on stays outside of the graph, which is run more than once when it is captured.
        for stream in self._streams:
            stream.advance()
        self._replayed(("read", self.size), self._read)

    def _read(self) -> None:
        for stream in self._streams:
            stream.read()

    def append(self, tokens: Tensor, counts: Tensor) -> None:
        """Append replies, see `StaticStream.append`; tensors of the CPU."""
        device = self.log_probs.device
        for stream in self._streams:
            stream.append(sent(tokens, device), sent(counts, device))

    def allow(self, masks: Tensor | None, places: Tensor) -> None:
        """Set the action masks, (1 or kept, vocab) bool on the CPU, of the next tokens.

        The (kept,) places are rows of the batch.
        """
        self._mask_kind = "" if masks is None else "shared" if len(masks) == 1 else "rows"
        if masks is None:
            return
        if self._mask_kind not in self._masks:
            rows = 1 if self._mask_kind == "shared" else self.rows
            self._masks[self._mask_kind] = torch.ones(
                rows, masks.shape[1], dtype=torch.bool, device=self.log_probs.device
            )
        buffer = self._masks[self._mask_kind]
        if self._mask_kind == "rows":
            buffer[places] = sent(masks, buffer.device)
        elif self._shared_mask is None or not torch.equal(masks, self._shared_mask):
            buffer.copy_(sent(masks, buffer.device))
            self._shared_mask = masks

    def choose(self, uniforms: Tensor | None) -> None:
        """Choose the next token of every row by (size,) numbers of the CPU; None: the likeliest."""
        # From pinned memory numbers are copied without waiting for what the GPU is doing.
        samples = uniforms is not None
        if uniforms is not None:
            self._given[: self.size] = uniforms
            self._uniforms.copy_(self._given, non_blocking=True)
        is_one = self._policy.temperature == 1.0  # which saves a pass over the vocabulary
        if not is_one:
            self._temperature.fill_(self._policy.temperature)
        key = ("choose", self.size, self._mask_kind, samples, is_one)
        self._replayed(key, lambda: self._choose(samples, 1.0 if is_one else self._temperature))
        self._copied.copy_(self._chosen, non_blocking=True)
        if self._is_copied is not None:
            self._is_copied.record(torch.cuda.current_stream(self._chosen.device))

    def _choose(self, samples: bool, temperature: float | Tensor) -> None:
        size, policy = self.size, self._policy
        states, *auxiliary_states = (stream.states[:size] for stream in self._streams)
        mask = self._masks[self._mask_kind][:size] if self._mask_kind else None
        logits, allowed_tokens = policy.sampling_logits(
            self._streams[0].logits(states), mask, *auxiliary_states, temperature=temperature
        )
        if allowed_tokens is not None:
            bits = packed(allowed_tokens)
            if self.allowed_tokens is None:
                self.allowed_tokens = bits.new_zeros(self.rows, bits.shape[1])
            self.allowed_tokens[:size] = bits
        uniforms = self._uniforms[:size] if samples else None
        tokens, log_probs, entropy = self._draw(logits, uniforms, looks=False)
        for stream in self._streams:
            stream.tokens[:size, 0] = tokens
        # A token stands for whether its log-probability is finite: it is copied to the host anyway.
        self._chosen[:size] = torch.where(log_probs.isfinite(), tokens, -1)
        self.log_probs[:size], self.entropy[:size] = log_probs, entropy
        if self.values is not None and self._critic is not None:
            self.values[:size] = self._critic.of_states(states)

    def chosen(self) -> Tensor:
        """Return the tokens on the CPU, (rows,), -1 where a log-probability is not finite."""
        if self._is_copied is not None:
            self._is_copied.synchronize()
        return self._copied

    def tensors(self) -> list[Tensor]:
        """Return the tensors that take memory: copied weights and caches."""
        every_tensor = [tensor for stream in self._streams for tensor in stream.tensors()]
        for merged in self._copies:
            every_tensor += merged.language_model.parameters()
        return every_tensor

    def num_graph_bytes(self) -> int:
        """Return the bytes that the captured graphs take besides."""
        return self._replayed.num_bytes()

    def _addresses(self) -> list[int]:
        """Return the addresses of all tensors that the steps read, as the models have them now."""
        policy = self._policy
        models = (*policy.sampling_models, self._critic and policy.critic)
        known = [model for model in models if model is not None]
        return [tensor.data_ptr() for m in known for tensor in (*m.parameters(), *m.buffers())]


class CapturedSampler:
    """Plays a `CausalLMPolicy` as `CachedSampler` does, by steps that a GPU replays.

    Rows that end stay in the batch until half of it has ended.
    """

    def __init__(
        self,
        policy: PolicyModels,
        draws: Draws,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        self.policy = policy
        self.draws = draws
        self._share = share

    @torch.inference_mode()
    def begin(self, observation: Observation) -> None:
        """See `Sampler.begin`."""
        self._device = self.policy.device
        self._time = 0
        self._num_rows = len(observation["attention_mask"])
        self._replies = Replies(observation)
        multiple = LENGTHS if self._device.type == "cuda" else 1
        ids, attention_mask = left_padded(observation, self._device, multiple=multiple)
        self._capacity = columns_needed(observation, multiple=multiple)
        self._decoder = self._borrowed()
        self._decoder.start(ids, attention_mask)
        self._is_read = True
        # Environment rows that still write
        self._rows: NDArray[np.integer] = np.arange(self._num_rows)
        self._places = torch.arange(self._num_rows)  # and where they are in the batch
        self._on_device = sent(self._places, self._device)

    @torch.inference_mode()
    def act(
        self,
        rows: NDArray[np.integer],
        observation: Observation,
        action_masks: NDArray[np.generic] | None,
        *,
        deterministic: bool,
    ) -> SampledTokens:
        """See `Sampler.act`."""
        appended = self._replies.since(rows, observation)
        self._drop_all_but(rows)
        decoder = self._decoder
        masks = None
        if action_masks is not None:
            masks = as_action_mask(action_masks, "cpu", rows)
        uniforms = torch.zeros(decoder.size, dtype=torch.float32)
        drawn = row_uniforms(self._num_rows, self.draws, self._share)
        uniforms[self._places] = drawn[self._rows]
        if not self._is_read:
            decoder.read()
        if appended is not None:  # with the tokens chosen, which are read
            is_reply = np.ones(len(appended.tokens), dtype=bool)
            is_reply[np.cumsum(appended.counts) - appended.counts] = False
            counts = torch.zeros(decoder.size, dtype=torch.int64)
            counts[self._places] = torch.from_numpy(appended.counts - 1)
            decoder.append(torch.from_numpy(appended.tokens[is_reply]), counts)
        decoder.allow(masks, self._on_device)
        decoder.choose(None if deterministic else uniforms)
        # The GPU reads the tokens while the environment steps; rows that end are read in vain.
        self._is_read = decoder.captured and not decoder.is_full
        if self._is_read:
            decoder.read()
        actions = decoder.chosen()[self._places].numpy()
        for row in rows[actions < 0]:
            raise not_finite(int(row), self._time)
        self._time += 1
        here, allowed_tokens = self._on_device, decoder.allowed_tokens
        return SampledTokens(
            actions=actions,
            log_probs=decoder.log_probs[here],
            values=None if decoder.values is None else decoder.values[here],
            entropy=decoder.entropy[here],
            allowed_tokens=None if allowed_tokens is None else allowed_tokens[here],
            vocab_size=decoder.vocab_size,
        )

    def _drop_all_but(self, rows: NDArray[np.integer]) -> None:
        """Keep (kept,) rows and drop the others, where that leaves half the batch or less."""
        if len(rows) == len(self._rows):
            return
        self._places = self._places[torch.from_numpy(np.searchsorted(self._rows, rows))]
        self._rows = rows.copy()
        if 2 * bucket(len(rows)) <= self._decoder.size:
            self._decoder.keep(self._places)
            self._places = torch.arange(len(rows))
        self._on_device = sent(self._places, self._device)

    def _borrowed(self) -> Decoder:
        """Return a decoder that no living sampler uses, from the policy's store where one fits."""
        # A decoder is kept for its graphs, which take time to capture. One in the hands of another
        # sampler, an evaluation's say, is left alone.
        decoders = self.policy.decoders
        rows, capacity = self._num_rows, self._capacity
        for decoder in list(decoders):
            user = None if decoder.user is None else decoder.user()
            if user is not None and user is not self:
                continue
            if decoder.fits(rows, capacity):
                break
            decoders.remove(decoder)  # its memory with it
            if decoder.is_current:
                # What replaces it serves both: training on few long texts and evaluation on many
                # short ones would otherwise replace each other's decoder in every round.
                rows, capacity = max(rows, decoder.rows), max(capacity, decoder.capacity)
        else:
            decoder = Decoder(self.policy, rows, capacity)
            decoders.append(decoder)
        decoder.user = weakref.ref(self)
        return decoder


# --- the stream under captured steps: the model's own forward, or kernels that equal it ----------


def static_stream(
    language_model: CausalLM, capacity: int, *, rows: int, kernels: bool
) -> StaticStream:
    """Return a static stream: by kernels where they decode what the model's forward gives."""
    if kernels and imported(HAS_FUSED_SHAPE)(language_model):
        fused: type[StaticStream] = imported(FUSED_STREAM)
        try:
            streams = partial(StaticStream, rows=2), partial(fused, rows=2)
            check_decoding(language_model, streams[1])
            check_steps(language_model, *streams, capacity)
        except ModelError as error:
            logger.warning("steps are not fused, which is slower: %s", error)
        else:
            return fused(language_model, capacity, rows=rows)
    return StaticStream(language_model, capacity, rows=rows)


def check_steps(
    language_model: CausalLM,
    plain: Callable[..., Stream],
    fused: Callable[..., Stream],
    capacity: int,
) -> None:
    """Raise unless a model's fused steps read what its whole forward reads, as plain steps do.

    The texts are long enough that attention takes several turns and, where the cache is as large,
    several programs a row; they begin at different columns.
    """
    longest = min(TEXT_COLUMNS, capacity, longest_input(language_model.model) or capacity) - 2
    lengths, capacity = (longest, max(1, longest - 37)), max(capacity, longest + 2)
    gaps = []
    for make in (plain, fused):
        states, expected, _ = decoded(language_model, make, lengths, capacity)
        gaps.append(float((states - expected).norm() / expected.norm()))
    rounding = 1e-3 if language_model.is_float32 else 0.02
    if not gaps[1] <= max(1.5 * gaps[0], rounding):
        raise ModelError(
            f"texts of {longest} tokens are decoded by kernels to hidden states that are off by "
            f"{gaps[1]:.3g} of their size, by the model's own forward by {gaps[0]:.3g}"
        )
