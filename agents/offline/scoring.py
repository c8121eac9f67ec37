"""Log-probabilities of whole responses under policy and reference, as one module to train."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tokengym.agents.policy.language_model import LanguageModel
from tokengym.agents.policy.policy import CausalLMPolicy
from tokengym.agents.policy.sampling import chosen_log_probs
from tokengym.agents.policy.sequences import Sequences

MAX_LOGITS = 2**27
"""Most logits kept for the backward pass (512 MB in float32); what is more is computed again."""


class ResponseScorer(nn.Module):
    """What a trainer trains: ids in, each response's log-probability out.

    Everything that reads weights happens in `forward`, so that DDP's and FSDP's hooks see it.
    Logits are made at response positions only, and rows of very different lengths are run apart.

    Args:
        policy: Whose language model learns.
        disable_dropout: Keep dropout off while training.
        with_reference: Whether `forward` can be asked for the reference too; otherwise the frozen
            copy is no part of this module and goes to no device with it.
    """

    accepts_loss_kwargs = True
    """Tells the Trainer that the loss is divided by the items of the whole accumulated batch."""

    def __init__(
        self, policy: CausalLMPolicy, *, disable_dropout: bool, with_reference: bool
    ) -> None:
        super().__init__()
        self.language_model = policy.language_model
        self.reference = policy.reference if with_reference else None
        self._policy = [policy]  # in a list: its value head is no part of this module
        self._disable_dropout = disable_dropout
        self.train(False)

    @property
    def policy(self) -> CausalLMPolicy:
        """Whose language model this is."""
        return self._policy[0]

    @property
    def _no_split_modules(self) -> Any:
        """The blocks that FSDP wraps, as the model itself names them."""
        return getattr(self.language_model.model, "_no_split_modules", None)

    def train(self, mode: bool = True) -> "ResponseScorer":
        """Set the mode; with ``disable_dropout`` it is always that of evaluation."""
        super().train(mode and not self._disable_dropout)
        if self.reference is not None:
            self.reference.eval()
        return self

    def gradient_checkpointing_enable(self, **settings: Any) -> None:
        """Compute blocks again in the backward pass; `LanguageModel` knows how."""
        del settings
        self.language_model.recompute = True

    activation_checkpointing_enable = gradient_checkpointing_enable

    def forward(
        self,
        input_ids: Tensor,
        prompt_lengths: Tensor,
        response_lengths: Tensor,
        with_reference: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the summed log-probability of each row's response.

        Args:
            input_ids: (rows, length) int64, prompt then response, padded on the right.
            prompt_lengths: (rows,) tokens.
            response_lengths: (rows,) tokens.
            with_reference: Compute them under the reference too, without gradient.

        Returns:
            (rows,) float32, nats, under the policy, and under the reference (or None).
        """
        sequences = Sequences(
            input_ids=input_ids, prompt_lengths=prompt_lengths, response_lengths=response_lengths
        )
        reference = None
        if with_reference:
            with torch.no_grad():
                reference = self._log_probs(sequences, reference=True)
        return self._log_probs(sequences, reference=False), reference

    @torch.no_grad()
    def reference_log_probs(
        self, input_ids: Tensor, prompt_lengths: Tensor, response_lengths: Tensor
    ) -> Tensor:
        """Return what `forward` does under the reference alone, (rows,) float32, nats."""
        sequences = Sequences(
            input_ids=input_ids, prompt_lengths=prompt_lengths, response_lengths=response_lengths
        )
        return self._log_probs(sequences, reference=True)

    def _log_probs(self, sequences: Sequences, *, reference: bool) -> Tensor:
        """Return the responses' log-probabilities, (rows,), bucket by bucket of similar lengths."""
        buckets = sequences.buckets()
        if len(buckets) == 1:
            return self._bucket_log_probs(sequences, reference=reference)
        sums = [
            self._bucket_log_probs(sequences.select(rows), reference=reference) for rows in buckets
        ]
        order = torch.cat(buckets).argsort()
        return torch.cat(sums)[order]

    def _bucket_log_probs(self, sequences: Sequences, *, reference: bool) -> Tensor:
        """Return the responses' log-probabilities, (rows,), by one forward."""
        rows, _, columns = sequences.response_positions()
        tokens = sequences.input_ids[rows, columns]
        with self.policy.weights(reference) as model:
            states = model.response_states(sequences)  # (tokens, hidden)
            log_probs = self._token_log_probs(model, states, tokens)
        return log_probs.new_zeros(len(sequences)).index_add(0, rows, log_probs)

    def _token_log_probs(self, model: LanguageModel, states: Tensor, tokens: Tensor) -> Tensor:
        """Return each token's log-probability, (tokens,) float32; in parts if there are many."""
        size = max(MAX_LOGITS // self.policy.num_actions, 1)
        if len(tokens) <= size:
            return self._part_log_probs(model, states, tokens)
        parts = zip(states.split(size), tokens.split(size), strict=True)
        return torch.cat(
            [checkpoint(self._part_log_probs, model, *part, use_reentrant=False) for part in parts]
        )

    def _part_log_probs(self, model: LanguageModel, states: Tensor, tokens: Tensor) -> Tensor:
        logits = model.logits(states)[:, : self.policy.num_actions]
        return chosen_log_probs(logits.float(), tokens)
