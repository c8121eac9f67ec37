"""Weights on the advantage have mean 1 over each response."""

import pytest
import torch

from tokengym.agents.losses import mean_one

MASK = torch.tensor([[True, True, True, True, True], [True, True, False, False, False]])
VALUES = torch.tensor([[0.2, 0.9, 0.1, 0.9, 0.4], [0.3, 0.1, 9.0, 9.0, 9.0]])


def test_weights_are_divided_by_their_mean_over_the_response():
    found = mean_one(VALUES, MASK)
    assert found[0].tolist() == pytest.approx([0.4, 1.8, 0.2, 1.8, 0.8])  # the mean is 0.5
    assert found[1].tolist() == pytest.approx([1.5, 0.5, 0.0, 0.0, 0.0])


def test_a_response_without_weight_is_left_alone():
    found = mean_one(torch.zeros(2, 5), MASK)
    assert found.tolist() == MASK.float().tolist()
