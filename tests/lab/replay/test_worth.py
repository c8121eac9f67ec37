"""Executed forks: numbers by hand, coverage, ceiling and chance."""

import numpy as np
import pytest
import scipy.stats

from tokengym.lab.replay.agreement import chance_correlation, executed_worth, split_half_ceiling


def test_worth_and_interval_by_hand() -> None:
    found = executed_worth(np.array([[0.0, 0.0, 1.0, 1.0]]), 1.0, bounds=(0.0, 1.0))
    assert found.worth.tolist() == [0.5]
    assert [half.tolist() for half in found.halves] == [[1.0], [0.0]]
    half_width = 1.959964 * np.sqrt(0.25 / 6)  # six scores with the two bounds, half of them 1
    assert found.low == pytest.approx([0.5 - half_width], abs=1e-6)
    assert found.high == pytest.approx([0.5 + half_width], abs=1e-6)


def test_intervals_hold_the_truth_in_95_percent_of_tokens_rare_successes_included() -> None:
    rng = np.random.default_rng(0)
    held = []
    for _ in range(400):
        values = rng.choice([0.0, 0.02, 0.1, 0.5, 0.9, 1.0], 6)
        draws = (rng.random((6, 32)) < values[:, None]).astype(float)
        score = float(rng.random() < values[-1])
        found = executed_worth(draws, score, bounds=(0.0, 1.0))
        truth = np.diff(np.append(values, score))
        held += ((found.low <= truth) & (truth <= found.high)).tolist()
    assert np.mean(held) >= 0.95


@pytest.mark.parametrize("k", [2, 4, 8, 16, 32])
def test_chance_leaves_out_0_in_at_most_7_percent(k: int) -> None:
    """Summed over all counts of successes before and after a token that changes nothing."""
    rows = np.tri(k + 1, k, -1, dtype=np.float64)  # (successes, draws)
    leaves_out = np.empty((k + 1, k + 1))
    for before, after in np.ndindex(leaves_out.shape):
        found = executed_worth(rows[[before, after]], 1.0, bounds=(0.0, 1.0))
        leaves_out[before, after] = found.low[0] * found.high[0] > 0
    shares = {}
    for success in (0.02, 0.1, 0.3, 0.5):
        weights = scipy.stats.binom.pmf(np.arange(k + 1), k, success)
        shares[success] = weights @ leaves_out @ weights
    assert max(shares.values()) <= 0.0704
    assert shares[0.02] < 0.001
    assert (shares[0.5] > 0.04) == (k > 2)


def test_worth_sums_to_the_score_minus_the_value_of_the_prompt() -> None:
    draws = np.random.default_rng(1).normal(size=(5, 8))
    found = executed_worth(draws, 0.3, bounds=(-3.0, 3.0))
    assert found.worth.sum() == pytest.approx(0.3 - draws[0].mean())


def test_ceiling_falls_with_noise_and_chance_with_responses() -> None:
    rng = np.random.default_rng(2)
    truths = [rng.normal(size=20) for _ in range(30)]

    def ceiling(noise: float) -> float:
        return split_half_ceiling(
            [(t + noise * rng.normal(size=20), t + noise * rng.normal(size=20)) for t in truths]
        )

    assert ceiling(0.0) == 1.0
    # halves of noise s have reliability 1 / (1 + s^2), their mean twice that over one more
    assert ceiling(1.0) == pytest.approx(np.sqrt(2 * 0.5 / 1.5), abs=0.06)
    assert ceiling(100.0) < 0.4
    assert chance_correlation(truths[:12], rng=0) < chance_correlation(truths[:3], rng=0) < 0.4


@pytest.mark.parametrize("k", [1, 3])
def test_an_odd_number_of_continuations_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match=f"got k={k}"):
        executed_worth(np.zeros((2, k)), 0.0, bounds=(0.0, 1.0))
