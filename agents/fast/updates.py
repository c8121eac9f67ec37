"""Whole texts through a model's trunk by two captured graphs, one for each direction.

An update's kernels are many and small: the host takes longer to launch them than a GPU to run them.
Those of the trunk are captured here, once for each shape of texts, and launched together. The
gradient is added to the weights' own; head and loss are launched kernel by kernel. On a CPU the
same functions are called.

states = trunk(ids);  weight.grad += (d states / d weight) slope,  slope = d loss / d states
"""

import copy
import logging
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from typing_extensions import Self

from tokengym.agents.errors import ModelError
from tokengym.agents.fast.replayed import Replayed, bucket
from tokengym.agents.fast.static import attention_windows, check_static
from tokengym.agents.policy.backend import backend
from tokengym.agents.policy.language_model import CausalLM

logger = logging.getLogger(__name__)


class CapturedTrunk:
    """Reads texts through a model's trunk with gradients by few launches.

    The graphs of all shapes share memory, which has what is kept from a forward pass for its
    backward pass. Between the two no other texts are read.
    """

    def __init__(self, model: CausalLM) -> None:
        self._model = model
        self._built_on: list[Any] = []  # the weights as they were captured
        self._has_masks: bool | None = None  # not tried yet
        self._last: Callable[[], _Reading | None] = lambda: None
        self.shapes: dict[tuple[int, int, bool], TextShape] = {}
        """What was captured, by rows, length and whether kernels read it."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return type(self)(copy.deepcopy(self._model, memo))

    def states(self, ids: Tensor, *, kernels: bool) -> Tensor | None:
        """Return the trunk's states of ids, (batch, length) -> (batch, length, hidden).

        None where the caller has to read them: the gradient of other texts is still to be taken,
        or nothing learns, or the trunk cannot be captured.
        """
        self._forget_what_moved()
        last = self._last()
        is_free = last is None or last.is_over
        if not (is_free and self._weights and (kernels or self._takes_masks())):
            return None
        rows, length = ids.shape
        key = bucket(rows), length, kernels
        if key not in self.shapes:
            self.shapes[key] = shape = TextShape(self._model, *key, self._weights, self._gradients)
            if self._replayed.captures:  # both directions, while nothing is kept for a backward
                self._replayed((*key, "forward"), shape.forward)
                self._replayed((*key, "backward"), shape.backward)
                shape.release()
        shape = self.shapes[key]
        shape.ids[:rows] = ids
        self._replayed((*key, "forward"), shape.forward)
        reading = _Reading(self, key, rows)
        self._last = weakref.ref(reading)
        states: Tensor = _Read.apply(self._weights[0], reading, shape.states)
        return states

    def _forget_what_moved(self) -> None:
        """Begin anew where weights are elsewhere than they were captured, or others learn."""
        trunk: Any = self._model.model.base_model
        tensors = *trunk.parameters(), *trunk.buffers()
        built_on = [(tensor.data_ptr(), tensor.requires_grad) for tensor in tensors]
        if built_on == self._built_on:
            return
        self._built_on, self.shapes = built_on, {}
        self._replayed = Replayed(self._model.device, name="an update")
        self._weights = [weight for weight in trunk.parameters() if weight.requires_grad]
        self._gradients = [torch.zeros_like(weight) for weight in self._weights]
        self._last = lambda: None

    def _takes_masks(self) -> bool:
        """Say whether the model takes masks of four axes; those that it makes wait for a GPU."""
        if self._has_masks is None:
            self._has_masks = True
            try:
                check_static(self._model)
            except ModelError as error:
                logger.warning("updates are not captured, which is slower: %s", error)
                self._has_masks = False
        return self._has_masks

    def add_gradients(self, reading: "_Reading", slope: Tensor) -> None:
        """Add the gradient of the texts read last to the weights', by their states' slope."""
        if reading.is_over or self._last() is not reading:
            raise RuntimeError(
                "the gradient of captured texts can be taken once, before others are read; build "
                "the policy with updates='plain'"
            )
        shape = self.shapes[reading.key]
        shape.slope.zero_()
        shape.slope[: reading.rows] = slope
        self._replayed((*reading.key, "backward"), shape.backward)
        reading.is_over = True
        if not self._replayed.captures:
            shape.release()
        new, more = [], []  # all at once: a launch for each weight would be several hundred
        for number in shape.reached:
            weight, gradient = self._weights[number], self._gradients[number]
            if weight.grad is None:
                weight.grad = torch.empty_like(weight)
                new.append((weight.grad, gradient))
            else:
                more.append((weight.grad, gradient))
        puts: Any = (new, torch._foreach_copy_), (more, torch._foreach_add_)
        for pairs, put in puts:
            if pairs:
                put(*zip(*pairs, strict=True))


class TextShape:
    """Fixed memory of texts of one shape, and the two functions that are captured on it.

    Rows that are not used are read in vain. The gradients of the weights, which `backward` writes,
    are those of all shapes.
    """

    def __init__(
        self,
        model: CausalLM,
        rows: int,
        length: int,
        kernels: bool,
        weights: list[Tensor],
        gradients: list[Tensor],
    ) -> None:
        self._model, self._weights, self._gradients = model, weights, gradients
        self.ids = torch.zeros(rows, length, dtype=torch.int64, device=model.device)
        """What `forward` reads."""
        self.states = self.slope = torch.empty(0)
        """(rows, length, hidden): what `forward` writes, and what `backward` reads."""
        self.reached: list[int] = []
        """Numbers of the weights that the states depend on."""
        self._masks = None if kernels else causal_masks(model, length)
        self._places = torch.arange(length, device=model.device).expand(rows, -1)
        self._kept: Tensor | None = None  # the states with what their gradient needs

    def forward(self) -> None:
        """Read the texts."""
        ids = self.ids.clone()  # the gradient needs them, and they are written over
        with torch.enable_grad(), self._model.computing():
            if self._masks is None:
                states = backend().hidden(self._model.model.base_model, ids)
            else:
                states = self._model.hidden(
                    ids, attention_mask=self._masks, position_ids=self._places
                )
        if not self.states.numel():  # called once before it is captured
            self.states = torch.zeros_like(states)
            self.slope = torch.zeros_like(states)
        self.states.copy_(states.detach())
        self._kept = states

    def backward(self) -> None:
        """Write the gradient of the weights with respect to the slope."""
        assert self._kept is not None
        found = torch.autograd.grad(
            self._kept, self._weights, self.slope, retain_graph=True, allow_unused=True
        )
        self.reached = [number for number, slope in enumerate(found) if slope is not None]
        torch._foreach_copy_(
            [self._gradients[number] for number in self.reached],
            [slope for slope in found if slope is not None],
        )

    def release(self) -> None:
        """Let go of what `forward` kept, whose memory is then that of other shapes too."""
        self._kept = None


@dataclass(eq=False)
class _Reading:
    """Texts whose states were read, and the gradient perhaps not yet."""

    trunk: CapturedTrunk
    key: tuple[int, int, bool]
    rows: int
    is_over: bool = False


class _Read(torch.autograd.Function):
    """Gives states that were read out, and their slope to the trunk that read them.

    The weights' gradients are added past autograd, which would launch an addition for each. One
    weight is passed so that the slope is asked for.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, reading: _Reading, states: Tensor) -> Tensor:
        ctx.reading = reading
        return states[: reading.rows].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Tensor) -> tuple[None, None, None]:
        ctx.reading.trunk.add_gradients(ctx.reading, *slopes)
        return None, None, None


def causal_masks(model: CausalLM, length: int) -> Any:
    """Return what each kind of layer adds to its attention scores, (1, 1, length, length).

    By the name of the kind where the model has several, else alone.
    """
    windows, has_kinds = attention_windows(model)
    places = torch.arange(length, device=model.device)
    ahead = places - places[:, None]  # of the token that reads, (length, length)
    scores = torch.zeros(1, 1, length, length, dtype=model.model.dtype, device=model.device)
    lowest = torch.finfo(scores.dtype).min
    masks = {
        kind: scores.masked_fill((ahead > 0) | (ahead <= -(window or length)), lowest)
        for kind, window in windows.items()
    }
    return masks if has_kinds else next(iter(masks.values()))
