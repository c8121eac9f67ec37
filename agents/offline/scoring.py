"""Log-probabilities of whole responses under policy and reference."""

from typing import Any

import torch
from torch import Tensor, nn

from tokengym.agents.policy.policy import CausalLMPolicy
from tokengym.agents.policy.sampling import chosen_log_probs, chunk_size, in_chunks
from tokengym.agents.policy.sequences import Sequences, sent

REFERENCE = ("ref_chosen_logps", "ref_rejected_logps")
"""Columns of reference log-probabilities, by TRL's names: sums over a response, nats."""
INPUTS = ("input_ids", "prompt_lengths", "response_lengths")


class ResponseScorer(nn.Module):
    """Module that a trainer trains: ids in, the log-probability of each response out.

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
        self._policies = (policy,)  # in a tuple: its value head is no part of this module
        self._disable_dropout = disable_dropout
        self.train(False)

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
        """Compute blocks again in the backward pass; `CausalLM` knows how."""
        del settings
        self.language_model.recompute = True

    activation_checkpointing_enable = gradient_checkpointing_enable

    def forward(
        self,
        input_ids: Tensor,
        prompt_lengths: Tensor,
        response_lengths: Tensor,
        with_reference: bool = False,
        with_likeliest: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the summed log-probability of each row's response, (rows,) float32, nats.

        Args:
            input_ids: (rows, length) int64, prompt then response, padded on the right.
            prompt_lengths: (rows,) tokens.
            response_lengths: (rows,) tokens.
            with_reference: Compute them under the reference too, without gradient.
            with_likeliest: Count the response tokens that are the likeliest at their place; not
                beside the reference.

        Returns:
            Under the policy; and under the reference, or the counts, (rows,) float32, or None.
        """
        sequences = Sequences(
            input_ids=input_ids, prompt_lengths=prompt_lengths, response_lengths=response_lengths
        )
        other = None
        if with_reference:
            with torch.no_grad():
                (other,) = self.response_sums(sequences, reference=True)
        log_probs, *counts = self.response_sums(sequences, with_likeliest=with_likeliest)
        return log_probs, counts[0] if counts else other

    def response_sums(
        self, sequences: Sequences, *, reference: bool = False, with_likeliest: bool = False
    ) -> tuple[Tensor, ...]:
        """Return the responses' log-probabilities and maybe counts, (rows,) each, see `forward`."""
        if reference and self.reference is None and self.language_model.training:
            # A reference is read without dropout, also where it is the model with its adapters off.
            modules = [part for part in self.language_model.modules() if part.training]
            self.language_model.eval()
            try:
                return self.response_sums(sequences, reference=True, with_likeliest=with_likeliest)
            finally:
                for part in modules:
                    part.training = True
        buckets = sequences.buckets()
        if len(buckets) == 1:
            return self._bucket_sums(sequences, reference, with_likeliest)
        sums = [self._bucket_sums(sequences.select(b), reference, with_likeliest) for b in buckets]
        order = sent(torch.cat(buckets).argsort(), sequences.input_ids.device)  # the rows' own
        return tuple(torch.cat(parts)[order] for parts in zip(*sums, strict=True))

    def _bucket_sums(
        self, sequences: Sequences, reference: bool, with_likeliest: bool
    ) -> tuple[Tensor, ...]:
        """Return the same by one forward."""
        (policy,) = self._policies
        rows, _, columns = sequences.response_positions
        with policy.weights(reference) as model:

            def figures_of(states: Tensor, tokens: Tensor) -> tuple[Tensor, ...]:
                logits = model.logits(states)[:, : policy.num_actions].float()
                log_probs = chosen_log_probs(logits, tokens)
                if not with_likeliest:
                    return (log_probs,)
                return log_probs, (logits.detach().argmax(-1) == tokens).float()

            inputs = model.response_states(sequences), sequences.input_ids[rows, columns]
            size = chunk_size(policy.num_actions)
            if len(rows) <= size:
                figures = figures_of(*inputs)
            else:
                figures = in_chunks(figures_of, *inputs, size=size)
        return tuple(
            figure.new_zeros(len(sequences)).index_add(0, rows, figure) for figure in figures
        )
