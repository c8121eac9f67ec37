"""Settings of sampling and of a policy, declared once; importable without torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from tokengym.base.errors import SettingsError
from tokengym.base.settings import check_choice, check_count, check_number
from tokengym.base.spellings import word_answer

if TYPE_CHECKING:
    from peft import LoraConfig

Schedule: TypeAlias = float | Callable[[float], float]
"""A number, or a function of the remaining progress, which falls from 1 to 0."""
ValueNetwork = Literal["trunk", "own", "reward_model"]
Dtype = Literal["auto", "float32", "bfloat16"]
Precision = Literal["full", "bf16-mixed"]
"""Numbers that a policy computes in."""
Decoding = Literal["auto", "dynamic", "static"]
Kernels = Literal["auto", "plain", "triton"]
Products = Literal["torch", "onednn"]
"""Libraries of float32 products on a CPU."""


def check_products(
    products: str, *, dtype: str = "auto", precision: str = "full", device: str = "cpu"
) -> None:
    """Refuse a library of products beside a precision or type of device that it is not for."""
    fits = {"dtype": ("auto", "float32"), "precision": ("full",), "device": ("cpu",)}
    given = {"dtype": dtype, "precision": precision, "device": device}
    for name, value in given.items():
        if products != "torch" and value not in fits[name]:
            raise SettingsError(
                f"products={products!r} is for computation in float32 on a CPU, got "
                f"{name}={value!r}; leave one of them out"
            )


@dataclass(frozen=True, kw_only=True)
class SamplingSettings:
    """Settings of drawing a token from the logits."""

    temperature: float = 1.0
    """Divides the logits in rollout, update and reference alike."""
    top_k: int = field(default=0, metadata={"flag": ""})
    """Sample among the likeliest tokens only; 0 samples among all. What could be sampled is kept
    with the sample, and update and reference are renormalised over the same tokens ("keep sampling
    mask", DeepSeek-V3.2 2025, arXiv:2512.02556): otherwise a token that has left the top k would
    have ratio 0, and one outside the reference's an infinite KL."""
    top_p: float = field(default=1.0, metadata={"flag": ""})
    """Sample among the fewest tokens that have this much probability; 1.0 samples among all."""

    def __post_init__(self) -> None:
        check_number(self, "temperature", above=0.0, hint="1.0 samples as trained")
        check_number(self, "temperature", finite=True, hint="1.0 samples as trained")
        check_count(self, "top_k", least=0, hint="0 samples among all tokens")
        check_number(self, "top_p", above=0.0, most=1.0)


@dataclass(frozen=True, kw_only=True)
class EpisodicSettings(SamplingSettings):
    """Settings of every learner from whole episodes."""

    learning_rate: Schedule = 3e-4
    """Learning rate of AdamW; a number or a schedule over the remaining progress, 1 to 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.learning_rate):
            elsewhere = word_answer(str(self.learning_rate))  # rl-zoo3's lin_3e-4
            check_number(self, "learning_rate", above=0.0, hint=elsewhere or "3e-4 is usual")
            check_number(self, "learning_rate", finite=True, hint="3e-4 is usual")


@dataclass(frozen=True, kw_only=True)
class PolicySettings(SamplingSettings):
    """Settings of a causal language model as policy."""

    lora: LoraConfig | None = None
    """A ``peft.LoraConfig`` to train adapters only; None trains all weights."""
    dtype: str = "auto"
    """"auto", "float32" or "bfloat16", see `load_causal_lm`. In bfloat16 small steps are rounded
    away unless ``lora`` is given, whose adapters stay float32."""
    precision: Precision = "full"
    """"full" computes in the precision of the weights. "bf16-mixed": the trunk computes in bfloat16
    by autocast; weights, log-probs and optimiser stay float32, and so does the head, which on a GPU
    multiplies in bfloat16 and adds up in float32. Static decoding reads a copy of the weights in
    bfloat16."""
    frozen_layers: int = 0
    """Freeze the embeddings (with a head tied to them) and this many of the lowest blocks, which
    the reference then shares; 0 freezes nothing."""
    gradient_checkpointing: bool = False
    """Compute blocks again in the backward pass: less memory, more time."""
    value_network: ValueNetwork = "trunk"
    """Input of the value head. "trunk": the policy's hidden states, at no cost. "own": those of a
    network of its own, a copy of the model, or with ``lora`` adapters of its own on the same
    backbone; values then cannot pull at the policy. "reward_model": a network of its own that
    starts from the weights of the environment's reward model, see `ValueFunction.start_from`; with
    ``lora`` adapters are trained on a copy of them."""
    decoding: Decoding = "auto"
    """Key-value cache of rollouts. "static": allocated once, and on a GPU each step is a captured
    CUDA graph. "dynamic": grown with the texts. "auto": static on a GPU if the model allows it,
    dynamic elsewhere."""
    kernels: Kernels = "auto"
    """Implementation on a GPU of what torch has no single operation for: figures of the
    vocabulary, steps of decoding, and the operations between the products of a Llama's blocks.
    "plain": by torch's operations. "triton": by kernels, which need Triton. "auto": by kernels on a
    GPU where they give what the plain forms give, plainly elsewhere."""
    products: Products = "torch"
    """Library of float32 matrix products on a CPU. "torch": torch's own. "onednn": oneDNN, two to
    three times as fast on some of AMD's processors, which in rollouts keeps a second copy of the
    weights. Results differ by rounding, so a run keeps the library that it began with."""

    def __post_init__(self) -> None:
        super().__post_init__()
        choices = {"dtype": Dtype, "precision": Precision, "value_network": ValueNetwork}
        choices |= {"decoding": Decoding, "kernels": Kernels}
        choices |= {"products": Products, "gradient_checkpointing": Literal[True, False]}
        for name, kind in choices.items():
            check_choice(self, name, get_args(kind))
        most = inf if self.lora is None else 0
        check_count(self, "frozen_layers", least=0, most=most, hint="with lora all are frozen")
        if self.precision == "bf16-mixed" and self.dtype == "bfloat16":
            raise SettingsError(
                "precision='bf16-mixed' needs weights in float32, got dtype='bfloat16'; leave "
                "dtype out"
            )
        check_products(self.products, dtype=self.dtype, precision=self.precision)
