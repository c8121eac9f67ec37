"""The study of long runs: its cells, the lambda that rises and its tables."""

from pathlib import Path

import pytest
import torch

from studies.end import EVERY, RISING, SETTINGS, STUDY, RisingLambda, cells_of
from tokengym.agents.losses import gae
from tokengym.agents.ppo import PPOSettings, RoundTensors


def test_every_cell_is_planned_for_ten_seeds() -> None:
    planned = {cell: seeds for cells, seeds in STUDY.rounds() for cell in cells}
    assert set(planned) == {cell for setting in SETTINGS for cell in cells_of(*setting)}
    assert set(planned.values()) == {range(10)}


def test_a_run_is_that_of_its_cell(tmp_path: Path) -> None:
    sparse, signed, rising, started = (
        STUDY.config(cell.but(rate=3e-4, seed=0), tmp_path) for cell in cells_of(24, 120)
    )
    learners = [c.training.learner for c in (sparse, signed, rising, started)]
    assert [c.gae_lambda for c in learners] == [0.95, 0.5, 0.5, 0.8]
    assert [c.advantage for c in learners] == ["gae", "gae", f"gae-{RISING}", "gae"]
    assert [c.value_network for c in learners] == ["own"] * 3 + ["reward_model"]
    assert {(c.learning_rate, c.kl_coef) for c in learners} == {(3e-4, 0.05)}
    assert (sparse.training.steps, sparse.training.max_new_tokens) == (120, 24)


@pytest.mark.parametrize("updates", EVERY)
def test_the_grid_is_that_of_the_protocol(updates: int, tmp_path: Path) -> None:
    grid = STUDY.config(cells_of(48, updates)[0].but(rate=1e-3), tmp_path).evaluation
    measured = [step for step in range(updates + 1) if grid.is_due(step)]
    assert measured[:11] == [*range(11)]
    assert len(measured) >= 30
    assert measured[-1] == updates


def test_the_lambda_rises_from_update_to_update() -> None:
    played = RoundTensors(
        token_rewards=torch.tensor([[0.0, 0.0, 1.0]]),
        response_mask=torch.ones(1, 3, dtype=torch.bool),
        values=torch.zeros(1, 3),
        final_values=None,
        scores=torch.ones(1),
    )
    rising = RisingLambda()
    for _ in range(2):  # a second run begins anew
        rising.begin(3)
        first = [rising(played, PPOSettings())[0][0, 0].item() for _ in range(4)]
        assert first == pytest.approx([0.5**2, 0.725**2, 0.95**2, 0.95**2])
    mask = played.response_mask
    plain = gae(played.token_rewards, torch.zeros(1, 3), mask, gamma=1.0, gae_lambda=0.5)
    rising.begin(3)
    assert torch.equal(rising(played, PPOSettings())[1], plain[1])
