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
                (other,) = self._sums(sequences, reference=True)
        log_probs, *counts = self._sums(sequences, reference=False, with_likeliest=with_likeliest)
        return log_probs, counts[0] if counts else other

    @torch.no_grad()
    def reference_log_probs(
        self, input_ids: Tensor, prompt_lengths: Tensor, response_lengths: Tensor
    ) -> Tensor:
        """Return what `forward` does under the reference alone, (rows,) float32, nats."""
        sequences = Sequences(
            input_ids=input_ids, prompt_lengths=prompt_lengths, response_lengths=response_lengths
        )
        return self._sums(sequences, reference=True)[0]

    def _sums(
        self, sequences: Sequences, *, reference: bool, with_likeliest: bool = False
    ) -> tuple[Tensor, ...]:
        """Return the responses' log-probabilities and maybe counts, (rows,), see `forward`.

        They are computed bucket by bucket of similar lengths.
        """
        # Texts of similar length are run together; the sums are then put back into the rows' order.
        buckets = sequences.buckets()
        kinds: dict[str, bool] = {"reference": reference, "with_likeliest": with_likeliest}
        if len(buckets) == 1:
            return self._bucket_sums(sequences, **kinds)
        sums = [self._bucket_sums(sequences.select(rows), **kinds) for rows in buckets]
        order = torch.cat(buckets).argsort()
        return tuple(torch.cat(parts)[order] for parts in zip(*sums, strict=True))

    def _bucket_sums(
        self, sequences: Sequences, *, reference: bool, with_likeliest: bool
    ) -> tuple[Tensor, ...]:
        """Return the same, (rows,) each, by one forward."""
        rows, _, columns = sequences.response_positions
        with self.policy.weights(reference) as model:

            def figures_of(states: Tensor, tokens: Tensor) -> tuple[Tensor, ...]:
                logits = model.logits(states)[:, : self.policy.num_actions].float()
                log_probs = chosen_log_probs(logits, tokens)
                if not with_likeliest:
                    return (log_probs,)
                return log_probs, (logits.detach().argmax(-1) == tokens).float()

            inputs = model.response_states(sequences), sequences.input_ids[rows, columns]
            size = chunk_size(self.policy.num_actions)
            if len(rows) <= size:
                figures = figures_of(*inputs)
            else:
                figures = in_chunks(figures_of, *inputs, size=size)
        return tuple(
            figure.new_zeros(len(sequences)).index_add(0, rows, figure) for figure in figures
        )


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
