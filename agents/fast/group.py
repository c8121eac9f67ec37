"""Several processes that train one agent, as ``torchrun`` or ``accelerate launch`` start them.

Each process plays its own rows. The round is then gathered, so that advantages, statistics and
figures are those of all rows and the same everywhere; each process passes its share of a minibatch
over, and gradients are added up. Every operation has to be called by all processes, in one order.

A rollout reads all weights for every token, so each process keeps the policy whole. Under torch's
FSDP2 what learns is a twin of it, of which a process holds its shards and, in an update, one whole
block at a time. The policy takes over the twin's weights after each update. A reference model is
sharded as well.
"""

import atexit
import copy
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from tokengym.agents.errors import ProcessError
from tokengym.agents.fast.joining import joined, masks_among, moved
from tokengym.agents.policy.language_model import LanguageModel
from tokengym.agents.policy.policy import CausalLMPolicy
from tokengym.agents.policy.sequences import ActionMasks, Sequences
from tokengym.agents.processes import Processes
from tokengym.agents.rollouts.experience import Experience
from tokengym.agents.rollouts.layers import layers
from tokengym.agents.rollouts.playing import RolloutBatch
from tokengym.base.device import select_device
from tokengym.base.errors import SettingsError
from tokengym.envs import TokenGenerationVectorEnv


class Shards:
    """The twin of a policy that learns from this process's shards of the weights.

    Args:
        policy: The policy, the same in all processes; its optimiser then steps on the shards.
        count: Processes that share the weights out.
        largest: Returns the largest of every process's numbers.
    """

    def __init__(
        self, policy: CausalLMPolicy, count: int, *, largest: Callable[[int], int]
    ) -> None:
        self._mesh = init_device_mesh(policy.device.type, (count,))
        self._owner = policy
        if policy.reference is not None:
            self._share_model(policy.reference)
            policy.largest = largest
        # The twin has modules of its own over the policy's parameters, until shards replace them.
        memo: dict[int, Any] = {id(parameter): parameter for parameter in policy.parameters()}
        self.policy = copy.copy(policy)
        """The twin."""
        self.policy._modules = dict(policy._modules)
        self.policy.language_model, self.policy.critic = copy.deepcopy(
            (policy.language_model, policy.critic), memo
        )
        self._share_model(self.policy.language_model)
        if (critic := self.policy.critic) is not None:
            self._share(critic.head)
            if critic.network is not None:  # whose head is the policy's
                self._share(*critic.network.blocks(), critic.network.model.base_model)
        shards = dict(self.policy.named_parameters())
        self._pairs = [
            (whole, shards[name])
            for name, whole in policy.named_parameters()
            if whole.requires_grad
        ]
        policy.optimizer.param_groups[0]["params"] = [shard for _, shard in self._pairs]

    def _share_model(self, model: LanguageModel) -> None:
        # A view whose hook is lost does no harm: these weights stay whole until the backward pass.
        warnings.filterwarnings("ignore", "FSDP2-wrapped module", UserWarning)
        self._share(*model.blocks(), model)
        for method in ("hidden", "logits"):
            register_fsdp_forward_method(model, method)

    def _share(self, *modules: nn.Module) -> None:
        """Replace parameters by this process's shards of them; a module comes after its parts."""
        for module in modules:
            fully_shard(module, mesh=self._mesh)

    @torch.no_grad()
    def read(self) -> None:
        """Take the policy's weights over."""
        for whole, shard in self._pairs:
            shard.copy_(_part(whole, shard))

    @torch.no_grad()
    def write(self) -> None:
        """Give the policy the weights as they are now."""
        for module in _sharded(self.policy):
            module.reshard()
        for whole, shard in self._pairs:
            whole.copy_(shard.full_tensor())  # type: ignore[attr-defined]

    @contextmanager
    def whole_reference(self) -> Iterator[None]:
        """Gather the reference, so that one process may read it alone."""
        root, largest = self._owner.reference, self._owner.largest
        for module in _sharded(root):
            if module is not root:  # which stays whole after a forward anyway
                module.set_reshard_after_forward(False, recurse=False)
            module.unshard()
        self._owner.largest = None
        try:
            yield
        finally:
            self._owner.largest = largest
            for module in _sharded(root):
                if module is not root:
                    module.set_reshard_after_forward(True, recurse=False)
                module.reshard()

    def load_optimizer(self, state: Mapping[int, Mapping[str, Tensor]]) -> None:
        """Give the optimiser its share of a whole one's state, by the parameters' numbers."""
        optimizer = self.policy.optimizer
        parts = {
            number: {
                name: _part(value, self._pairs[number][1]) if value.dim() else value
                for name, value in tensors.items()
            }
            for number, tensors in state.items()
        }
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": parts, "param_groups": groups})


def gathered(tensor: Tensor, *, keep: bool = True) -> Tensor:
    """Return a tensor, whole if it was sharded, on the CPU.

    Args:
        tensor: The tensor.
        keep: Whether this process wants it; where it was sharded, all processes take part.
    """
    if isinstance(tensor, DTensor):
        tensor = tensor.full_tensor()
    return tensor.detach().cpu().contiguous() if keep else torch.empty(0)


def weights_of(model: LanguageModel | None, *, keep: bool) -> dict[str, Tensor]:
    """Return a sharded model's weights by name, whole and without those that are tied to others.

    Args:
        model: The model; None has none.
        keep: See `gathered`.
    """
    if model is None:
        return {}
    tied = {name for name, _ in model.model.named_parameters(remove_duplicate=False)}
    tied -= {name for name, _ in model.model.named_parameters()}
    return {
        name: gathered(value, keep=keep)
        for name, value in model.model.state_dict().items()
        if name not in tied
    }


def _part(whole: Tensor, shard: Tensor) -> Tensor:
    """Return this process's part of a tensor that all have."""
    assert isinstance(shard, DTensor)
    whole = whole.detach().to(shard.device, shard.dtype)
    return distribute_tensor(whole, shard.device_mesh, shard.placements, src_data_rank=None)


def _sharded(module: nn.Module | None) -> list[FSDPModule]:
    return [] if module is None else [m for m in module.modules() if isinstance(m, FSDPModule)]


T = TypeVar("T")

TIMEOUT = timedelta(minutes=30)
"""Longest that a process waits for another; the main one's evaluations are part of it."""
SECONDS_TO_FREE = 0.5
"""For gloo's threads at the end of a process: freeing a tensor takes them microseconds."""


class Group(Processes):
    """This process among several, each of which has all weights."""

    keeps_states = False
    keeps_masks = True
    """Whether a process passes over its own rows where each step has a mask of its own: those of
    a round, a bit for every word and token, take more than all else that is gathered."""

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
        keeps = self.keeps_masks and masks is not None and masks.vocab_size > 0
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
        everyone = torch.arange(len(sequences), device=sequences.input_ids.device)
        rows = everyone.tensor_split(self.count)[self.number]
        inputs = [sequences.select(rows)] + ([] if masks is None else [masks.select(rows)])
        part = figure(*inputs, **how)  # (rows, time) or (rows,)
        whole = part.new_zeros(sequences.response_mask.shape[: part.dim()])
        whole[rows] = F.pad(part, (0, whole.shape[1] - part.shape[1])) if part.dim() > 1 else part
        return self.add(whole)

    def own_rows(self, minibatch: Experience, max_rows: int | None) -> list[Tensor]:
        """Return the rows of the parts of this process.

        They are dealt out from the longest to the shortest, so that all have as much to do, or are
        those whose masks it has.
        """
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

    def parts(self, minibatch: Experience, max_rows: int | None) -> Iterator[Experience]:
        """See `Processes.parts`."""
        for rows in self.own_rows(minibatch, max_rows):
            yield minibatch.select(rows)

    def add_gradients(self, policy: CausalLMPolicy, figures: list[T]) -> list[T]:
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
        return [figure for share in self.gather(figures) for figure in share]

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


class ShardedGroup(Group):
    """This process among several that share weights, gradients and optimiser out, see `Shards`."""

    saves_together = True
    keeps_masks = False  # idle parts are of any row
    shards: Shards

    def prepare(self, agent: Any) -> None:
        """See `Processes.prepare`."""
        if not agent.shards_weights:
            raise SettingsError(
                f"{type(agent).__name__} does not learn from shards of the weights; launch it "
                "without FSDP, or take its gradient steps in `with self.processes.updating(self):` "
                "and set shards_weights = True"
            )
        if agent.policy.settings.updates == "captured":
            raise SettingsError(
                "updates='captured' reads weights where they are, and FSDP gathers them anew; "
                "leave one of them out"
            )
        super().prepare(agent)
        self.shards = Shards(agent.policy, self.count, largest=self._largest)

    @contextmanager
    def updating(self, agent: Any) -> Iterator[None]:
        """See `Processes.updating`."""
        whole, agent.policy = agent.policy, self.shards.policy
        try:
            yield
            self.shards.write()
        finally:
            agent.policy = whole

    def _largest(self, number: int) -> int:
        """Return the largest of every process's numbers."""
        return max(self.gather(number))

    def parts(self, minibatch: Experience, max_rows: int | None) -> Iterator[Experience]:
        """See `Processes.parts`; then parts without tokens, while others need this one's shards."""
        parts = self.own_rows(minibatch, max_rows)
        num_idle = self._largest(len(parts)) - len(parts)
        for rows in parts:
            yield minibatch.select(rows)
        for _ in range(num_idle):
            first = torch.zeros(1, dtype=torch.int64, device=minibatch.response_mask.device)
            part = minibatch.select(first)
            yield replace(part, response_mask=torch.zeros_like(part.response_mask))

    def add_gradients(self, policy: CausalLMPolicy, figures: list[T]) -> list[T]:
        """See `Processes.add_gradients`; the backward passes have taken their mean."""
        for parameter in policy.trained_parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(self.count)
        return [figure for share in self.gather(figures) for figure in share]

    @contextmanager
    def single_process(self) -> Iterator[None]:
        """See `Processes.single_process`; all gather the reference."""
        with self.shards.whole_reference():
            yield

    def whole_tensor(self, tensor: Tensor, *, keep: bool = True) -> Tensor:
        """See `Processes.whole_tensor`."""
        return gathered(tensor, keep=keep)

    def reference_weights(self, model: LanguageModel | None) -> dict[str, Tensor]:
        """See `Processes.reference_weights`."""
        return weights_of(model, keep=self.is_main)

    def load_optimizer(
        self, policy: CausalLMPolicy, state: Mapping[int, Mapping[str, Tensor]]
    ) -> None:
        """See `Processes.load_optimizer`; the shards take the policy's weights over."""
        self.shards.read()
        self.shards.load_optimizer(state)


def join(device: torch.device | str) -> Processes:
    """Return this process among those launched; see `tokengym.agents.processes.join`."""
    if not distributed.is_initialized():
        _check_launch(chosen := select_device(device))
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
    return ShardedGroup() if _is_on("ACCELERATE_USE_FSDP") else Group()


def _leave() -> None:
    # A thread of gloo's that frees a tensor while the interpreter ends aborts the process.
    if distributed.is_initialized():
        distributed.destroy_process_group()
        time.sleep(SECONDS_TO_FREE)  # meshes in torch's caches keep the threads of a group


def _is_on(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in ("1", "true")


def _check_launch(device: torch.device) -> None:
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
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if local > 1 and device.index not in (None, local_rank):
        raise SettingsError(
            f"device={str(device)!r} was given to process {local_rank} of {local}, each of which "
            "has a GPU of its own; pass device='cuda' or 'auto'"
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
