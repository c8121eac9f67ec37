"""Several processes that train one agent, as ``torchrun`` or ``accelerate launch`` start them.

Each process plays its own rows. The round is then gathered, so that advantages, statistics and
figures are those of all rows and the same everywhere; each process passes its share of a minibatch
over, and gradients are added up. Every operation has to be called by all processes, in one order.

Each process has all weights: a rollout reads them for every token. Adapters (``lora``) save the
memory of gradients and optimiser that sharding would.
"""

import atexit
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, distributed

from tokengym.agents.errors import ProcessError
from tokengym.agents.policy.policy import CausalLMPolicy
from tokengym.agents.policy.sequences import (
    IN_ANOTHER_PROCESS,
    ActionMasks,
    Sequences,
    few_forbidden,
    sent,
)
from tokengym.agents.processes import Processes
from tokengym.agents.rollouts.experience import Experience
from tokengym.agents.rollouts.layers import layers
from tokengym.agents.rollouts.playing import TENSORS, RolloutBatch
from tokengym.base.device import select_device
from tokengym.base.errors import SettingsError
from tokengym.envs import TokenGenerationVectorEnv

T = TypeVar("T")

TIMEOUT = timedelta(minutes=30)
"""Longest that a process waits for another; the main one's evaluations are part of it."""
SECONDS_TO_FREE = 0.5
"""For gloo's threads at the end of a process: freeing a tensor takes them microseconds."""


class ProcessGroup(Processes):
    """This process among several, each of which has all weights."""

    keeps_states = False

    def __init__(self) -> None:
        self.number = distributed.get_rank()
        self.count = distributed.get_world_size()

    def gather(self, value: T) -> list[T]:
        """See `Processes.gather`."""
        values: list[Any] = [value] * self.count
        with _explained():
            distributed.all_gather_object(values, value)
        return values

    def add(self, tensor: Tensor) -> Tensor:
        """See `Processes.add`."""
        with _explained():
            distributed.all_reduce(tensor)
        return tensor

    def prepare(self, agent: Any) -> None:
        """See `Processes.prepare`."""
        counts = self.gather(agent.n_envs)
        if len(set(counts)) > 1:
            raise SettingsError(f"every process must have as many rows, got {counts}")
        (chain, *rows) = layers(agent.env)
        bare = chain[-1]
        if rows or not isinstance(bare, TokenGenerationVectorEnv):
            raise TypeError(
                f"several processes need a native batch, got {type(bare).__name__}; make one with "
                "gym.make_vec(id, num_envs=...)"
            )
        # Prompts go round the rows of all processes.
        bare.share_prompts(self.number * bare.num_envs, self.count * bare.num_envs)
        agent.reward.share(self.gather)
        agent.policy.place = (self.number, self.count)
        with _explained():
            for tensor in agent.policy.parameters():
                distributed.broadcast(tensor.detach(), 0)

    def join_rounds(self, agent: Any, played: RolloutBatch, num_tokens: int) -> RolloutBatch:
        """See `Processes.join_rounds`."""
        buffer, generator = agent.ep_info_buffer, agent.policy.generator
        assert buffer is not None
        device = agent.device if played.log_probs is None else played.log_probs.device
        masks = played.action_masks
        # Where each step has a mask of its own, a bit for every word and token, masks take more
        # than all else that is gathered: a process keeps those of its rows, and passes over these.
        keeps = masks is not None and masks.vocab_size > 0
        given = replace(played, action_masks=None) if keeps else played
        share = (
            moved(given, "cpu"),
            num_tokens,
            list(buffer)[-agent.n_envs :],
            generator.get_state(),
        )
        rounds, tokens, infos, states = zip(*self.gather(share), strict=True)
        agent.num_timesteps += sum(tokens) - num_tokens
        buffer.clear()
        buffer.extend(info for of_one in infos for info in of_one)
        # The round with the most tokens of one row has drawn the most numbers, as many as one
        # process would for all rows. A partner's tokens are among a response's and are not drawn.
        written = [max(e.num_written for e in played.episodes) for played in rounds]
        generator.set_state(states[written.index(max(written))])
        whole = moved(joined(rounds), device)
        if not keeps or masks is None:
            return whole
        before = sum(len(played.episodes) for played in rounds[: self.number])
        longest = max(len(episode.response_ids) for episode in whole.episodes)
        among = masks_among(masks, before, len(whole.episodes), longest)
        return replace(whole, action_masks=among)

    def of_rows(
        self,
        figure: Callable[..., Tensor],
        sequences: Sequences,
        masks: ActionMasks | None = None,
        **how: Any,
    ) -> Tensor:
        """See `Processes.of_rows`."""
        # Each process fills its own rows of zeros; the sum is then everybody's.
        rows = torch.arange(len(sequences)).tensor_split(self.count)[self.number]
        if masks is not None and not masks.has_all:
            rows = masks.is_here.cpu().nonzero()[:, 0]
        inputs = [sequences.select(rows)] + ([] if masks is None else [masks.select(rows)])
        part = figure(*inputs, **how)  # (rows,), or (rows, time, ...)
        whole = part.new_zeros(*sequences.response_mask.shape[: part.dim()], *part.shape[2:])
        rows = sent(rows, part.device)
        at = (rows,) if part.dim() == 1 else (rows, slice(part.shape[1]))
        whole[at] = part
        return self.add(whole)

    def own_rows(self, minibatch: Experience, max_rows: int | None) -> list[Tensor]:
        """See `Processes.own_rows`; they are dealt out, or those whose masks this process has."""
        # Dealt like cards, longest first, so that no process waits long for another.
        order = minibatch.sequences.lengths.argsort(descending=True, stable=True)
        masks = minibatch.action_masks
        if masks is None or masks.has_all:
            rows = order[self.number :: self.count]
        else:
            rows = order[masks.is_here[order]]
        if not len(rows):
            return []
        return [rows[part] for part in minibatch.sequences.select(rows).buckets(max_rows)]

    def add_gradients(self, policy: CausalLMPolicy) -> None:
        """See `Processes.add_gradients`; gradients that no process has stay None."""
        parameters = policy.trained_parameters()
        device = parameters[0].device
        # A part may leave parameters without gradient, and an all_reduce has to be called by all:
        # first they agree on which parameters have one anywhere.
        have = [parameter.grad is not None for parameter in parameters]
        learns = self.add(torch.tensor(have, dtype=torch.int32, device=device)).tolist()
        with _explained():
            waits = []
            for parameter, is_any in zip(parameters, learns, strict=True):
                if is_any:
                    if parameter.grad is None:
                        parameter.grad = torch.zeros_like(parameter)
                    # All are under way before the first is waited for.
                    waits.append(distributed.all_reduce(parameter.grad, async_op=True))
            for wait in waits:
                wait.wait()

    def join_states(self, state: dict[str, Any] | None) -> dict[str, Any] | None:
        """See `Processes.join_states`; the scorers' state is the same in all."""
        parts = self.gather(state)
        if state is None:
            return None
        rows = [row for part in parts if part is not None for row in part["states"][0]]
        return {**_without_layers(state), "states": [rows]}

    def own_state(self, state: dict[str, Any], rows: int) -> dict[str, Any]:
        """See `Processes.own_state`."""
        first = self.number * rows
        states = [state["states"][0][first : first + rows]]
        return {**_without_layers(state), "states": states}


def _without_layers(state: dict[str, Any]) -> dict[str, Any]:
    """Return an environment's state without its layers', of which each process has its own."""
    return {**state, "layers": None} if state["layers"] else state


# --- rounds of several processes as one, row after row --------------------------------------------


def joined(rounds: Sequence[RolloutBatch]) -> RolloutBatch:
    """Return rounds on the CPU as one, row after row."""
    rows = [len(played.episodes) for played in rounds]
    time = max(len(e.response_ids) for played in rounds for e in played.episodes)
    tensors: dict[str, Any] = {}
    for name in TENSORS:  # (rows, own time) each -> (batch, time)
        parts: list[Any] = [getattr(played, name) for played in rounds]
        is_known = parts[0] is not None
        padded = [F.pad(part, (0, time - part.shape[1])) for part in parts if is_known]
        tensors[name] = torch.cat(padded) if is_known else None
    return RolloutBatch(
        episodes=tuple(episode for played in rounds for episode in played.episodes),
        truncated=np.concatenate([played.truncated for played in rounds]),
        action_masks=joined_masks([played.action_masks for played in rounds], rows, time),
        **tensors,
    )


def moved(played: RolloutBatch, device: torch.device | str) -> RolloutBatch:
    """Return a round with its tensors on a device."""
    tensors: dict[str, Any] = {}
    for name in ("action_masks", *TENSORS):
        if (given := getattr(played, name)) is not None:
            tensors[name] = given.to(device)
    return replace(played, **tensors)


def joined_masks(
    parts: Sequence[ActionMasks | None], rows: Sequence[int], time: int
) -> ActionMasks | None:
    """Return the masks of batches of so many rows as those of one, whose longest response is time.

    They are on the CPU and not packed; None allows all tokens.
    """
    first = next((part for part in parts if part is not None), None)
    if first is None:
        return None
    tables, indices, before = [], [], 0
    for part, count in zip(parts, rows, strict=True):
        table = torch.ones_like(first.table[:1]) if part is None else part.table
        index = torch.zeros(count, time, dtype=torch.int64)
        if part is not None:
            index[:, : part.index.shape[1]] = part.index
        tables.append(table)
        indices.append(index + before)
        before += len(table)
    # Processes have the same few masks, in orders of their own: each is kept once again.
    table, places = torch.cat(tables).unique(dim=0, return_inverse=True)
    index = places[torch.cat(indices)]
    return ActionMasks(table=table, index=index, columns=few_forbidden(table))


def masks_among(masks: ActionMasks, before: int, rows: int, time: int) -> ActionMasks:
    """Return masks as those of some rows of a batch, (rows, time), with so many rows before them.

    The others' are in another process.
    """
    index = masks.index.new_full((rows, time), IN_ANOTHER_PROCESS)
    here = index[before : before + len(masks.index)]
    here[:] = 0
    here[:, : masks.index.shape[1]] = masks.index
    return replace(masks, index=index, has_all=False)


# --- a launch -------------------------------------------------------------------------------------


def join(device: torch.device | str) -> Processes:
    """Return this process among those launched; see `tokengym.agents.processes.join`."""
    for name, kind in (("FSDP", "FSDP"), ("DEEPSPEED", "DeepSpeed")):
        if os.environ.get(f"ACCELERATE_USE_{name}", "").lower() in ("1", "true"):
            raise SettingsError(
                f"{kind} is for DPO and SFT: several processes that learn by rounds each have all "
                "weights; launch without it, and save memory by adapters (lora=, --lora-rank)"
            )
    if not distributed.is_initialized():
        _check_devices(chosen := select_device(device))
        is_cpu = chosen.type == "cpu"
        from accelerate import PartialState

        with _explained():
            PartialState(cpu=is_cpu, timeout=TIMEOUT)
        if is_cpu:
            atexit.register(_leave)
        if distributed.get_rank() > 0:  # what the main process warns of, all have found
            logging.getLogger("tokengym").setLevel(logging.ERROR)
    if distributed.get_world_size() == 1:
        return Processes()
    return ProcessGroup()


def _leave() -> None:
    # A thread of gloo's that frees a tensor while the interpreter ends aborts the process.
    if distributed.is_initialized():
        distributed.destroy_process_group()
        time.sleep(SECONDS_TO_FREE)


def _check_devices(device: torch.device) -> None:
    """Raise unless each process of this machine has a GPU of its own, or none."""
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if local > 1 and device.index not in (None, local_rank):
        raise SettingsError(
            f"device={str(device)!r} was given to process {local_rank} of {local}, each of which "
            "has a GPU of its own; pass device='cuda' or device='auto'"
        )
    if device.type != "cpu" and torch.cuda.device_count() < local:
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
