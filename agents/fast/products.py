"""Products of float32 matrices on a CPU: by torch's own library, or by oneDNN.

torch multiplies float32 matrices by MKL, whose kernels stop at AVX2 on processors of other makers
than Intel's. oneDNN, which torch carries too, uses AVX-512 on all that have it: two to three times
as fast on AMD's, no faster on Intel's. Results differ by rounding.

y = x W^T + b;  dx = dy W,  dW = dy^T x,  db = sum dy
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.pytorch_utils import Conv1D

from tokengym.agents.errors import ModelError
from tokengym.agents.policy.settings import Products

MULTIPLES: dict[Products, int] = {"torch": 1, "onednn": 8}
"""Rows of a batch that shrinks, and columns of texts, come in multiples of so many: oneDNN compiles
for half a millisecond for each shape that is new to it."""
LEAST = 2**20
"""Multiplications from which a product goes through oneDNN; a smaller one takes longer to call."""


def check_products(wanted: Products) -> None:
    """Raise unless float32 matrices can be multiplied by a library."""
    if wanted == "onednn" and not has_onednn():
        raise ModelError(
            "products='onednn' needs a build of torch with oneDNN, which this one is not; use "
            "'torch'"
        )


def has_onednn() -> bool:
    """Say whether oneDNN's products can be called.

    torch's compiler calls the same two functions; they are not documented, so a build without them
    goes through torch's products.
    """
    operators: Any = torch.ops.mkldnn
    return (
        torch.backends.mkldnn.is_available()
        and hasattr(operators, "_linear_pointwise")
        and hasattr(operators, "_reorder_linear_weight")
    )


def multiplied(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x W^T + b by oneDNN, without gradient: (..., in), (out, in) -> (..., out)."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def product(x: Tensor, weight: Tensor) -> Tensor | None:
    """Return x W^T by oneDNN, (n, in), (out, in) -> (n, out); None where it is no faster."""
    return multiplied(x, weight) if is_faster(x, weight) else None


def transposed_product(left: Tensor, right: Tensor) -> Tensor:
    """Return left^T right by oneDNN, without gradient: (n, a), (n, b) -> (a, b).

    The first factor of a product is copied where it is transposed: here the one whose copy, or that
    of the transposed result, is smaller.
    """
    (n, a), b = left.shape, right.shape[1]
    if n * a <= n * b + a * b:
        return multiplied(left.t(), right.t())
    return multiplied(right.t(), left.t()).t()


def packed_map(
    weight: Tensor, bias: Tensor | None, *, activation: tuple[str, str] = ("none", "")
) -> Callable[[Tensor], Tensor]:
    """Return `multiplied` for many calls, by weights in oneDNN's own order.

    Later changes of the weight, (out, in), do not count. An activation is a function of the outputs
    and its formula, such as ("gelu", "tanh").
    """
    operators: Any = torch.ops.mkldnn
    packed = operators._reorder_linear_weight(weight.detach(), None)
    name, formula = activation
    return lambda x: operators._linear_pointwise(x, packed, bias, name, [], formula)


class _Linear(torch.autograd.Function):
    """x W^T + b by oneDNN; ``is_transposed``: the weight is (in, out)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, is_transposed: bool
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.is_transposed = is_transposed
        return multiplied(x, weight.t() if is_transposed else weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias, _ = ctx.needs_input_grad
        dx = d_weight = d_bias = None
        # Frozen weights, as under adapters, are asked for no gradient.
        if needs_x:
            dx = multiplied(dy, weight if ctx.is_transposed else weight.t())
        if needs_weight or needs_bias:
            dy = dy.reshape(-1, dy.shape[-1])
        if needs_weight:
            x = x.reshape(-1, x.shape[-1])
            left, right = (x, dy) if ctx.is_transposed else (dy, x)
            d_weight = transposed_product(left, right)
        if needs_bias:
            d_bias = dy.sum(0)
        return dx, d_weight, d_bias, None


class _Forward:
    """Forward of a linear module by oneDNN where that is faster, else as the module's own.

    It holds the module's dictionary of parameters, not the module, which would then hold itself;
    ``deepcopy`` gives a copy of the module a copy that reads the copy's.
    """

    def __init__(self, module: nn.Linear | Conv1D) -> None:
        self.parameters = module._parameters
        self.is_transposed = isinstance(module, Conv1D)

    def __call__(self, x: Tensor) -> Tensor:
        weight: Any = self.parameters["weight"]
        bias: Any = self.parameters.get("bias")
        if is_faster(x, weight):
            if torch.is_grad_enabled():
                return _Linear.apply(x, weight, bias, self.is_transposed)
            return multiplied(x, weight.t() if self.is_transposed else weight, bias)
        if not self.is_transposed:
            return F.linear(x, weight, bias)
        flat = torch.addmm(bias, x.view(-1, x.shape[-1]), weight)  # as Conv1D's own
        return flat.view(*x.shape[:-1], flat.shape[-1])


def is_faster(x: Tensor, weight: Tensor) -> bool:
    """Say whether oneDNN is to multiply states, (..., in), with a weight of either order."""
    return (
        x.dtype == weight.dtype == torch.float32
        and x.device.type == weight.device.type == "cpu"
        and x.numel() // x.shape[-1] * weight.numel() >= LEAST
        and not torch.is_autocast_enabled("cpu")
    )


def use_products(model: nn.Module, chosen: Products) -> None:
    """Let a model's linear maps multiply by a library.

    It is set on the modules themselves, so that whatever knows them by their class, PEFT say, still
    does, and copies of the model have it too.
    """
    for module in model.modules():
        if type(module) in (nn.Linear, Conv1D):
            vars(module).pop("forward", None)
            if chosen == "onednn":
                module.forward = _Forward(module)  # type: ignore[arg-type]
