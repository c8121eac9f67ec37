"""Optional accelerated backend, `tokengym.agents.fast`, where that folder is installed.

Each of its parts has a plain form in torch's and transformers' own operations. `Plain` stands for
those: it has nothing faster to offer. `tokengym.agents` names the backend in one place; nothing
else in agents imports it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, cast

from tokengym.agents.errors import ModelError, ProcessError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from tokengym.agents.policy.settings import Products

MISSING = "tokengym.agents.fast, which is not installed"
_parts = ""


class Plain:
    """The plain way: no part is faster than the form that the caller has itself."""

    stream_kinds: ClassVar[tuple[tuple[Callable[[Any], bool], Callable[[Any, int], Any]], ...]] = ()
    """Pairs: a predicate on the model, and what makes its stream for texts of so many tokens."""
    multiples: ClassVar[Mapping[Products, int]] = {"torch": 1}
    """Number that the columns of texts are best a multiple of, by library of their products."""

    def captured_sampler(self, policy: Any, draws: Any, share: tuple[int, int] = (0, 1)) -> Any:
        """Return a sampler whose steps have a static cache, and on a GPU are one captured graph."""
        raise NotImplementedError  # `check_static` has refused it

    def check_static(self, language_model: Any, dtype: torch.dtype | None) -> None:
        """Raise unless the model decodes with a static cache to what its whole forward gives."""
        raise ModelError(f"decoding='static' needs {MISSING}; use 'auto' or 'dynamic'")

    def check_kernels(self, device: torch.device) -> None:
        """Raise unless Triton's kernels give on a device what their plain forms give."""
        raise ModelError(f"kernels need {MISSING}")

    def token_figures(self, states: Tensor, weight: Tensor, asked: Any) -> tuple[Tensor, ...]:
        """Return what `head.token_figures` returns, by kernels."""
        raise NotImplementedError  # `check_kernels` has refused it

    def longest_text(self, language_model: Any) -> int:
        """Return the most tokens of a text that `hidden` reads as the model does; 0: none."""
        return 0

    def hidden(self, trunk: Any, input_ids: Tensor) -> Tensor:
        """Return a trunk's last hidden states, (batch, length, hidden), by kernels."""
        raise NotImplementedError  # no text is short enough

    def check_products(self, wanted: Products) -> None:
        """Raise unless float32 matrices can be multiplied by a library."""
        if wanted == "onednn":
            raise ModelError(f"products='onednn' needs {MISSING}; use 'torch'")

    def has_onednn(self) -> bool:
        """Return whether oneDNN's products can be called."""
        return False

    def use_products(self, model: nn.Module, chosen: Products) -> None:
        """Let a model's linear maps multiply by a library, which `check_products` has passed."""

    def product(self, x: Tensor, weight: Tensor) -> Tensor | None:
        """Return x W^T by oneDNN, (n, in), (out, in) -> (n, out); None where it is no faster."""
        return None

    def transposed_product(self, left: Tensor, right: Tensor) -> Tensor:
        """Return left^T right by oneDNN, without gradient: (n, a), (n, b) -> (a, b)."""
        raise NotImplementedError  # follows a `product` that was faster

    def join(self, device: torch.device | str) -> Any:
        """Return this process among several that a launcher has started, as `Processes`."""
        raise ProcessError(f"several processes need {MISSING}; start one process")


def use_backend(parts: str) -> None:
    """Let a module replace the plain way wherever its folder is installed."""
    global _parts
    _parts = parts
    backend.cache_clear()


@cache
def backend() -> Plain:
    """Return the accelerated parts where they are installed, else the plain way."""
    try:
        return cast(Plain, import_module(_parts))
    except ModuleNotFoundError as error:
        if not f"{_parts}.".startswith(f"{error.name}."):
            raise  # the folder is there, and lacks a library
        return Plain()
