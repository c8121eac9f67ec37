"""A GPU that is played on the CPU: tensors say which device they are on and may not be mixed.

Inside `playing`, ``device="cuda:1"`` works as on a machine with two GPUs: values are computed on
the CPU, tensors carry their device, and operations on tensors of two devices, ``.numpy()`` of one
on a GPU, and a generator of another device raise what torch raises. Streams and graphs do nothing:
a captured graph is its function, called again.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

from tokengym.agents.fast.replayed import Replayed

CPU = torch.device("cpu")
DEVICE, IS_CUDA, DATA, GRAD = (
    getattr(Tensor, name).__get__ for name in ("device", "is_cuda", "data", "grad")
)
SET_DATA = DATA.__self__.__set__
ACROSS = {Tensor.copy_, SET_DATA, GRAD.__self__.__set__, torch._has_compatible_shallow_copy_type}
"""Functions that take tensors of several devices."""
INDEXED = {Tensor.__getitem__, Tensor.__setitem__, Tensor.index_put, Tensor.index_put_}
"""Functions of a tensor that may be on a GPU when the places are on the CPU."""


def device_of(tensor: Tensor) -> torch.device:
    """Return the device that a tensor says it is on."""
    return tensor.__dict__.get("played_on", CPU)


FIGURES = {
    DEVICE: device_of,
    IS_CUDA: lambda tensor: device_of(tensor).type == "cuda",
    Tensor.pin_memory: lambda tensor: tensor,
}
"""Functions of one tensor, as the machine with GPUs has them."""


class PlayedDevices(TorchFunctionMode):
    """Runs everything on the CPU and keeps account of devices."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
        if function in FIGURES:
            return FIGURES[function](args[0])
        if function is Tensor.cpu:
            return self._moved(args[0], CPU, {})
        if function is Tensor.to:
            return self._to(*args, **kwargs)
        if function in (Tensor.numpy, Tensor.__array__) and device_of(args[0]) != CPU:
            raise TypeError(f"can't convert {device_of(args[0])} device type tensor to numpy")
        named = kwargs.pop("device", None)
        kwargs.pop("pin_memory", None)
        where = self._common(function, tensors, args) if named is None else torch.device(named)
        where = torch.device("cuda", 0) if where == torch.device("cuda") else where
        generator = kwargs.get("generator")
        if generator is not None and generator.device.type != where.type:
            raise RuntimeError(
                f"Expected a '{where.type}' device type for generator but found "
                f"'{generator.device.type}'"
            )
        result = function(*args, **kwargs)
        if function == SET_DATA:
            args[0].__dict__["played_on"] = device_of(args[1])
            return result
        known = {id(tensor) for tensor in tensors}

        def placed(value: Any) -> Any:
            if isinstance(value, Tensor) and id(value) not in known:
                value.__dict__["played_on"] = where
            return value

        return tree_map(placed, result)

    def _common(self, function: Any, tensors: list[Tensor], args: Any) -> torch.device:
        """Return the device of an operation's result, refusing tensors of several."""
        if function in ACROSS or not tensors:
            return device_of(tensors[0]) if tensors else CPU
        if function in INDEXED:
            rest = [x for x in tree_flatten(args[1])[0] if isinstance(x, Tensor)]
            wrong = [x for x in rest if device_of(x) not in (CPU, device_of(args[0]))]
            if wrong:
                raise RuntimeError("indices should be either on cpu or on the same device")
            return device_of(args[0])
        found = {device_of(tensor) for tensor in tensors if tensor.dim()}
        if len(found) > 1:
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but found at least two devices, "
                f"{' and '.join(sorted(map(str, found)))}, in {function}"
            )
        scalars = {device_of(tensor) for tensor in tensors} - {CPU}
        return next(iter(found), next(iter(scalars), CPU)) if found != {CPU} else CPU

    def _to(self, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        where, rest = device_of(tensor), []
        for value in args:
            if isinstance(value, str | torch.device | int) and not isinstance(value, bool):
                where = torch.device(value)
            elif isinstance(value, Tensor):
                where = device_of(value)
                rest.append(value.dtype)
            else:
                rest.append(value)
        named = kwargs.pop("device", None)
        where = where if named is None else torch.device(named)
        where = torch.device("cuda", 0) if where == torch.device("cuda") else where
        return self._moved(tensor, where, kwargs, *rest)

    def _moved(self, tensor: Tensor, where: torch.device, kwargs: Any, *args: Any) -> Tensor:
        if args and args[0] is None:
            args = args[1:]
        kwargs = {k: v for k, v in kwargs.items() if k != "non_blocking"}
        args = tuple(value for value in args if isinstance(value, torch.dtype))
        result = tensor.to(*args, **kwargs) if args or kwargs else tensor
        if result is tensor and where != device_of(tensor):
            result = tensor.clone()
        if result is not tensor:
            result.__dict__["played_on"] = where
        return result


@contextmanager
def playing(monkeypatch: pytest.MonkeyPatch, count: int = 2) -> Iterator[None]:
    """Play a machine with GPUs while the block runs."""
    cuda = torch.cuda
    monkeypatch.setattr(cuda, "device_count", lambda: count)
    monkeypatch.setattr(cuda, "is_available", lambda: True)
    monkeypatch.setattr(cuda, "current_device", lambda: 0)
    monkeypatch.setattr(cuda, "set_device", lambda device: None)
    monkeypatch.setattr(cuda, "get_device_name", lambda device=None: "a played GPU")
    monkeypatch.setattr(cuda, "mem_get_info", lambda device=None: (2**30, 2**34))
    for module in (cuda, cuda.random):
        monkeypatch.setattr(module, "get_rng_state", lambda device="cuda": torch.zeros(1))
        monkeypatch.setattr(module, "set_rng_state", lambda state, device="cuda": None)
        monkeypatch.setattr(module, "get_rng_state_all", lambda: [])
        monkeypatch.setattr(module, "set_rng_state_all", lambda states: None)
    monkeypatch.setattr(cuda, "current_stream", lambda device=None: None)
    monkeypatch.setattr(
        cuda, "Event", lambda: SimpleNamespace(record=lambda stream: None, synchronize=lambda: None)
    )
    monkeypatch.setattr(
        Replayed,
        "_capture",
        lambda self, function: SimpleNamespace(replay=function, pool=lambda: None),
    )
    made = nn.Parameter.__new__

    def parameter(cls: Any, data: Any = None, requires_grad: bool = True) -> Any:
        result = made(cls, data, requires_grad)
        if data is not None:
            result.__dict__["played_on"] = device_of(data)
        return result

    monkeypatch.setattr(nn.Parameter, "__new__", parameter)
    try:
        with PlayedDevices():
            yield
    finally:
        monkeypatch.undo()
