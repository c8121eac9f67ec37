"""Memory of a policy and the models used with it."""

from collections.abc import Iterable

from torch import Tensor, nn

from tokengym.agents.policy.policy import CausalLMPolicy


def memory_by_role(policy: CausalLMPolicy, reward_model: nn.Module | None = None) -> dict[str, int]:
    """Return the bytes of weights and optimiser state by role.

    Tensors that two roles share count for the first: a reference that is the policy with its
    adapters off takes nothing.

    Args:
        policy: The policy; its optimiser has state once it has stepped.
        reward_model: The scorer's ``model``, to count it too.

    Returns:
        Bytes of "policy" (its trained weights), "frozen" (its other weights), "value" (head, and
        network of its own), "reference", "beside" (models read with it), "decoding" (static
        caches, merged weights and captured graphs, where rollouts use them), "reward_model",
        "optimizer" and "total".
    """
    parameters = list(policy.language_model.model.parameters())
    roles: dict[str, Iterable[Tensor]] = {
        "policy": [p for p in parameters if p.requires_grad],
        "frozen": [p for p in parameters if not p.requires_grad],
        "value": _parameters(policy.critic),
        "reference": _parameters(policy.reference),
        "beside": _parameters(policy.beside),
        "decoding": [tensor for decoder in policy.decoders for tensor in decoder.tensors()],
        "reward_model": _parameters(reward_model),
        "optimizer": [
            value
            for state in policy.optimizer.state.values()
            for value in state.values()
            if isinstance(value, Tensor)
        ],
    }
    seen: set[int] = set()
    sizes = dict.fromkeys(roles, 0)
    for role, tensors in roles.items():
        for tensor in tensors:
            if tensor.data_ptr() not in seen:
                seen.add(tensor.data_ptr())
                sizes[role] += tensor.numel() * tensor.element_size()
    sizes["decoding"] += sum(decoder.num_graph_bytes() for decoder in policy.decoders)
    return sizes | {"total": sum(sizes.values())}


def _parameters(module: nn.Module | None) -> list[Tensor]:
    return [] if module is None else list(module.parameters())
