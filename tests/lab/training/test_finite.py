"""Fitting a judge looks at the gradient before the step, as the learners do."""

from typing import Any

import pytest
import torch

from tokengym.agents import NonFiniteError
from tokengym.lab.training.fitting import RewardTraining, fit


class Root(torch.nn.Module):
    """The loss of x is sqrt(|w x|): at 0 it is 0, and its gradient is not a number."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": (self.weight * x).abs().sqrt().mean()}


def fitted(rows: list[float], folder: Any, **settings: Any) -> Root:
    module = Root()
    training = RewardTraining(learning_rate=0.1, warmup=0.0, **settings)
    fit(
        module,
        rows,
        lambda some: {"x": torch.tensor(some)},
        training,
        device=torch.device("cpu"),
        folder=folder,
    )
    return module


@pytest.mark.parametrize("settings", [{}, {"micro_batch_size": 1}, {"batch_size": 2}])
def test_a_gradient_that_is_not_finite_is_seen(tmp_path, settings):
    with pytest.raises(NonFiniteError, match=r"^the gradient at step"):
        fitted([1.0, 4.0, 9.0, 0.0], tmp_path, **settings)


def test_other_rows_are_learned(tmp_path):
    # One step of AdamW at 0.1, downwards
    assert fitted([1.0, 4.0, 9.0], tmp_path).weight.item() == pytest.approx(0.9, abs=1e-3)
