"""The value function of a policy."""

import torch
from torch import Tensor, nn

from tokengym.agents.errors import ModelError
from tokengym.agents.policy.language_model import CausalLM
from tokengym.agents.policy.sequences import Sequences, sent
from tokengym.agents.policy.settings import ValueNetwork
from tokengym.base.stored.adapters import merged
from tokengym.rewards import RewardModel, WithAttribution
from tokengym.rewards.scorers.base import Scorer


class ValueFunction(nn.Module):
    """Values of texts, in reward units; they start at zero, or at a reward model's scores.

    The head reads the hidden states of the policy's trunk, or of a network of its own, see
    `PolicySettings.value_network`.
    """

    def __init__(self, trunk: CausalLM, network: ValueNetwork) -> None:
        super().__init__()
        self.starts_elsewhere = network == "reward_model"
        """Whether the network's frozen weights too are its own, and not the policy's."""
        self.network: CausalLM | None = None
        if network != "trunk":
            self.network = trunk.twin(shares_frozen=not self.starts_elsewhere)
        self.head = nn.Linear(trunk.hidden_size, 1, dtype=torch.float32)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self._trunk = [trunk]  # in a list: it is not part of this module
        self._own_names: list[str] = []  # in the network's trunk, whatever of it is frozen later
        if self.network is not None:
            self._own_names += self.network.trunk_parameters(with_frozen=self.starts_elsewhere)

    @torch.no_grad()
    def start_from(self, scorer: Scorer | None) -> None:
        """Take the weights of a reward model: V(text) = its score of the text so far.

        The head comes along, as in InstructGPT (Ouyang et al. 2022, arXiv:2203.02155, C.4): with a
        new head at zero the first updates would have to find again how the score is read. Values
        then are the score's own before any update, not the score to expect; that is learned. They
        are in units of the raw score, which a reward that divides by a running deviation leaves.
        """
        remedy = "take value_network='own'"
        if isinstance(scorer, WithAttribution):  # the model that says which tokens count
            scorer = scorer.explainer
        if not isinstance(scorer, RewardModel) or not scorer.is_causal:
            name = "none" if scorer is None else repr(scorer.name)
            raise ModelError(
                "value_network='reward_model' starts from a causal reward model, and the "
                f"environment's scorer is {name}; {remedy}"
            )
        if scorer.reads_text:
            # A chat model's EOS is often not that of its reward model's tokenizer.
            end = None if scorer.tokenizer is None else scorer.tokenizer.eos_token
            raise ModelError(
                "value_network='reward_model' needs a reward model of the policy's tokenizer, and "
                f"scorer {scorer.name!r} reads texts: its tokenizer, EOS ({end!r}) or form is "
                f"another; {remedy}"
            )
        assert self.network is not None
        trunk = self.network.model.base_model
        own = _without_adapters(trunk.state_dict())
        weights = merged(scorer.backbone).state_dict()
        if {n: w.shape for n, w in weights.items()} != {n: w.shape for n, w in own.items()}:
            raise ModelError(
                "value_network='reward_model' needs a reward model of the policy's architecture, "
                f"{type(trunk).__name__}, and scorer {scorer.name!r} is "
                f"{type(scorer.backbone).__name__} of other shapes; {remedy}"
            )
        weight, bias = scorer.linear_score()
        for name, of_scorer in weights.items():
            own[name].copy_(of_scorer)
        self.head.weight.copy_(weight[None])
        self.head.bias.copy_(bias[None])

    def own_parameters(self) -> dict[str, nn.Parameter]:
        """Return by name the parameters that are no other model's, which a checkpoint needs."""
        parameters = {f"head.{name}": value for name, value in self.head.named_parameters()}
        if self.network is not None:
            of_trunk = self.network.trunk_parameters(with_frozen=True)
            parameters |= {f"network.{name}": of_trunk[name] for name in self._own_names}
        return parameters

    def of_states(self, states: Tensor) -> Tensor:
        """Return the values of hidden states, (n, hidden) -> (n,), reward units."""
        return self.head(states.to(self.head.weight.dtype)).squeeze(-1)

    @torch.no_grad()
    def after_responses(self, sequences: Sequences, *, max_size: int = 64) -> Tensor:
        """Return the value of the text after each response's last token, (batch,)."""
        reader = self.network or self._trunk[0]
        values = self.head.weight.new_zeros(len(sequences))
        for bucket in sequences.buckets(max_size):
            part = sequences.select(bucket)
            hidden = reader.hidden(part.input_ids)
            rows = torch.arange(len(part), device=hidden.device)
            values[sent(bucket, values.device)] = self.of_states(hidden[rows, part.lengths - 1])
        return values


def _without_adapters(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a trunk's weights by the names that they have without adapters."""
    return {
        name.replace(".base_layer.", "."): weight
        for name, weight in weights.items()
        if ".lora_" not in name
    }
