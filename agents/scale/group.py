"""Several processes that train one agent, as ``torchrun`` or ``accelerate launch`` start them.

Each process plays its own rows. The round is then gathered, so that advantages, statistics and
figures are those of all rows and the same everywhere; each process passes its share of a minibatch
over, and gradients are added up. Every operation has to be called by all processes, in one order.
"""

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from tokengym.agents.errors import ProcessError
from tokengym.envs.errors import SettingsError
from tokengym.rewards.models.loading import select_device

T = TypeVar("T")

TIMEOUT = timedelta(minutes=30)
"""Longest that a process waits for another; the main one's evaluations are part of it."""


@dataclass(frozen=True)
class Processes:
    """This process among those that train one agent; alone it waits for nobody."""

    number: int = 0
    count: int = 1
    shards_weights: bool = False
    """Whether the launcher was told to share the weights out, see `Shards`."""

    @property
    def is_main(self) -> bool:
        """Whether this process measures, prints and writes."""
        return self.number == 0

    def gather(self, value: T) -> list[T]:
        """Return every process's value, in their order."""
        found: list[Any] = [value] * self.count
        if self.count > 1:
            with _explained():
                distributed.all_gather_object(found, value)
        return found

    def add(self, tensor: Tensor) -> Tensor:
        """Return the sum of every process's tensor, in place."""
        if self.count > 1:
            with _explained():
                distributed.all_reduce(tensor)
        return tensor

    def most(self, number: int) -> int:
        """Return the largest of every process's numbers."""
        return max(self.gather(number))

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace gradients by their sums; those that no process has stay None."""
        if self.count == 1:
            return
        given = list(parameters)
        device = given[0].device
        have = torch.tensor([p.grad is not None for p in given], dtype=torch.int32, device=device)
        learns = self.add(have).tolist()
        with _explained():
            waits = []
            for parameter, is_any in zip(given, learns, strict=True):
                if is_any:
                    if parameter.grad is None:
                        parameter.grad = torch.zeros_like(parameter)
                    waits.append(distributed.all_reduce(parameter.grad, async_op=True))
            for wait in waits:
                wait.wait()

    def copy_from_main(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors with the main process's."""
        if self.count > 1:
            with _explained():
                for tensor in tensors:
                    distributed.broadcast(tensor.detach(), 0)


def launched() -> int:
    """Return the number of processes that a launcher has started, 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def join(device: torch.device | str) -> Processes:
    """Return this process among those launched together, which wait here for each other once.

    Args:
        device: Device that trains.

    Raises:
        SettingsError: if the launcher was told to share the weights out in a way that is not
            supported, or there are fewer GPUs than processes.
    """
    if not distributed.is_initialized():
        if launched() == 1:
            return Processes()
        _check_launch(is_cpu := select_device(device).type == "cpu")
        from accelerate import PartialState

        with _explained():
            PartialState(cpu=is_cpu, timeout=TIMEOUT)
        if distributed.get_rank() > 0:  # what the main process warns of, all have found
            logging.getLogger("tokengym").setLevel(logging.ERROR)
    count = distributed.get_world_size()
    return Processes(distributed.get_rank(), count, count > 1 and _is_on("ACCELERATE_USE_FSDP"))


def _is_on(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in ("1", "true")


def _check_launch(is_cpu: bool) -> None:
    if _is_on("ACCELERATE_USE_DEEPSPEED"):
        raise SettingsError(
            "DeepSpeed is not supported; launch with --use_fsdp to share the weights out, or "
            "without either"
        )
    if _is_on("ACCELERATE_USE_FSDP"):
        strategy = os.environ.get("FSDP_SHARDING_STRATEGY", "FULL_SHARD")
        if strategy not in ("FULL_SHARD", "1"):
            raise SettingsError(
                f"fsdp_sharding_strategy must be FULL_SHARD, got {strategy}; without FSDP each "
                "process has all weights"
            )
        if _is_on("FSDP_OFFLOAD_PARAMS"):
            raise SettingsError(
                "fsdp_offload_params is not supported; leave it out, and save memory with lora"
            )
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if not is_cpu and torch.cuda.device_count() < local:
        raise SettingsError(
            f"{local} processes need {local} GPUs, torch sees {torch.cuda.device_count()}; launch "
            "fewer processes, or pass device='cpu'"
        )


@contextmanager
def _explained() -> Iterator[None]:
    """Say in one line that another process is gone."""
    try:
        yield
    except RuntimeError as error:
        minutes = int(TIMEOUT.total_seconds() // 60)
        raise ProcessError(
            f"another process of this training has ended, or not answered for {minutes} minutes; "
            "its own message says why"
        ) from error
