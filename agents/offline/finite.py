"""A `transformers.Trainer` that looks at a gradient before it takes the step."""

from typing import Any

import torch
from torch import Tensor
from transformers import Trainer

from tokengym.agents.errors import NonFiniteError


class FiniteTrainer(Trainer):
    """Refuses a gradient that is not finite, and leaves the weights alone.

    The Trainer itself clips such a gradient, which spreads a nan of one weight to all of them, and
    takes the step.
    """

    def training_step(self, *arguments: Any, **named: Any) -> Tensor:
        """Take the gradient of a batch; return its loss, ().

        Raises:
            NonFiniteError: if it, or the loss, is not finite.
        """
        loss: Tensor = super().training_step(*arguments, **named)
        if self.accelerator.scaler is not None:  # of float16, which leaves such steps out itself
            return loss
        model: Any = self.model
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        norm: Any = torch.nn.utils.get_total_norm(gradients)
        if not torch.isfinite(norm.full_tensor() if hasattr(norm, "full_tensor") else norm):
            raise NonFiniteError(
                f"the gradient at step {self.state.global_step} is not finite; lower "
                "learning_rate, or train in float32"
            )
        return loss
