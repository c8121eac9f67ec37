"""Memory of a policy and the models used with it."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from tokengym.agents.policy.needs import Computing, Texts, memory_needed
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


def memory_to_train(
    policy: CausalLMPolicy,
    texts: Texts,
    *,
    exact_kl: bool = True,
    reward_model: nn.Module | None = None,
) -> dict[str, float]:
    """Return the bytes that training a policy will need, by part; see `memory_needed`.

    Args:
        policy: Before it has learned.
        texts: Sizes of the texts.
        exact_kl: Whether the update reads the exact KL to the reference.
        reward_model: The scorer's ``model``, where it is on the same device.
    """
    model = policy.language_model
    kernels = policy.kernels and texts.length <= model.longest_fused()
    adapters = "" if model.adapters is None else "few" if kernels else "peft"
    roles = memory_by_role(policy, reward_model)
    weights = {n: size for n, size in roles.items() if n not in ("total", "decoding", "optimizer")}
    maps = [
        parameter.numel()
        for block in model.blocks()
        for name, parameter in block.named_parameters()
        if parameter.dim() == 2 and "lora_" not in name
    ]
    how = Computing(
        item=2 if model.autocasts or model.model.dtype == torch.bfloat16 else 4,
        mixed=model.autocasts,
        kernels=kernels,
        recomputed=model.recompute,
        exact_kl=exact_kl,
        adapters=adapters,
        trains_head=model.model.get_output_embeddings().weight.requires_grad,
    )
    return memory_needed(model.model.config.get_text_config(), weights, sum(maps), texts, how)
