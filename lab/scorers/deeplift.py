"""DeepLIFT through any model of torch: what each input adds to the difference from a blank one.

Captum's `DeepLift` knows activations that are modules of torch's own. Of a transformer it finds
none: softmax and attention are functions, LayerNorm and transformers' GELU are modules that it does
not know, and so it gives the plain gradient. Here the functions themselves are replaced while the
model runs on both inputs at once.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

MASKED = -1e4
"""Logit of what attention leaves out: its exponential is 0."""


def deeplift(
    function: Callable[[Tensor], Tensor], given: Tensor, blank: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return a function's values at an input and at a blank one, and the multipliers between them.

    f(given) - f(blank) = sum of m (given - blank), exactly, where f is made of these:

    - linear functions: their slopes;
    - functions of single elements, DeepLIFT's rescale rule: m = (f(a) - f(b)) / (a - b);
    - products, of matrices too: each factor's m is the mean of the other one's two values, which is
      the Shapley value of two factors;
    - softmax, LayerNorm, RMSNorm, attention: made of the former.

    Another function of torch has its slope at ``given``, and the sum misses some.

    Args:
        function: (2 batch, ...) -> (2 batch,); no row may depend on another one.
        given: (batch, ...).
        blank: (batch, ...).

    Returns:
        (batch,), (batch,) and (batch, ...), none with a gradient.

    Source: Shrikumar et al. 2017, arXiv:1704.02685; products: Lundberg and Lee 2017,
    arXiv:1705.07874.
    """
    leaf = given.detach().requires_grad_()
    with torch.enable_grad():
        with _Rules():
            values = function(torch.cat([leaf, blank.detach()]))
        here, there = values.chunk(2)
        (multipliers,) = torch.autograd.grad(here.sum(), leaf)
    return here.detach(), there.detach(), multipliers


class _Rules(TorchFunctionMode):
    """Gives the functions of torch the gradients of `deeplift`; first halves are the inputs."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        rule = RULES.get(func)
        moving = [isinstance(arg, Tensor) and arg.requires_grad for arg in args]
        if rule is None or not any(moving) or (rule in (_product, _quotient) and sum(moving) < 2):
            return func(*args, **kwargs)
        return rule(func, *args, **kwargs)


def _sloped(value: Tensor, *terms: Tensor) -> Tensor:
    """Return a value whose gradient is that of terms, each of which is 0."""
    return torch.stack([value.detach(), *terms]).sum(0)


def _moved(tensor: Tensor) -> Tensor:
    """Return 0 with the gradient of a tensor."""
    return tensor - tensor.detach()


def _halves(tensor: Tensor) -> tuple[Tensor, Tensor]:
    here, there = tensor.detach().chunk(2)
    return here, there


def _both(tensor: Tensor) -> Tensor:
    return torch.cat([tensor, tensor])


def _element(func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Return func(x), with the slope of the line between the two values."""
    middle = _mean(x).requires_grad_()
    (slope,) = torch.autograd.grad(func(middle, *args, **kwargs).sum(), middle)
    return _line(x, func(x.detach(), *args, **kwargs), slope)


def _line(x: Tensor, value: Tensor, slope: Tensor) -> Tensor:
    """Return a value of each x with the slope between its halves, or ``slope`` where they meet."""
    here, there = _halves(x)
    first, second = value.chunk(2)
    apart = here - there
    is_apart = apart.abs() > 1e-3 * (here.abs() + there.abs())  # else rounding decides
    secant = (first - second) / torch.where(is_apart, apart, torch.ones_like(apart))
    return _sloped(value, torch.where(_both(is_apart), _both(secant), slope) * _moved(x))


def _mean(x: Tensor) -> Tensor:
    here, there = _halves(x)
    return _both((here + there) / 2)


def _product(func: Any, x: Tensor, y: Tensor) -> Tensor:
    """Return x times y, of numbers or of matrices."""
    value = func(x.detach(), y.detach())
    return _sloped(value, func(_moved(x), _mean(y)), func(_mean(x), _moved(y)))


def _quotient(func: Any, x: Tensor, y: Tensor) -> Tensor:
    del func
    return _product(torch.mul, x, _element(torch.reciprocal, y))


def _softmax(func: Any, x: Tensor, dim: int = -1, *, dtype: Any = None, **_: Any) -> Tensor:
    """Return exp(x - log sum exp(x)): functions of single elements, and sums."""
    del func
    x = x if dtype is None else x.to(dtype)
    x = torch.where(x > -1e30, x, MASKED)
    here, there = _halves(x)
    top = torch.maximum(here.amax(dim, keepdim=True), there.amax(dim, keepdim=True))
    total = _element(torch.exp, x - _both(top)).sum(dim, keepdim=True)
    log_total = torch.logsumexp(x.detach(), dim, keepdim=True)  # the logarithm of total may be 0's
    return _element(torch.exp, x - _line(total, log_total, 1 / _mean(total)))


def _normalized(x: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
    variance = _element(torch.square, x).mean(dims, keepdim=True)
    return _product(torch.mul, x, _element(torch.rsqrt, variance + eps))


def _layer_norm(
    func: Any, x: Tensor, shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Tensor:
    del func
    dims = tuple(range(-len(shape), 0))
    normed = _normalized(x - x.mean(dims, keepdim=True), dims, eps)
    normed = normed if weight is None else normed * weight
    return normed if bias is None else normed + bias


def _rms_norm(
    func: Any, x: Tensor, shape: Any, weight: Any = None, eps: float | None = None
) -> Tensor:
    del func
    tiny = torch.finfo(x.dtype).eps if eps is None else eps
    normed = _normalized(x, tuple(range(-len(shape), 0)), tiny)
    return normed if weight is None else normed * weight


def _attention(
    func: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Return softmax(q k') v, as `scaled_dot_product_attention` does without dropout."""
    del func, dropout_p
    if enable_gqa:
        groups = query.shape[-3] // key.shape[-3]
        key, value = (part.repeat_interleave(groups, dim=-3) for part in (key, value))
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    logits = _product(torch.matmul, query, key.transpose(-1, -2)) * scale
    if is_causal:
        ones = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device)
        logits = torch.where(ones.tril(), logits, MASKED)
    if attn_mask is not None:
        is_bool = attn_mask.dtype == torch.bool
        logits = torch.where(attn_mask, logits, MASKED) if is_bool else logits + attn_mask
    return _product(torch.matmul, _softmax(None, logits), value)


_NAMES: dict[Any, tuple[str, ...]] = {
    _element: (
        *("tanh", "sigmoid", "exp", "erf", "relu", "gelu", "silu", "mish", "softplus", "pow"),
        *("__pow__", "square", "sqrt", "rsqrt", "reciprocal", "abs"),
    ),
    _product: ("mul", "__mul__", "__rmul__", "matmul", "__matmul__", "bmm"),
    _quotient: ("div", "__truediv__", "true_divide"),
    _softmax: ("softmax",),
    _layer_norm: ("layer_norm",),
    _rms_norm: ("rms_norm",),
    _attention: ("scaled_dot_product_attention",),
}
RULES: dict[Any, Callable[..., Tensor]] = {
    vars(place)[name]: rule
    for rule, names in _NAMES.items()
    for name in names
    for place in (torch, torch.Tensor, torch._C.TensorBase, F, torch._C._nn)
    if name in vars(place)
}
"""The rule of each function of torch that has one, under all of its names."""
