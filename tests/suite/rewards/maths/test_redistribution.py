# mypy: no-check-untyped-defs
import numpy as np
import pytest

from tokengym.rewards.maths import redistribution as F


def sparse(score, length):
    return np.append(np.zeros(length - 1), score)


def test_dirichlet_depends_on_its_entropy_alone():
    np.random.seed(1)
    one = F.dirichlet_weights(5, [0, 3, 4])
    np.random.seed(2)
    np.testing.assert_array_equal(one, F.dirichlet_weights(5, [0, 3, 4]))
    assert not np.allclose(one, F.dirichlet_weights(5, [0, 3, 5]))
    assert one.sum() == pytest.approx(1.0)


def test_dirichlet_is_uniform_on_the_simplex():
    draws = np.array([F.dirichlet_weights(3, [seed]) for seed in range(4000)])
    # Dirichlet(1, 1, 1): mean 1/3, variance 1/18
    np.testing.assert_allclose(draws.mean(axis=0), 1 / 3, atol=0.02)
    np.testing.assert_allclose(draws.var(axis=0), 1 / 18, atol=0.005)


def test_moments_over_all_history_are_those_of_everything_seen():
    rng = np.random.default_rng(0)
    batches = [rng.normal(3, 2, size) for size in (1, 5, 2, 64)]
    moments = F.Moments()
    for batch in batches:
        moments = F.update_moments(moments, batch, window=None)
    everything = np.concatenate(batches)
    assert moments.seen == 72
    assert moments.mean == pytest.approx(everything.mean())
    assert moments.variance == pytest.approx(everything.var())


def test_a_window_within_the_batch_gives_the_batch_moments():
    moments = F.update_moments(F.Moments(), [100.0, 200.0], window=4)
    moments = F.update_moments(moments, [1.0, 2.0, 3.0, 6.0], window=4)
    assert moments.mean == pytest.approx(3.0)
    assert moments.variance == pytest.approx(3.5)


def test_a_longer_window_forgets_exponentially():
    moments = F.Moments(seen=100, mean=0.0, variance=0.0)
    moments = F.update_moments(moments, [8.0, 8.0], window=8)
    assert moments.mean == pytest.approx(2.0)  # weight 2 / 8
    assert moments.variance == pytest.approx(0.25 * 0.75 * 64)
    # Before the window is full it is plain history.
    start = F.update_moments(F.update_moments(F.Moments(), [0.0], window=8), [3.0], window=8)
    assert start.mean == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: F.dirichlet_weights(0, [1]), "length.*got 0"),
        (lambda: F.normalize_weights([1.0, -1.0]), "weights.*got -1.0"),
        (lambda: F.normalize_weights([np.nan]), "finite"),
        (lambda: F.normalize_weights([]), r"weights.*\(0,\)"),
        (lambda: F.update_moments(F.Moments(), [1.0], window=0), "window.*got 0"),
        (lambda: F.update_moments(F.Moments(), [], window=None), "batch.*shape"),
    ],
)
def test_bad_arguments(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_close_sum_is_relative_and_allows_cancellation():
    assert F.close_sum(100.0, [100.0009])
    assert not F.close_sum(100.0, [100.002])
    assert F.close_sum(0.0, np.float32([1000.1, -1000.1]))
    assert not F.close_sum(0.0, [1.0, -0.99])
    assert not F.close_sum(1.0, [np.nan])


def test_layers_that_pay_affine_rewards_pay_affine_token_rewards():
    rng = np.random.default_rng(0)
    before = [sparse(score, length) for score, length in ((2.0, 3), (-1.0, 5), (1e-6, 4))]
    earned = []
    for row in before:  # signed, far larger than the smallest score
        parts = rng.normal(size=len(row))
        earned.append(parts - parts.mean() + row.sum() / len(row))
    for slope, shift in ((1.0, 0.0), (-1.0, 0.0), (1e4, 0.0), (0.5, -0.1), (0.0, 0.0), (-2.0, 3.0)):
        paid = [slope * row + shift for row in before]
        for moved, row in zip(F.through_layers(earned, before, paid), earned, strict=True):
            np.testing.assert_allclose(moved, slope * row + shift, atol=1e-8 * max(abs(slope), 1))


def test_what_layers_pay_is_never_lost_by_hand():
    # Clipped to 1: the shares of 4 stay, 0.5 is not clipped.
    clipped = F.through_layers([[3.0, 1.0], [0.1, 0.4]], [[0, 4.0], [0, 0.5]], [[0, 1.0], [0, 0.5]])
    np.testing.assert_allclose(clipped, [[0.75, 0.25], [0.1, 0.4]])
    # A step that a layer pays itself keeps it: k = (6 - 1) / 4, p + k (r - q).
    (paid,) = F.through_layers([[3.0, 1.0]], [[0.0, 4.0]], [[1.0, 6.0]])
    np.testing.assert_allclose(paid, [1.0 + 1.25 * 3.0, 6.0 + 1.25 * (1.0 - 4.0)])
    # A score of 0: the slope is that of the others, 2; one alone keeps its credit.
    rest = [[0.0, 3.0]], [[0.0, 6.0]]
    (zero, _) = F.through_layers([[1, -1], [1, 2]], [[0, 0], *rest[0]], [[0, 0], *rest[1]])
    np.testing.assert_allclose(zero, [2.0, -2.0])
    (alone,) = F.through_layers([[1.0, -1.0]], [[0.0, 0.0]], [[0.0, 0.0]])
    np.testing.assert_allclose(alone, [1.0, -1.0])
    assert F.through_layers([], [], []) == []


def test_a_bonus_for_a_score_near_0_does_not_blow_up_signed_credit():
    earned = [[2.0, -1.999], [1.0, 1.0], [-2.0, 0.0]]
    before = [[0.0, sum(row)] for row in earned]
    paid = [[0.0, sum(row) + 5.0] for row in earned]
    moved = F.through_layers(earned, before, paid)
    np.testing.assert_allclose([row.sum() for row in moved], [sum(row) for row in paid])
    ratio = np.concatenate(paid).std() / np.concatenate(before).std()
    assert np.abs(moved[0]).max() <= 5.0 + 4.0 * ratio * 2.0  # not 5000


BLAMED = [-0.2, -0.98, -0.88, -1.18]
"""Credit of a text of score -3.24."""
SIGNED = [BLAMED, [1.0, -1.5], [2.0, 0.5, -0.25], [0.5, 0.5]]


def moved_by(layer, earned=SIGNED, **options):
    """Return what is left of credit that is paid at the end, when a layer changed each step.

    Args:
        layer: Of a step's reward and whether the step is the last one.
    """
    before = [sparse(sum(row), len(row)) for row in earned]
    paid = [[layer(q, step == len(row) - 1) for step, q in enumerate(row)] for row in before]
    moved = F.through_layers(earned, before, paid, **options)
    np.testing.assert_allclose([row.sum() for row in moved], [sum(row) for row in paid], atol=1e-9)
    return moved


@pytest.mark.parametrize(
    ("earned", "bonus"),
    [
        *(([BLAMED], 5.0), ([BLAMED, BLAMED], 5.0)),
        *((part, bonus) for part in (SIGNED[:2], SIGNED) for bonus in (5.0, -5.0, 0.5)),
    ],
)
def test_a_bonus_at_the_end_keeps_the_shape_of_credit(earned, bonus):
    for row, before in zip(moved_by(lambda q, end: q + bonus * end, earned), earned, strict=True):
        np.testing.assert_allclose(row, [*before[:-1], before[-1] + bonus])


@pytest.mark.parametrize("factor", [1.0, 0.1, -1.0, -2.0])
@pytest.mark.parametrize("price", [0.0, -0.1])
@pytest.mark.parametrize("bonus", [0.0, 5.0])
def test_factors_prices_and_bonuses_are_told_apart(factor, price, bonus):
    moved = moved_by(lambda q, end: factor * q + price + bonus * end)
    for row, before in zip(moved, SIGNED, strict=True):
        expected = factor * np.array(before) + price
        expected[-1] += bonus
        np.testing.assert_allclose(row, expected, atol=1e-12)


def test_one_score_alone_has_a_positive_factor_or_minus_1():
    for factor in (0.1, 7.0, -1.0):
        (row,) = moved_by(lambda q, end, factor=factor: factor * q, [BLAMED])
        np.testing.assert_allclose(row, factor * np.array(BLAMED))


def test_a_clip_keeps_the_shares_of_signed_credit():
    moved = moved_by(lambda q, end: min(max(q, -1.0), 1.0))
    for row, before in zip(moved, SIGNED, strict=True):
        np.testing.assert_allclose(row, np.array(before) / max(1.0, abs(sum(before))))


def test_a_scale_that_runs_is_each_episodes_own():
    scales = iter(np.repeat([2.0, 2.5, 2.2, 2.4], [len(row) for row in SIGNED]))
    moved = moved_by(lambda q, end: next(scales) * q)
    for row, before, scale in zip(moved, SIGNED, (2.0, 2.5, 2.2, 2.4), strict=True):
        np.testing.assert_allclose(row, scale * np.array(before))


def test_scales_of_a_layer_that_only_scales_need_no_evidence():
    scales = {sum(row): scale for row, scale in zip(SIGNED, (0.001, 50.0, 0.3, 2.0), strict=True)}
    moved = moved_by(lambda q, end: scales.get(q, 1.0) * q, only_scaled=True)
    for row, before in zip(moved, SIGNED, strict=True):
        np.testing.assert_allclose(row, scales[sum(before)] * np.array(before))


@pytest.mark.parametrize("factor", [1.0, -1.0])
def test_bonuses_that_differ_do_not_turn_credit_around(factor):
    rng = np.random.default_rng(0)
    scores = rng.normal(size=16)
    bonuses = 5.0 + 0.5 * rng.normal(size=16)
    slopes = F.terminal_slopes(scores, factor * scores + bonuses, np.zeros(16))
    np.testing.assert_allclose(slopes, factor, atol=0.5)
    below = -1.0 - np.abs(scores)  # every text is blamed, and paid more than 0
    np.testing.assert_array_equal(F.terminal_slopes(below, below + bonuses, np.zeros(16)), 1.0)


def test_normalize_weights_by_hand():
    np.testing.assert_allclose(F.normalize_weights(np.array([0.1, 0.3])), [0.25, 0.75])
    assert F.normalize_weights(np.zeros(2)).tolist() == [0.5, 0.5]
