"""The device and precision that "auto" stands for, and what else of a process's torch decides."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from tokengym.base.errors import SettingsError

if TYPE_CHECKING:
    from transformers import TrainingArguments


class Preferred(NamedTuple):
    """What "auto" stands for; "auto" itself unless a `preferred_device` is set."""

    device: str = "auto"
    dtype: str = "auto"
    """Precision of a `shared_backbone`; "auto" leaves it to `load_dtype`."""


preferred = Preferred()
"""That of this process; read it through the module, since `preferred_device` replaces it."""


@contextmanager
def preferred_device(device: str, dtype: str = "auto") -> Iterator[None]:
    """Let "auto" stand for a device within a block, in all threads; "auto" changes nothing.

    Args:
        device: As for `select_device`.
        dtype: Precision of a `shared_backbone`, "float32" or "bfloat16", which is the policy's; so
            reward models on the policy's backbone take no weights of their own.

    Raises:
        ValueError: as `select_device`.
    """
    global preferred
    select_device(device)
    before = preferred
    preferred = Preferred(
        before.device if device == "auto" else device, before.dtype if dtype == "auto" else dtype
    )
    try:
        yield
    finally:
        preferred = before


def auto_device() -> str:
    """Return what "auto" stands for: "auto" itself unless a device is preferred."""
    return preferred.device


def select_device(device: str | torch.device) -> torch.device:
    """Return the device, refused if it is not there; "auto" is the preferred one, or a GPU."""
    if device == "auto":
        device = preferred.device
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise ValueError(
            f"device must be 'auto', 'cpu', 'cuda', 'cuda:N' or 'mps', got {device!r}"
        ) from None
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device {device!r} is not available: torch sees {torch.cuda.device_count()} GPUs; "
            "pass 'auto' or 'cpu'"
        )
    if chosen.type not in ("cpu", "cuda"):
        try:
            torch.zeros(1, device=chosen)
        except (RuntimeError, AssertionError, NotImplementedError, ImportError):
            raise ValueError(
                f"device {device!r} is not available: torch finds none; pass 'auto' or 'cpu'"
            ) from None
    return chosen


@contextmanager
def drawn_from(seed: int) -> Iterator[None]:
    """Draw the first weights of modules from a seed, in float32, whatever this process's default.

    Modules draw from the global generator, which is given back as it was.
    """
    default = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(default)


def check_learning(weights: Iterable[Tensor]) -> None:
    """Refuse to train weights where this process computes no gradients, or rounded ones.

    Raises:
        SettingsError: naming the context that is to be left.
    """
    state = remedy = ""
    if torch.is_inference_mode_enabled():
        state = "within torch.inference_mode()"
    elif not torch.is_grad_enabled():
        state = "where gradients are off, by torch.no_grad() or set_grad_enabled(False)"
    elif torch.is_autocast_enabled() or torch.is_autocast_enabled("cpu"):
        state, remedy = "within torch.autocast", "; precision='bf16-mixed' is an agent's own"
    elif any(weight.is_inference() for weight in weights):
        state, remedy = "with weights that were made within torch.inference_mode()", ", and make it"
    if state:
        raise SettingsError(f"an agent cannot learn {state}; train it outside{remedy}")


def use_device(arguments: "TrainingArguments", device: torch.device) -> None:
    """Have a Trainer's arguments name one GPU, unless a launcher did; else it uses them all."""
    state = arguments.distributed_state if arguments.device.type == "cuda" else None
    if device.type != "cuda" or state is None or state.num_processes > 1:
        return
    device = torch.device("cuda", device.index or 0)
    torch.cuda.set_device(device)
    state.device = device
    arguments.__dict__["_setup_devices"] = device  # the value of a cached property
    arguments._n_gpu = 1
