"""What a policy says of responses that are there: log-probs, values, entropy and KL of each token.

One forward over prompt and response gives the hidden state before each response token; logits, the
large part, are computed at response positions alone, and a chunk at a time where they are many.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokengym.agents import losses
from tokengym.agents.errors import ModelError
from tokengym.agents.policy.door import fast
from tokengym.agents.policy.head import Figures, token_figures
from tokengym.agents.policy.logits import ShapesLogits
from tokengym.agents.policy.sampling import (
    chosen_log_probs,
    chunk_size,
    in_chunks,
)
from tokengym.agents.policy.sequences import ActionMasks, Sequences


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The policy's figures for given responses; 0 past a response's end."""

    log_probs: Tensor
    """(batch, time), nats, of the response's tokens after temperature and action mask."""
    values: Tensor | None
    """(batch, time), reward units, of the text before each token; None without a critic."""
    entropy: Tensor | None
    """(batch, time), nats, of the distribution each token was drawn from, if asked for."""
    kl: Tensor | None
    """(batch, time), nats, KL(policy || reference) exact over the vocabulary, if asked for."""


class ReadsResponses(ShapesLogits):
    """A policy's figures for given responses; `CausalLMPolicy` adds the models, and acts."""

    largest: Callable[[int], int] | None
    """Returns the largest of all processes' numbers where they share the reference out."""

    def states(self, sequences: Sequences, *, reference: bool = False) -> Tensor:
        """Return the hidden state before each response token, (tokens, hidden), row by row.

        One forward over prompt and response; ``sequences.response_positions`` is the order.
        """
        with self.weights(reference) as language_model:
            return language_model.response_states(sequences, kernels=self.kernels)

    def evaluate(
        self,
        sequences: Sequences,
        action_masks: ActionMasks | None = None,
        *,
        with_entropy: bool = False,
        with_kl: bool = False,
        with_values: bool = True,
        ref_states: Tensor | None = None,
        value_head_only: bool = False,
    ) -> Evaluation:
        """Return log-probs and values of the responses under the policy as it is now.

        Logits are computed at response positions only.

        Args:
            sequences: The texts.
            action_masks: Tokens that could be sampled at each step; None: all.
            with_entropy: Compute the entropy too.
            with_kl: Compute the exact KL to the reference too.
            with_values: Compute the values too, if there is a critic.
            ref_states: (batch, time, hidden) from `reference_states`; None computes them again.
            value_head_only: Let gradients reach the value head alone, and its own network.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not value_head_only):
            states = self.states(sequences)  # (tokens, hidden): at response positions alone
        rows, times, _ = sequences.response_positions
        figures = self._figures(
            sequences,
            states,
            action_masks,
            with_kl=with_kl,
            with_entropy=with_entropy,
            ref_states=None if ref_states is None else ref_states[rows, times],
        )
        with_values = with_values and self.critic is not None
        return Evaluation(
            kl=sequences.padded(figures.pop(0)) if with_kl else None,
            log_probs=sequences.padded(figures.pop(0)),
            values=sequences.padded(self._values(sequences, states)) if with_values else None,
            entropy=sequences.padded(figures.pop(0)) if with_entropy else None,
        )

    def values(self, sequences: Sequences) -> Tensor:
        """Return the values before each response token, (batch, time), with gradients.

        They take one pass of the value's own network, or of the trunk if it has none.
        """
        return sequences.padded(self._values(sequences))

    def _values(self, sequences: Sequences, trunk_states: Tensor | None = None) -> Tensor:
        """Return the value of the text before each response token, (tokens,), reward units.

        ``trunk_states`` are the policy's `states`, where they are known.
        """
        if self.critic is None:
            raise ModelError("the policy has no critic, and so no values; take has_critic=True")
        network, states = self.critic.network, trunk_states
        if network is not None or states is None:
            reader = network or self.language_model
            states = reader.response_states(sequences, kernels=self.kernels)
        return self.critic.of_states(states)

    def _figures(
        self,
        sequences: Sequences,
        states: Tensor,
        action_masks: ActionMasks | None,
        *,
        reference: bool = False,
        with_kl: bool = False,
        with_entropy: bool = False,
        ref_states: Tensor | None = None,
    ) -> list[Tensor]:
        """Return KL, log-probs and entropy of response tokens, (tokens,) each, those asked for.

        There are two ways to them: from the head's weight, which keeps no logits for the gradient,
        where there are kernels for it or the logits are many; from the logits elsewhere.

        ``states``, (tokens, hidden), are the policy's, or with ``reference`` the reference's, of
        which the log-probs then are; ``ref_states``, (tokens, hidden), are computed if the KL needs
        them and they are None.
        """
        rows, times, columns = sequences.response_positions
        tokens = sequences.input_ids[rows, columns]  # (tokens,)
        if ref_states is None:
            with torch.no_grad():
                ref_states = self.states(sequences, reference=True) if with_kl else states
        is_large = len(tokens) > chunk_size(self.num_actions) or states.is_cuda
        if self.kernels or (is_large and torch.is_grad_enabled()):
            with self.weights(reference) as model:
                head = model.plain_head()
            with self.weights(reference or with_kl) as model:
                ref_head = model.plain_head()
            if head is not None and ref_head is not None:
                asked = Figures(
                    tokens=tokens,
                    temperature=self.temperature,
                    num_actions=self.num_actions,
                    size=chunk_size(self.num_actions),
                    masks=None if action_masks is None else (action_masks, rows, times),
                    with_entropy=with_entropy,
                    reference=(ref_states, ref_head) if with_kl else None,
                    products=self.language_model.products,
                )
                has_kernels = self.kernels and head.dtype != torch.float64
                compute = fast().token_figures if has_kernels else token_figures
                return list(compute(states, head, asked))

        def shaped(states: Tensor, rows: Tensor, times: Tensor, reference: bool) -> Tensor:
            logits = self.shaped_logits(states, None, reference=reference)
            return logits if action_masks is None else action_masks.forbid_(logits, rows, times)

        def of_tokens(
            states: Tensor, ref_states: Tensor, tokens: Tensor, rows: Tensor, times: Tensor
        ) -> tuple[Tensor, ...]:
            logits = shaped(states, rows, times, reference)  # (chunk, vocab)
            figures = []
            if with_kl:
                with torch.no_grad():
                    ref_logits = shaped(ref_states, rows, times, True)
                figures.append(losses.full_kl(logits, ref_logits))
            figures.append(chosen_log_probs(logits, tokens))
            if with_entropy:
                figures.append(losses.entropy(logits))
            return tuple(figures)

        inputs = states, ref_states, tokens, rows, times
        return list(in_chunks(of_tokens, *inputs, vocab_size=self.num_actions))

    def response_log_probs(
        self,
        sequences: Sequences,
        action_masks: ActionMasks | None = None,
        *,
        reference: bool = False,
        ref_states: Tensor | None = None,
        max_size: int = 64,
    ) -> Tensor:
        """Return log-probs of the responses without gradient, (batch, time), nats.

        Args:
            sequences: Any number of texts; similar lengths are run together.
            action_masks: Tokens that could be sampled at each step; None: all.
            reference: Under the frozen reference rather than the policy.
            ref_states: (batch, time, hidden) from `reference_states`; None computes them again.
            max_size: Most texts in one forward.
        """

        def figures(part: Sequences, masks: ActionMasks | None, kept: Tensor | None) -> Tensor:
            states = self.states(part, reference=reference) if kept is None else kept
            return self._figures(part, states, masks, reference=reference)[0]

        return self._in_buckets(
            figures, sequences, action_masks, ref_states, max_size, reference=reference
        )

    def response_kl(
        self,
        sequences: Sequences,
        action_masks: ActionMasks | None = None,
        *,
        ref_states: Tensor | None = None,
        max_size: int = 64,
    ) -> Tensor:
        """Return the exact KL(policy || reference) before each token, (batch, time), nats.

        Arguments are those of `response_log_probs`.
        """

        def figures(part: Sequences, masks: ActionMasks | None, kept: Tensor | None) -> Tensor:
            return self._figures(part, self.states(part), masks, with_kl=True, ref_states=kept)[0]

        return self._in_buckets(figures, sequences, action_masks, ref_states, max_size)

    def response_entropy(
        self, sequences: Sequences, action_masks: ActionMasks | None = None, *, max_size: int = 64
    ) -> Tensor:
        """Return the policy's entropy before each token, (batch, time), nats.

        Arguments are those of `response_log_probs`.
        """

        def figures(part: Sequences, masks: ActionMasks | None, _: Tensor | None) -> Tensor:
            return self._figures(part, self.states(part), masks, with_entropy=True)[1]

        return self._in_buckets(figures, sequences, action_masks, None, max_size, reference=False)

    def response_values(
        self, sequences: Sequences, action_masks: ActionMasks | None = None, *, max_size: int = 64
    ) -> Tensor:
        """Return `values` without gradient; arguments are those of `response_log_probs`."""

        def figures(part: Sequences, *_: Any) -> Tensor:
            return self._values(part)

        return self._in_buckets(figures, sequences, action_masks, None, max_size, reference=False)

    def reference_states(self, sequences: Sequences, *, max_size: int = 64) -> Tensor:
        """Return the reference's hidden states before each token, (batch, time, hidden).

        They are a small part of its logits where the vocabulary is large. Arguments are those of
        `response_log_probs`.
        """

        def figures(part: Sequences, *_: Any) -> Tensor:
            return self.states(part, reference=True)

        return self._in_buckets(figures, sequences, None, None, max_size)

    @torch.no_grad()
    def _in_buckets(
        self,
        figures: Callable[[Sequences, ActionMasks | None, Tensor | None], Tensor],
        sequences: Sequences,
        action_masks: ActionMasks | None,
        ref_states: Tensor | None,
        max_size: int,
        *,
        reference: bool = True,
    ) -> Tensor:
        """Return figures of all response tokens, (batch, time, ...), without gradient.

        ``figures`` returns them, (tokens, ...), of some texts of similar lengths, given these,
        their masks, and their part of ``ref_states``, (tokens, hidden). ``reference`` says whether
        the reference is to read, which all processes let it do equally often where they share it
        out. The other arguments are those of `response_log_probs`.
        """
        whole = None
        buckets = sequences.buckets(max_size)
        if reference and self.largest is not None:
            buckets += buckets[-1:] * (self.largest(len(buckets)) - len(buckets))
        for bucket in buckets:
            part = sequences.select(bucket)
            rows, times, _ = part.response_positions
            places = bucket[rows], times
            masks = None if action_masks is None else action_masks.select(bucket)
            computed = figures(part, masks, None if ref_states is None else ref_states[places])
            if whole is None:
                whole = computed.new_zeros(*sequences.response_mask.shape, *computed.shape[1:])
            whole[places] = computed
        assert whole is not None
        return whole

    def log_probs(
        self,
        prompt_ids: Sequence[Sequence[int]],
        response_ids: Sequence[Sequence[int]],
        *,
        reference: bool = False,
        action_masks: Sequence[NDArray[np.generic]] | None = None,
    ) -> list[NDArray[np.float32]]:
        """Return each response's token log-probs after temperature and action mask.

        Args:
            prompt_ids: Token ids of the prompts.
            response_ids: Token ids of the responses, as sampled.
            reference: Under the frozen reference rather than the policy.
            action_masks: One (len(response), vocab) array per response; None allows everything.

        Returns:
            One (len(response),) float32 array per response, nats.
        """
        sequences = Sequences.from_ids(prompt_ids, response_ids, self.device)
        masks = None
        if action_masks is not None:
            masks = ActionMasks.from_arrays(action_masks, self.device)
        log_probs = self.response_log_probs(sequences, masks, reference=reference).cpu().numpy()
        return [row[: len(ids)] for row, ids in zip(log_probs, response_ids, strict=True)]
