"""The value function of a policy: a linear head on the trunk or on a network of its own."""

import torch
from torch import Tensor, nn

from tokengym.agents.policy.language_model import LanguageModel
from tokengym.agents.policy.sequences import Sequences


class ValueFunction(nn.Module):
    """Values of texts, in reward units; they start at zero.

    Args:
        trunk: The policy's language model, whose hidden states the head reads by default.
        own_network: Read those of a network of its own instead, a copy of the trunk.
    """

    def __init__(self, trunk: LanguageModel, *, own_network: bool) -> None:
        super().__init__()
        self.network: LanguageModel | None = trunk.twin() if own_network else None
        self.head = nn.Linear(trunk.hidden_size, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self._trunk = [trunk]  # in a list: it is not part of this module

    def of_states(self, states: Tensor) -> Tensor:
        """Return the values of hidden states, (n, hidden) -> (n,), reward units."""
        return self.head(states.to(self.head.weight.dtype)).squeeze(-1)

    def of_tokens(
        self, sequences: Sequences, trunk_states: Tensor, *, kernels: bool = False
    ) -> Tensor:
        """Return the value of the text before each response token, (tokens,).

        Args:
            sequences: The texts.
            trunk_states: (tokens, hidden), the policy's own states, which the head reads where the
                value has no network of its own.
            kernels: See `LanguageModel.response_states`.
        """
        if self.network is None:
            return self.of_states(trunk_states)
        return self.of_states(self.network.response_states(sequences, kernels=kernels))

    @torch.no_grad()
    def of_responses(
        self, sequences: Sequences, *, max_size: int = 64, kernels: bool = False
    ) -> Tensor:
        """Return the value of the text before each response token, (batch, time).

        Args:
            sequences: Any number of texts; similar lengths are run together.
            max_size: Most texts in one forward.
            kernels: See `LanguageModel.response_states`.
        """
        values = torch.zeros(sequences.response_mask.shape, device=self.head.weight.device)
        for bucket in sequences.buckets(max_size):
            part = sequences.select(bucket)
            rows, times, _ = part.response_positions()
            states = self._reader.response_states(part, kernels=kernels)
            values[bucket[rows], times] = self.of_states(states)
        return values

    @torch.no_grad()
    def after_responses(self, sequences: Sequences, *, max_size: int = 64) -> Tensor:
        """Return the value of the text after each response's last token, (batch,).

        Args:
            sequences: Any number of texts; similar lengths are run together.
            max_size: Most texts in one forward.
        """
        values = torch.zeros(len(sequences), device=self.head.weight.device)
        for bucket in sequences.buckets(max_size):
            part = sequences.select(bucket)
            hidden = self._reader.hidden(part.input_ids, use_cache=False)
            rows = torch.arange(len(part), device=hidden.device)
            values[bucket] = self.of_states(hidden[rows, part.lengths - 1])
        return values

    @property
    def _reader(self) -> LanguageModel:
        """The model whose hidden states the head reads."""
        return self.network or self._trunk[0]
