import numpy as np
import pytest
import torch

from tokengym.lab.makers.figures import (
    attention_rows,
    pair_accuracy,
    relative_entropy,
)
from tokengym.lab.makers.models import reward_model_from


def test_pair_accuracy_by_hand():
    # Pairs of different gold: (0, 1) right, (0, 2) right, (1, 3) wrong, (2, 3) tied, (0, 3) right.
    scores, gold = np.array([3.0, 1.0, 2.0, 2.0]), np.array([3.0, 1.0, 1.0, 0.0])
    assert pair_accuracy(scores, gold) == pytest.approx(3 / 5)


def test_relative_entropy_is_one_for_uniform_and_zero_for_one_token():
    assert relative_entropy([np.full(7, 1 / 7), np.full(3, 1 / 3)]) == pytest.approx(1.0)
    assert relative_entropy([np.array([0.0, 1.0, 0.0])]) == pytest.approx(0.0)


def test_attention_rows_are_those_of_each_text_alone(language_model):
    model = reward_model_from(language_model, seed=0)
    texts, starts = [[5, 6, 7, 8, 9], [10, 11, 12]], [2, 1]
    before = model.config._attn_implementation
    rows = attention_rows(model, texts, starts)
    assert model.config._attn_implementation == before
    model.set_attn_implementation("eager")
    for text, start, row in zip(texts, starts, rows, strict=True):
        with torch.no_grad():
            last = model(torch.tensor([text]), output_attentions=True).attentions[-1][0, :, -1]
        weights = last.mean(0)[start:]
        assert row == pytest.approx((weights / weights.sum()).numpy(), abs=1e-6)
        assert row.sum() == pytest.approx(1.0)
