"""Weights on the advantage against numbers worked out by hand."""

import math

import pytest
import torch

from tokengym.agents.losses import mean_one
from tokengym.lab.learners.weighing import (
    band_weights,
    entropy_bonus_weights,
    evidence_weights,
    gated_weights,
    softmax_weights,
    top_weights,
)

MASK = torch.tensor([[True, True, True, True, True], [True, True, False, False, False]])
VALUES = torch.tensor([[0.2, 0.9, 0.1, 0.9, 0.4], [0.3, 0.1, 9.0, 9.0, 9.0]])


@pytest.mark.parametrize(
    ("share", "first", "second"),
    [
        (0.2, [0, 5, 0, 0, 0], [2, 0]),  # of equal values the earlier counts
        (0.4, [0, 2.5, 0, 2.5, 0], [2, 0]),
        (0.6, [0, 5 / 3, 0, 5 / 3, 5 / 3], [1, 1]),
        (1.0, [1, 1, 1, 1, 1], [1, 1]),
    ],
)
def test_the_highest_values_share_the_weight(
    share: float, first: list[float], second: list[float]
) -> None:
    found = top_weights(VALUES, MASK, share=share)
    assert found[0].tolist() == pytest.approx(first)
    assert found[1].tolist() == pytest.approx([*second, 0, 0, 0])


def test_log_ratios_by_hand() -> None:
    found = softmax_weights(torch.tensor([[0.0, math.log(3.0)]]), MASK[:1, :2], temperature=1.0)
    assert found.tolist() == [pytest.approx([0.5, 1.5])]
    flat = softmax_weights(VALUES, MASK, temperature=1e6)
    assert flat[0].tolist() == pytest.approx([1.0] * 5, abs=1e-5)


def test_entropy_is_held_against_that_of_rows_of_the_same_sign() -> None:
    """Rows 0 and 1 did well, row 2 did not, row 3 did not and is short."""
    entropy = torch.tensor([[1.0, 2.0], [3.0, 2.0], [0.5, 0.25], [0.25, 9.0]])
    mask = torch.tensor([[True, True], [True, True], [True, True], [True, False]])
    advantages = torch.tensor([[1.0, 1.0], [2.0, 2.0], [-1.0, -1.0], [-3.0, 7.0]])
    found = entropy_bonus_weights(entropy, advantages, mask, share=0.5)
    # Good rows: means 2 and 2, so 0.5 + 0.5 (0.5, 1) and 0.5 + 0.5 (1.5, 1), then scaled.
    assert found[0].tolist() == pytest.approx([0.75 / 0.875, 1.0 / 0.875])
    assert found[1].tolist() == pytest.approx([1.25 / 1.125, 1.0 / 1.125])
    # Bad rows: 1 / H is 2, 4 and 4; means 3 at the first token, 4 at the second, where one is left.
    raw = (0.5 + 0.5 * 2 / 3, 1.0)
    assert found[2].tolist() == pytest.approx([2 * raw[0] / sum(raw), 2 * raw[1] / sum(raw)])
    assert found[3].tolist() == pytest.approx([1.0, 0.0])


def test_what_lies_under_the_mask_does_not_count() -> None:
    other = VALUES.masked_fill(~MASK, -77.0)
    for function in (
        lambda v: mean_one(v, MASK),
        lambda v: top_weights(v, MASK, share=0.4),
        lambda v: softmax_weights(v, MASK, temperature=0.5),
        lambda v: entropy_bonus_weights(v, torch.ones_like(v), MASK, share=0.3),
    ):
        torch.testing.assert_close(function(VALUES), function(other))


def test_the_band_keeps_its_ends_and_a_response_outside_it() -> None:
    found = band_weights(VALUES, MASK, low=0.2, high=0.4)
    assert found[0].tolist() == pytest.approx([2.5, 0, 0, 0, 2.5])
    assert found[1].tolist() == pytest.approx([2, 0, 0, 0, 0])
    assert band_weights(VALUES, MASK, low=5.0, high=8.0).tolist() == MASK.float().tolist()


def test_the_gate_damps_below_its_quantile_and_raises_above() -> None:
    """log(1 + importance) is 0, 1, 2, 4: scaled 0, .25, .5, 1 with the middle at .375."""
    importance = torch.tensor([[math.e**s - 1 for s in (0.0, 1.0, 2.0, 4.0)] + [1e9]]).double()
    mask = MASK[:1].clone()
    mask[0, 4] = False
    found = gated_weights(importance, mask, quantile=0.5, boost=1.0)
    by_hand = [0.1, 0.25 / 0.375, 1 + 0.125 / 0.625, 2.0]
    assert found[0].tolist() == pytest.approx([4 * w / sum(by_hand) for w in by_hand] + [0.0])
    flat = gated_weights(torch.ones(1, 5), MASK[:1], quantile=0.5, boost=1.0)
    assert flat.tolist() == [[1.0] * 5]


def test_evidence_is_clipped_mixed_and_inverted_by_the_sign() -> None:
    ratios = torch.tensor([[math.log(1.1), math.log(3.0)]] * 2)
    advantages = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
    mask = torch.ones(2, 2, dtype=torch.bool)
    found = evidence_weights(ratios, advantages, mask, mix=0.5, clip=0.2)
    for row, (one, other) in zip(found.tolist(), ((1.1, 1.2), (1 / 1.1, 0.8)), strict=True):
        weights = [0.5 + 0.5 * one, 0.5 + 0.5 * other]
        assert row == pytest.approx([2 * w / sum(weights) for w in weights])
