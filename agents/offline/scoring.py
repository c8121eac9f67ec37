"""Log-probabilities of whole responses under policy and reference: in training, and beforehand."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tokengym.agents.policy.policy import CausalLMPolicy
from tokengym.agents.policy.sampling import chosen_log_probs, chunk_size, in_chunks
from tokengym.agents.policy.sequences import Sequences

if TYPE_CHECKING:
    from accelerate import Accelerator
    from datasets import Dataset

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
        """Return the summed log-probability of each row's response, (rows,) float32, nats.

        Args:
            input_ids: (rows, length) int64, prompt then response, padded on the right.
            prompt_lengths: (rows,) tokens.
            response_lengths: (rows,) tokens.
            with_reference: Compute them under the reference too, without gradient.

        Returns:
            Under the policy, and under the reference (or None).
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
        # Texts of similar length are run together; the sums are then put back into the rows' order.
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
        rows, _, columns = sequences.response_positions
        with self.policy.weights(reference) as model:

            def log_probs_of(states: Tensor, tokens: Tensor) -> tuple[Tensor]:
                logits = model.logits(states)[:, : self.policy.num_actions]
                return (chosen_log_probs(logits.float(), tokens),)

            inputs = model.response_states(sequences), sequences.input_ids[rows, columns]
            size = chunk_size(self.policy.num_actions)
            if len(rows) <= size:
                (log_probs,) = log_probs_of(*inputs)
            else:
                (log_probs,) = in_chunks(log_probs_of, *inputs, size=size)
        return log_probs.new_zeros(len(sequences)).index_add(0, rows, log_probs)


# --- the reference, computed once -----------------------------------------------------------------


def reference_log_probs(
    scorer: ResponseScorer,
    dataset: "Dataset",
    collate: Any,
    *,
    batch_size: int,
    accelerator: "Accelerator",
) -> NDArray[np.float32]:
    """Return the log-probabilities of chosen and rejected responses under the reference.

    Each process scores a share of the pairs, similar lengths together.

    Args:
        scorer: Whose policy has the reference.
        dataset: Pairs as ids.
        collate: Makes a batch of rows.
        batch_size: Pairs per forward.
        accelerator: Knows the processes.

    Returns:
        (pairs, 2), nats.
    """
    order = np.argsort(dataset["length"], kind="stable")
    mine = order[accelerator.process_index :: accelerator.num_processes]
    sums = torch.zeros(len(dataset), 2, dtype=torch.float32, device=accelerator.device)
    for start in range(0, len(mine), batch_size):
        rows = mine[start : start + batch_size]
        batch = collate([dataset[int(row)] for row in rows])
        inputs = {name: batch[name].to(accelerator.device) for name in INPUTS}
        batch_sums = scorer.reference_log_probs(*(inputs[name] for name in INPUTS))  # (2 * rows,)
        sums[torch.from_numpy(rows).to(sums.device)] = batch_sums.view(2, -1).T  # chosen come first
    total: Any = accelerator.reduce(sums, "sum")  # each row is one process's, 0 at the others
    log_probs: NDArray[np.float32] = total.cpu().numpy()
    return log_probs
