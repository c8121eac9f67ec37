"""The gradient steps of an update, queued without waiting for what a GPU computes.

A step that must not be taken, after a figure that is not finite or beyond ``target_kl``, is left
out on the device: a fused optimiser reads a flag there, as for `torch.amp.GradScaler`. The figures
of all steps are read once, when the last one is queued. `read_once` reads those of a round so.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokengym.agents.losses.policy import at_least_float32
from tokengym.agents.ppo.alarms import Figures, FigureTensors

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from tokengym.agents.processes import Processes

MAX_KL = 1.5
"""Multiple of ``target_kl`` at which an update ends, as in Stable-Baselines3's PPO."""


@dataclass(frozen=True, kw_only=True)
class StepsTaken:
    """Figures of an update's gradient steps, on the host."""

    minibatches: list[list[Figures]]
    """Of the parts of each minibatch, up to the one whose step was left out."""
    norms: list[float]
    """Norm of the gradient before clipping, of each step that was taken."""
    fault: tuple[int, str] | None
    """Number of the minibatch whose figures or gradient are not finite, and the figure's name with
    its value, "" for the gradient; None: all are finite."""


def read_once(tensors: Mapping[str, Tensor]) -> dict[str, NDArray[np.floating]]:
    """Return tensors on the host by their names, of their shapes; a GPU is waited for once.

    They are float32 at least, flags 0 or 1.
    """
    flat = [at_least_float32(tensor).reshape(-1) for tensor in tensors.values()]
    numbers = torch.cat(flat).cpu().numpy()  # of the widest type, which holds the others exactly
    parts = np.split(numbers, np.cumsum([tensor.numel() for tensor in tensors.values()])[:-1])
    told: dict[str, NDArray[np.floating]] = {}
    for (name, tensor), part in zip(tensors.items(), parts, strict=True):
        kind = np.float64 if tensor.dtype == torch.float64 else np.float32
        told[name] = part.reshape(tensor.shape).astype(kind)
    return told


class GradientSteps:
    """Takes the gradient steps of one update.

    Args:
        optimizer: Optimiser of the policy's weights; one that is not fused waits for each step.
        processes: Those that train the agent.
        max_grad_norm: Longer gradients are scaled down to this.
        target_kl: The update ends at `MAX_KL` times this, nats per token; None: never.
    """

    def __init__(
        self,
        optimizer: "Optimizer",
        processes: "Processes",
        *,
        max_grad_norm: float,
        target_kl: float | None,
    ) -> None:
        self._optimizer, self._processes = optimizer, processes
        self._max_grad_norm = max_grad_norm
        self._most = math.inf if target_kl is None else MAX_KL * target_kl
        self._weights: list[Tensor] = optimizer.param_groups[0]["params"]
        self._skips = getattr(optimizer, "_step_supports_amp_scaling", False)
        # () float32, 1 once a step must not be taken: no later one is then either
        self._is_over = torch.zeros((), device=self._weights[0].device, dtype=torch.float32)
        self._names: list[list[list[str]]] = []  # of each part's figures, by minibatch
        self._queued: list[Tensor] = []  # (figures + 2,) of each minibatch
        self._ended = False  # as the host knows
        self.looks = self._is_over.device.type == "cpu"
        """Whether the host asks after each step, as nothing is waited for on a CPU."""

    @torch.no_grad()
    def take(self, parts: list[FigureTensors]) -> None:
        """Clip the gradient of a minibatch and step, unless that or an earlier step must not be.

        Args:
            parts: Figures, () each, of the parts that this process has passed over; their
                approx_kl add up to the minibatch's.
        """
        zero = self._is_over.new_zeros(())
        figures = torch.stack([zero, *(value for part in parts for value in part.values())])[1:]
        kl = sum((part["approx_kl"] for part in parts), zero)
        is_broken = (~figures.isfinite()).any()
        faults, kl = self._processes.add(torch.stack([is_broken.to(zero), kl]))
        gradients = [weight.grad for weight in self._weights if weight.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        is_last = (faults > 0) | (kl > self._most) | ~norm.isfinite()
        self._is_over = torch.maximum(self._is_over, is_last.to(zero))
        self._names.append([list(part) for part in parts])
        self._queued.append(torch.cat([figures, norm[None], self._is_over[None]]))
        torch.nn.utils.clip_grads_with_norm_(self._weights, self._max_grad_norm, norm)
        optimizer: Any = self._optimizer
        if self._skips:
            optimizer.grad_scale, optimizer.found_inf = None, self._is_over
            optimizer.step()
            del optimizer.grad_scale, optimizer.found_inf
            return
        self._ended = bool(self._is_over)
        if not self._ended:
            optimizer.step()

    def is_over(self, *, ends_epoch: bool = False) -> bool:
        """Return whether no later step will be taken, as far as the host knows.

        A GPU is asked, and waited for, at the end of an epoch where ``target_kl`` may end the
        update. Until then later minibatches are passed over in vain.
        """
        if self._skips and (self.looks or (ends_epoch and self._most < math.inf)):
            self._ended = bool(self._is_over)
        return self._ended

    def read(self) -> StepsTaken:
        """Return the figures of the steps of all processes; a GPU is waited for, once."""
        numbers = iter(torch.cat(self._queued).tolist() if self._queued else [])
        own: list[list[Figures]] = []
        ends: list[tuple[float, float]] = []  # norm of the gradient, and whether all was over
        for names in self._names:
            own.append([{name: next(numbers) for name in part} for part in names])
            ends.append((next(numbers), next(numbers)))
        shares = self._processes.gather(own)
        minibatches: list[list[Figures]] = []
        norms: list[float] = []
        for number, (norm, is_over) in enumerate(ends):
            parts = [part for share in shares for part in share[number]]
            minibatches.append(parts)
            for name, value in (entry for part in parts for entry in part.items()):
                if not math.isfinite(value):
                    return StepsTaken(
                        minibatches=minibatches, norms=norms, fault=(number, f"{name} is {value}")
                    )
            if is_over:
                kl = sum(part["approx_kl"] for part in parts)
                is_finite = math.isfinite(norm) or kl > self._most
                fault = None if is_finite else (number, "")
                return StepsTaken(minibatches=minibatches, norms=norms, fault=fault)
            norms.append(norm)
        return StepsTaken(minibatches=minibatches, norms=norms, fault=None)
