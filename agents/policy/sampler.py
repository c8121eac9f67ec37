"""Fast generation through an environment's own ``step``: one new token per step and row.

A `Sampler` chooses the tokens; the texts under a model are a `Stream` of `streams`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokengym.agents.errors import NonFiniteError
from tokengym.agents.policy.models import PolicyModels
from tokengym.agents.policy.sampling import Draws, as_action_mask, draw, packed, row_uniforms
from tokengym.agents.policy.streams import make_stream

Observation: TypeAlias = Mapping[str, NDArray[np.generic]]
"""An observation of an environment: ids of tokens, or a dictionary with them."""


@dataclass(frozen=True, kw_only=True)
class SampledTokens:
    """Tokens chosen in one step, one per active row; None for what the agent does not know."""

    actions: NDArray[np.int64]
    """(active,) token ids."""
    log_probs: Tensor | None = None
    """(active,), nats, after temperature and action mask."""
    values: Tensor | None = None
    """(active,), reward units, of the text before the token."""
    entropy: Tensor | None = None
    """(active,), nats, of the distribution the token was drawn from."""
    allowed_tokens: Tensor | None = None
    """(active, ceil(vocab / 8)) uint8, the tokens it was drawn among as `packed` bits, where the
    agent itself excluded some."""
    vocab_size: int = 0
    """Words of the vocabulary, where ``allowed_tokens`` are given."""


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
    ) -> SampledTokens:
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
        for model in self.policy.sampling_models:
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
    ) -> SampledTokens:
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
        states, *auxiliary_states = hidden  # (active, hidden) each
        mask = None
        if action_masks is not None:
            mask = as_action_mask(action_masks, self._device, rows)
        # (active, vocab) both
        logits, allowed_tokens = policy.sampling_logits(
            streams[0].logits(states), mask, *auxiliary_states
        )
        # Of all rows, (rows,): what a row draws must not hang on which others have ended.
        uniforms = row_uniforms(self._num_rows, self.draws, self._share)
        if len(rows) < self._num_rows:
            uniforms = uniforms[rows]  # (active,)
        uniforms = uniforms.to(logits.device)
        self._tokens, log_probs, entropy = draw(logits, None if deterministic else uniforms)
        # One look at a sum, which waits for the device once a step; the row is found if it fails.
        if not math.isfinite(log_probs.sum().item()):
            raise not_finite(rows[int(log_probs.isfinite().int().argmin())], self._time)
        self._time += 1
        return SampledTokens(
            actions=self._tokens.cpu().numpy(),
            log_probs=log_probs,
            values=None if self._critic is None else self._critic.of_states(states),
            entropy=entropy,
            allowed_tokens=None if allowed_tokens is None else packed(allowed_tokens),
            vocab_size=logits.shape[-1],
        )


class Replies:
    """Notices the replies of partners, which observations have beside the tokens chosen."""

    def __init__(self, observation: Observation) -> None:  # at the beginning of a round
        self._ends = text_ends(np.asarray(observation["attention_mask"]))

    def since(self, rows: NDArray[np.integer], observation: Observation) -> Appended | None:
        """Return what was appended to the rows that act since the last call, None without reply.

        Each of them had a token appended; the observation has every row.
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

    Both are (rows, width) int64, the width a multiple of the number given.
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
    text decides where the shortest continues, and that one has further to go. There is room for
    every round's padding to a multiple, see `left_padded`.
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
