"""Functions on fixed memory that a GPU captures once, as a CUDA graph, and then replays."""

import logging
import threading
from collections.abc import Callable, Hashable
from functools import cache
from typing import Any

import torch

from tokengym.agents.errors import ModelError

logger = logging.getLogger(__name__)

FEWEST_ROWS = 8
"""Batches of fewer rows take no less time on a GPU."""


def bucket(rows: int) -> int:
    """Return the size of the captured batch for so many rows: 2^n or 3 * 2^n.

    Example:
        >>> [bucket(rows) for rows in (1, 8, 9, 13, 48, 100, 256)]
        [8, 8, 12, 16, 48, 128, 256]
    """
    size = FEWEST_ROWS
    while size < rows:
        size *= 2
    return size if size == FEWEST_ROWS or rows > size * 3 // 4 else size * 3 // 4


_CAPTURING = threading.Lock()


@cache  # each stream takes a workspace of cuBLAS, 32 MiB on Hopper, until the process ends
def _side_stream(device: int) -> Any:
    """Return the one stream on which a GPU's graphs are captured."""
    return torch.cuda.Stream(device)


class Replayed:
    """Calls functions on fixed memory; on a GPU each is captured once and then replayed.

    Functions take and return nothing, and doing one twice changes nothing. One that cannot be
    captured is called, or refused with ``must_capture``.
    """

    def __init__(self, device: torch.device, *, must_capture: bool = False) -> None:
        self._device, self._must_capture = device, must_capture
        self.captures = device.type == "cuda"
        """Whether calls are replayed; False once a capture has failed."""
        self._graphs: dict[Hashable, Any] = {}

    def __call__(self, key: Hashable, function: Callable[[], None]) -> None:
        """Call the function that ``key`` stands for."""
        # A graph repeats the kernels that it recorded, on the same addresses and shapes: whatever
        # changes one of them, or a branch on the way, has to be in the key.
        if self.captures and key not in self._graphs:
            try:
                self._graphs[key] = self._capture(function)
            except torch.cuda.OutOfMemoryError:
                raise
            except RuntimeError as error:
                if self._must_capture:
                    raise ModelError(
                        f"the step of the rollout cannot be captured ({error}); use "
                        "decoding='auto', which then writes more slowly"
                    ) from error
                logger.warning("decoding is not captured, which is slower: %s", error)
                self.captures = False
        if self.captures:
            self._graphs[key].replay()
        else:
            function()

    def _capture(self, function: Callable[[], None]) -> Any:
        # One pool for all: nothing that a graph leaves in it is read after the graph.
        pool = self._pool()
        graph = torch.cuda.CUDAGraph()
        with _CAPTURING, torch.cuda.device(self._device):
            side = _side_stream(torch.cuda.current_device())
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):  # left again where a capture fails
                for _ in range(2):  # libraries set themselves up, which cannot be captured
                    function()
                # Other threads may do meanwhile what a capture does not allow.
                with torch.cuda.graph(
                    graph, pool=pool, stream=side, capture_error_mode="thread_local"
                ):
                    function()
            torch.cuda.current_stream().wait_stream(side)
        return graph

    def _pool(self) -> Any:
        """Return the handle of the memory that all graphs share, None before the first."""
        return next(iter(self._graphs.values())).pool() if self._graphs else None

    def num_bytes(self) -> int:
        """Return the bytes of memory that the graphs hold."""
        pool = self._pool()
        if pool is None:
            return 0
        segments = torch.cuda.memory_snapshot()
        return sum(s["total_size"] for s in segments if tuple(s["segment_pool_id"]) == tuple(pool))
