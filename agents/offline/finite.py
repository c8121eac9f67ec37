"""A `transformers.Trainer` that looks at a gradient before it takes the step."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer

from tokengym.agents.errors import NonFiniteError
from tokengym.base.errors import TokenGymError


class FiniteTrainer(Trainer):
    """Refuses a gradient that is not finite, names the row that has it, and leaves weights alone.

    The Trainer itself clips such a gradient, which spreads a nan of one weight to all of them, and
    takes the step.
    """

    def single_rows(self, inputs: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield what each row of a batch is called, and the batch of it alone."""
        raise NotImplementedError

    def training_step(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor | Any],
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Take the gradient of a batch; return its loss, ().

        Raises:
            NonFiniteError: if it, or the loss, is not finite.
        """
        try:
            loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
            self._check_gradient()
        except TokenGymError as error:
            raise self._error_of_row(model, inputs) or error from None
        return loss

    def _error_of_row(self, model: nn.Module, inputs: dict[str, Any]) -> TokenGymError | None:
        """Return the error of the first row that alone has one, under its name."""
        if self.accelerator.num_processes > 1:  # the others would wait for its gradient
            return None
        for name, row in self.single_rows(inputs):
            model.zero_grad()
            try:
                with self.compute_loss_context_manager():
                    loss: Any = self.compute_loss(model, self._prepare_inputs(row))
                loss.backward()
                self._check_gradient()
            except TokenGymError as error:
                return type(error)(f"{name}: {error}")
            finally:
                model.zero_grad()
        return None

    def _check_gradient(self) -> None:
        if self.accelerator.scaler is not None:  # of float16, which leaves such steps out itself
            return
        model: Any = self.model
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        norm: Any = torch.nn.utils.get_total_norm(gradients)
        if not torch.isfinite(norm.full_tensor() if hasattr(norm, "full_tensor") else norm):
            raise NonFiniteError(
                f"the gradient at step {self.state.global_step} is not finite; lower "
                "learning_rate, or train in float32"
            )
