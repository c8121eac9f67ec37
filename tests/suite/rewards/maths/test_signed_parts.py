# mypy: no-check-untyped-defs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokengym.rewards.maths import redistribution as F
from tokengym.rewards.maths.signed_parts import (
    add_rest_evenly,
    add_rest_to_last,
    rescale_signed,
    shift_reply_credit,
    split_evenly,
)


def test_complete_by_hand():
    assert add_rest_to_last(3.0, [2.0, -1.0, 0.5]).tolist() == [2.0, -1.0, 2.0]
    assert add_rest_to_last(3.0, [0.0]).tolist() == [3.0]


def test_a_shift_adds_the_same_to_each():
    assert add_rest_evenly(3.0, [2.0, -1.0, 0.5]).tolist() == [2.5, -0.5, 1.0]  # 1.5 was missing
    assert add_rest_evenly(3.0, [0.0]).tolist() == [3.0]


@pytest.mark.parametrize(
    ("score", "shares", "expected"),
    [
        (6.0, [2.0, -1.0, 2.0], [4.0, -2.0, 4.0]),  # A = 3: times 2
        (-6.0, [-2.0, 1.0, -2.0], [-4.0, 2.0, -4.0]),
        (-6.0, [2.0, -1.0, 3.0], [2.0, -1.0, -7.0]),  # the other sign: |R| / M = 1, rest at the end
        (6.0, [5.0, -4.9, 0.1], [3.0, -2.94, 5.94]),  # .2 of 10 is left: |R| / M = .6
        (6.0, [0.0, 0.0, 0.0], [2.0, 2.0, 2.0]),
        (0.0, [1.0, -3.0], [0.0, 0.0]),
        (2.0, [1e-300, 3e-300], [0.5, 1.5]),
        (2.0, [1e300, 1e300], [1.0, 1.0]),
    ],
)
def test_rescale_signed_by_hand(score, shares, expected):
    np.testing.assert_allclose(rescale_signed(score, shares), expected, atol=1e-12)


@given(
    st.floats(-100, 100),
    st.lists(st.floats(-50, 50, allow_subnormal=False), min_size=1, max_size=30),
)
def test_rescaled_shares_sum_to_the_score_and_stay_bounded(score, shares):
    rewards = rescale_signed(score, shares)
    assert F.close_sum(score, rewards)
    assert np.abs(rewards).sum() <= max(10.0, 3.0) * abs(score) + 1e-9
    signs = np.sign(rewards[:-1]) * np.sign(shares[:-1])
    assert (signs >= 0).all() or not np.any(shares)


def test_split_evenly():
    assert [list(span) for span in split_evenly(7, 3)] == [[0, 1, 2], [3, 4], [5, 6]]
    assert [list(span) for span in split_evenly(2, 6)] == [[0], [1]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: add_rest_evenly(1.0, []), r"parts.*\(n,\)"),
        (lambda: add_rest_to_last(1.0, []), r"parts.*\(n,\)"),
        (lambda: rescale_signed(1.0, [np.nan]), r"parts.*finite"),
        (lambda: rescale_signed(1.0, [1.0], guard=0.0), r"guard.*\(0, 1\], got 0.0"),
        (lambda: split_evenly(0, 2), "length.*1, got 0.*2"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_credit_of_replies_is_moved_to_the_turn_before():
    written = np.array([1, 0, 1, 1, 0, 0], np.int8)
    assert shift_reply_credit(np.arange(6.0), written).tolist() == [1.0, 0.0, 2.0, 12.0, 0.0, 0.0]
