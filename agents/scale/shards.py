"""Weights, gradients and optimiser state shared out over the processes, by torch's FSDP2.

A rollout reads all weights for every token, so each process keeps the policy whole. What learns is
a twin of it, of which a process holds its shards and, in an update, one whole block at a time. The
policy takes over the twin's weights after each update. A reference model is sharded as well. Every
operation has to be called by all processes, in one order.
"""

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from tokengym.agents.policy.language_model import LanguageModel
from tokengym.agents.policy.policy import CausalLMPolicy


class Shards:
    """The twin of a policy that learns from this process's shards of the weights.

    Args:
        policy: The policy, the same in all processes; its optimiser then steps on the shards.
        count: Processes that share the weights out.
        most: Returns the largest of every process's numbers.
    """

    def __init__(self, policy: CausalLMPolicy, count: int, *, most: Callable[[int], int]) -> None:
        self._mesh = init_device_mesh(policy.device.type, (count,))
        self._owner = policy
        if policy.reference is not None:
            self._share_model(policy.reference)
            policy.most = most
        memo: dict[int, Any] = {id(parameter): parameter for parameter in policy.parameters()}
        self.policy = copy.copy(policy)
        """The twin."""
        self.policy._modules = dict(policy._modules)
        self.policy.language_model, self.policy.critic = copy.deepcopy(
            (policy.language_model, policy.critic), memo
        )
        self._share_model(self.policy.language_model)
        if (critic := self.policy.critic) is not None:
            self._share(critic.head)
            if critic.network is not None:  # whose head is the policy's
                self._share(*critic.network.blocks(), critic.network.model.base_model)
        shards = dict(self.policy.named_parameters())
        self._pairs = [
            (whole, shards[name])
            for name, whole in policy.named_parameters()
            if whole.requires_grad
        ]
        policy.optimizer.param_groups[0]["params"] = [shard for _, shard in self._pairs]

    def _share_model(self, model: LanguageModel) -> None:
        # A view whose hook is lost does no harm: these weights stay whole until the backward pass.
        warnings.filterwarnings("ignore", "FSDP2-wrapped module", UserWarning)
        self._share(*model.blocks(), model)
        for method in ("hidden", "logits"):
            register_fsdp_forward_method(model, method)

    def _share(self, *modules: nn.Module) -> None:
        """Replace parameters by this process's shards of them; a module comes after its parts."""
        for module in modules:
            fully_shard(module, mesh=self._mesh)

    @torch.no_grad()
    def read(self) -> None:
        """Take the policy's weights over."""
        for whole, shard in self._pairs:
            shard.copy_(_part(whole, shard))

    @torch.no_grad()
    def write(self) -> None:
        """Give the policy the weights as they are now."""
        for module in _sharded(self.policy):
            module.reshard()
        for whole, shard in self._pairs:
            whole.copy_(shard.full_tensor())  # type: ignore[attr-defined]

    @contextmanager
    def whole_reference(self) -> Iterator[None]:
        """Gather the reference, so that one process may read it alone."""
        root, most = self._owner.reference, self._owner.most
        for module in _sharded(root):
            if module is not root:  # which stays whole after a forward anyway
                module.set_reshard_after_forward(False, recurse=False)
            module.unshard()
        self._owner.most = None
        try:
            yield
        finally:
            self._owner.most = most
            for module in _sharded(root):
                if module is not root:
                    module.set_reshard_after_forward(True, recurse=False)
                module.reshard()

    def load_optimizer(self, state: Mapping[int, Mapping[str, Tensor]]) -> None:
        """Give the optimiser its share of a whole one's state, by the parameters' numbers."""
        optimizer = self.policy.optimizer
        parts = {
            number: {
                name: _part(value, self._pairs[number][1]) if value.dim() else value
                for name, value in found.items()
            }
            for number, found in state.items()
        }
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": parts, "param_groups": groups})


def gathered(tensor: Tensor, *, keep: bool = True) -> Tensor:
    """Return a tensor, whole if it was sharded, on the CPU.

    Args:
        tensor: The tensor.
        keep: Whether this process wants it; where it was sharded, all processes take part.
    """
    if isinstance(tensor, DTensor):
        tensor = tensor.full_tensor()
    return tensor.detach().cpu().contiguous() if keep else torch.empty(0)


def weights_of(model: LanguageModel | None, *, keep: bool) -> dict[str, Tensor]:
    """Return a sharded model's weights by name, whole and without those that are tied to others.

    Args:
        model: The model; None has none.
        keep: See `gathered`.
    """
    if model is None:
        return {}
    tied = {name for name, _ in model.model.named_parameters(remove_duplicate=False)}
    tied -= {name for name, _ in model.model.named_parameters()}
    return {
        name: gathered(value, keep=keep)
        for name, value in model.model.state_dict().items()
        if name not in tied
    }


def _part(whole: Tensor, shard: Tensor) -> Tensor:
    """Return this process's part of a tensor that all have."""
    assert isinstance(shard, DTensor)
    whole = whole.detach().to(shard.device, shard.dtype)
    return distribute_tensor(whole, shard.device_mesh, shard.placements, src_data_rank=None)


def _sharded(module: nn.Module | None) -> list[FSDPModule]:
    return [] if module is None else [m for m in module.modules() if isinstance(m, FSDPModule)]
