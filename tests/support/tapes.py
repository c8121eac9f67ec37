"""Captured steps played on a CPU: each is a tape, which complains where a graph is silently wrong.

A tape records the operations of a function once and does them again on the same memory, as a CUDA
graph does. It raises `TapeError` where the function

- reads a value or the host's memory, which a graph cannot, or
- would now do other operations, or the same with other numbers or other memory: a graph repeats
  what was captured (a temperature that has changed, a weight that was replaced).

``TOKENGYM_TAPES=1 pytest tests/suite/agents/fast tests/suite/agents/ppo`` runs any tests so,
rollouts that ``decoding="auto"`` would write without a static cache included.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from tokengym.agents.errors import ModelError
from tokengym.agents.fast.replayed import Replayed
from tokengym.agents.fast.static import check_static
from tokengym.agents.policy.policy import CausalLMPolicy

WAITS = (
    *("item", "_local_scalar_dense", "is_nonzero", "nonzero", "equal", "lift_fresh"),
    *("masked_select", "unique2", "_unique2", "unique_consecutive", "unique_dim"),
)
INDEXED = ("index", "index_put", "index_put_", "_index_put_impl_")


class TapeError(AssertionError):
    """A captured function of which a graph could not be made, or would go stale."""


class _Recorder(TorchDispatchMode):
    """Records operations, and what of each must be the same whenever they are repeated."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, Any]] = []
        self.keys: list[tuple[str, list[Any]]] = []
        self._results: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        places = tree_flatten(args[1])[0] if name in INDEXED else []
        if name in WAITS or any(isinstance(x, Tensor) and x.dtype == torch.bool for x in places):
            raise TapeError(f"{name} reads a value or host memory, so it cannot be captured")
        self.keys.append((name, [self._key(x) for x in tree_flatten((args, kwargs))[0]]))
        result = func(*args, **kwargs)
        for x in tree_flatten(result)[0]:
            self._results.setdefault(id(x), len(self._results))
        self.operations.append((func, args, kwargs, result))
        return result

    def _key(self, value: Any) -> Any:
        """Return a number, or where a tensor is: among the results, or in memory."""
        if not isinstance(value, Tensor):
            return repr(value)
        if id(value) in self._results:
            return f"result {self._results[id(value)]}"
        return value.data_ptr(), tuple(value.shape), value.stride(), value.dtype


class Tape:
    """A CUDA graph on the CPU.

    Args:
        function: Called once, to record it.
    """

    def __init__(self, function: Callable[[], object]) -> None:
        with _Recorder() as self._recorded:
            function()

    def replay(self) -> None:
        """Do the operations again, with their results where they were, unseen by autograd."""
        everything = tree_flatten(self._recorded.operations)[0]
        memory = [x for x in everything if isinstance(x, Tensor) and not x.is_inference()]
        with (
            torch._C._AutoDispatchBelowAutograd(),
            torch.autograd._unsafe_preserve_version_counter(tuple(memory)),
        ):
            for func, args, kwargs, found in self._recorded.operations:
                again = func(*args, **kwargs)
                for old, new in zip(tree_flatten(found)[0], tree_flatten(again)[0], strict=True):
                    if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)

    def check(self, function: Callable[[], object]) -> None:
        """Call the function, which it may be once more, and raise unless it does the same."""
        with _Recorder() as recorder:
            function()
        before, now = self._recorded.keys, recorder.keys
        if before == now:
            return
        place = next((i for i, (a, b) in enumerate(zip(before, now, strict=False)) if a != b), -1)
        raise TapeError(
            f"a graph would be stale: {len(before)} operations were captured, now {len(now)}; "
            f"number {place} was {before[place]}, now {now[place]}"
        )


def warmed_tape(replayed: Replayed, function: Callable[[], object]) -> Tape:
    """Return the tape of a function that was called before, as a graph's is."""
    function()
    return Tape(function)


def record_tapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let captured players record tapes, as they capture graphs on a GPU."""
    setup, call = Replayed.__init__, Replayed.__call__

    def init(self: Any, device: torch.device, **settings: Any) -> None:
        setup(self, device, **settings)
        self.captures = True

    def checked(self: Any, key: Any, function: Callable[[], None]) -> None:
        call(self, key, function)
        if isinstance(tape := self._graphs.get(key), Tape):
            tape.check(function)

    monkeypatch.setattr(Replayed, "__init__", init)
    monkeypatch.setattr(Replayed, "__call__", checked)
    monkeypatch.setattr(Replayed, "_capture", warmed_tape)


@contextmanager
def taping(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Record tapes in the block, of all policies that have a static cache."""
    own = CausalLMPolicy._decodes_statically

    def decodes(self: CausalLMPolicy) -> bool:
        if self.settings.decoding == "auto" and self._has_static is None:
            self._has_static = True
            try:
                check_static(self.language_model, self.decoding_dtype)
            except ModelError:
                self._has_static = False
        return bool(self._has_static) if self.settings.decoding == "auto" else own(self)

    record_tapes(monkeypatch)
    monkeypatch.setattr(CausalLMPolicy, "_decodes_statically", decodes)
    try:
        yield
    finally:
        monkeypatch.undo()
