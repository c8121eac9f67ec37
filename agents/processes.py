"""The process that trains an agent, alone or among several.

What a process does alone stands in the learner; where there are several, their `Processes` join
what each has played, read and learned. `join` returns them. What accelerate lacks, which DPO and
SFT use as it is: a round's rows, prompts, baselines and masks are those of all processes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, distributed

from tokengym.agents.policy.backend import backend

if TYPE_CHECKING:
    from tokengym.agents.policy.policy import CausalLMPolicy
    from tokengym.agents.policy.sequences import ActionMasks, Sequences
    from tokengym.agents.rollouts.experience import Experience
    from tokengym.agents.rollouts.playing import RolloutBatch

T = TypeVar("T")


class Processes:
    """The one process that trains an agent: each method does the plain thing.

    `tokengym.agents.fast.group` overrides them for several processes, all of which have to call
    each method, in one order.
    """

    number = 0
    """This process's place among those that train the agent."""
    count = 1
    """Processes that train the agent, each of which has as many rows."""
    keeps_states = True
    """Whether each row's hidden states, read before the update, are here when it is learned from.
    Several processes deal rows out anew for each gradient step."""

    @property
    def is_main(self) -> bool:
        """Whether this process measures, prints and writes."""
        return self.number == 0

    def gather(self, value: T) -> list[T]:
        """Return every process's value, in their order."""
        return [value]

    def add(self, tensor: Tensor) -> Tensor:
        """Return the sum of every process's tensor, in place."""
        return tensor

    def prepare(self, agent: Any) -> None:
        """Let an agent play its rows among those of all, from the same weights and seeds."""

    # --- a round and its update -------------------------------------------------------------------

    def join_rounds(self, agent: Any, played: RolloutBatch, num_tokens: int) -> RolloutBatch:
        """Return the round of all processes' rows, which the agent has counted as one.

        The agent has played this process's, which took so many tokens.
        """
        return played

    def of_rows(
        self,
        figure: Callable[..., Tensor],
        sequences: Sequences,
        masks: ActionMasks | None = None,
        **how: Any,
    ) -> Tensor:
        """Return a figure of every row, (batch, time) or (batch,), each process giving its own."""
        inputs = [sequences] if masks is None else [sequences, masks]
        return figure(*inputs, **how)

    def own_rows(self, minibatch: Experience, max_rows: int | None) -> list[Tensor]:
        """Return the rows of a minibatch's parts that this process passes over, of like lengths."""
        return minibatch.sequences.buckets(max_rows)

    def add_gradients(self, policy: CausalLMPolicy) -> None:
        """Make a minibatch's gradients, which are those of this process's parts, those of all."""

    # --- states -----------------------------------------------------------------------------------

    def join_states(self, state: dict[str, Any] | None) -> dict[str, Any] | None:
        """Return an environment's state with the rows of all processes."""
        return state

    def own_state(self, state: dict[str, Any], rows: int) -> dict[str, Any]:
        """Return what `join_states` returned with this process's rows alone."""
        return state


def launched() -> int:
    """Return the number of processes that a launcher has started, 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


_IS_ALONE = ContextVar("_IS_ALONE", default=False)


@contextmanager
def alone() -> Iterator[None]:
    """Let this process make agents by itself within the block, whatever others do or have done."""
    token = _IS_ALONE.set(True)
    try:
        yield
    finally:
        _IS_ALONE.reset(token)


def join(device: torch.device | str) -> Processes:
    """Return this process among those launched together, which wait here for each other once.

    Within `alone` it is this process by itself.

    Args:
        device: Device that trains.
    """
    if _IS_ALONE.get() or (launched() == 1 and not distributed.is_initialized()):
        return Processes()
    joined: Processes = backend().join(device)
    return joined
