"""Memory of a policy and the models used with it: what it takes, and what training will need.

The need is that at the peak, the gradient of a micro-batch's figures: weights, gradients and
moments, the caches of rollouts, which stay, and what the backward pass keeps. Held by test against
the peaks that were measured on one H200, of half a billion weights in bfloat16. Two of its numbers
are fitted to them, `WORKSPACES` and `OTHER`; the rest is counted.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tokengym.agents.policy.policy import CausalLMPolicy
from tokengym.agents.policy.sampling import MAX_LOGITS

GIB = 2**30
WORKSPACES = 0.35 * GIB
"""What CUDA's libraries hold for themselves: fitted to the measured peaks, of which it is left over
beside `OTHER`."""
OTHER = 1.0
"""Times that the weights which learn were held once more, fitted to the measured peaks: each
network that learns added so much on the H200, and which tensor that is was not found."""
NAMES = {
    "policy": "weights",
    "frozen": "frozen weights",
    "value": "critic",
    "auxiliary": "auxiliary models",
    "reward_model": "reward model",
    "optimizer": "Adam",
}
"""Parts by other names in the line that is shown."""


@dataclass(frozen=True, kw_only=True)
class Texts:
    """Sizes of a round, and of the part of it that one forward pass of an update reads."""

    rows: int
    length: int
    """Most tokens of prompt and response."""
    new_tokens: int
    """Most tokens of a response."""
    micro_batch_size: int


@dataclass(frozen=True, kw_only=True)
class Computing:
    """How an update computes."""

    item: int = 2
    """Bytes of a number of the states: 2 in bfloat16, 4 in float32."""
    mixed: bool = False
    """Whether bfloat16 is autocast's, over weights in float32."""
    kernels: bool = True
    """Whether a Llama's blocks are read by kernels."""
    recomputed: bool = False
    """Whether blocks are computed again in the backward pass."""
    exact_kl: bool = True
    adapters: Literal["", "few", "peft"] = ""
    """Whether linear maps have adapters, read by few products or by PEFT's modules."""
    trains_head: bool = True


def memory_by_role(policy: CausalLMPolicy, reward_model: nn.Module | None = None) -> dict[str, int]:
    """Return the bytes of weights and optimiser state by role.

    Tensors that two roles share count for the first: a reference that is the policy with its
    adapters off takes nothing.

    Args:
        policy: The policy; its optimiser has state once it has stepped.
        reward_model: The scorer's ``model``, to count it too.

    Returns:
        Bytes of "policy" (its trained weights), "frozen" (its other weights), "value" (head, and
        network of its own), "reference", "auxiliary" (models read with it), "decoding" (static
        caches, merged weights and captured graphs, where rollouts use them), "reward_model",
        "optimizer" and "total".
    """
    parameters = list(policy.language_model.model.parameters())
    roles: dict[str, Iterable[Tensor]] = {
        "policy": [p for p in parameters if p.requires_grad],
        "frozen": [p for p in parameters if not p.requires_grad],
        "value": _parameters(policy.critic),
        "reference": _parameters(policy.reference),
        "auxiliary": _parameters(policy.auxiliary_models),
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
    """Return the bytes that training a policy will need, by part; see `memory_needed`."""
    model = policy.language_model
    kernels = policy.kernels and texts.length <= model.longest_fused()
    adapters: Literal["", "few", "peft"] = (
        "" if model.adapters is None else "few" if kernels else "peft"
    )
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


def memory_needed(
    config: Any, weights: Mapping[str, int], linear: int, texts: Texts, how: Computing
) -> dict[str, float]:
    """Return bytes by part; their sum is the peak.

    Args:
        config: Of the policy's model, by transformers.
        weights: Bytes before training, as `memory_by_role` names them: "policy" and "value" learn.
        linear: Numbers in the weights of the linear maps of the policy's blocks.
        texts: Sizes of the texts.
        how: How an update computes.
    """
    width, layers = config.hidden_size, config.num_hidden_layers
    head_width = getattr(config, "head_dim", None) or width // config.num_attention_heads
    keys = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    queries, keys = config.num_attention_heads * head_width, keys * head_width
    inner = getattr(config, "intermediate_size", None) or 4 * width
    learns = weights.get("policy", 0) + weights.get("value", 0)
    needed: dict[str, float] = {name: size for name, size in weights.items() if size}
    needed |= {"gradients": learns, "optimizer": 2 * learns}

    # A cache in the precision that rollouts read, and the weights that they need a copy of.
    columns, read = texts.rows * texts.length, 2 if how.mixed else how.item
    copied = linear * read if how.mixed or how.adapters else 0
    if how.mixed:
        copied += 2 * config.vocab_size * width
    needed["rollouts"] = 2 * columns * layers * keys * read + copied

    # What a block keeps of a token: two sums and two norms, queries, keys, values and what was
    # read, the gate's two inputs and its product.
    item, wide = how.item, 4 if how.mixed else how.item
    per_token = 2 * (wide + item) * width + item * (2 * queries + 2 * keys + 3 * inner)
    if not how.kernels:  # norms before their weights too, keys repeated, the activation
        # Autocast copies what each map reads; without it norms are copied to float32.
        norms = 16 + 5 * item if how.mixed else 2 * (4 + 2 * item)
        per_token = norms * width + item * (4 * queries + 4 * inner)
    if how.adapters == "peft":  # in place of what the frozen maps would read, a copy in float32
        per_token += 4 * (5 * width + queries + inner) - item * (2 * width + inner)
    tokens = texts.micro_batch_size * texts.length
    kept = tokens * per_token * layers
    if how.recomputed:
        kept = tokens * (per_token + 2 * wide * width * layers)
    if how.mixed:
        kept += linear * 2  # autocast's copies
    needed["activations"] = kept

    # Logits of policy and reference for a part of the vocabulary, and their slope.
    answered = texts.micro_batch_size * texts.new_tokens * config.vocab_size
    logits = min(MAX_LOGITS, answered) * (4 * (1 + how.exact_kl) + item)
    if how.trains_head:
        logits += config.vocab_size * width * wide
    if how.exact_kl:
        logits += texts.rows * texts.new_tokens * width * item  # states of the reference
    needed["logits"] = logits
    needed["other"] = OTHER * learns + WORKSPACES
    return needed


def line_of_needs(needed: Mapping[str, float], room: float) -> str:
    """Return one line: what is needed of the memory there is, and for what."""
    parts = {NAMES.get(name, name): size for name, size in needed.items()}
    largest = sorted((n for n in parts if parts[n] >= 0.05 * GIB), key=lambda name: -parts[name])
    shown = ", ".join(f"{name} {parts[name] / GIB:.1f}" for name in largest)
    return (
        f"training needs about {sum(parts.values()) / GIB:.1f} GiB of {room / GIB:.0f} GiB: {shown}"
    )
