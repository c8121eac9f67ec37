# mypy: no-check-untyped-defs
import numpy as np
import pytest

from tokengym.rewards.maths.signed_parts import (
    add_rest_evenly,
    add_rest_to_last,
    shift_reply_credit,
    split_evenly,
)


def test_complete_by_hand():
    assert add_rest_to_last(3.0, [2.0, -1.0, 0.5]).tolist() == [2.0, -1.0, 2.0]
    assert add_rest_to_last(3.0, [0.0]).tolist() == [3.0]


def test_a_shift_adds_the_same_to_each():
    assert add_rest_evenly(3.0, [2.0, -1.0, 0.5]).tolist() == [2.5, -0.5, 1.0]  # 1.5 was missing
    assert add_rest_evenly(3.0, [0.0]).tolist() == [3.0]


def test_split_evenly():
    assert [list(span) for span in split_evenly(7, 3)] == [[0, 1, 2], [3, 4], [5, 6]]
    assert [list(span) for span in split_evenly(2, 6)] == [[0], [1]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: add_rest_evenly(1.0, []), r"parts.*\(n,\)"),
        (lambda: add_rest_to_last(1.0, []), r"parts.*\(n,\)"),
        (lambda: add_rest_to_last(1.0, [np.nan]), r"parts.*finite"),
        (lambda: split_evenly(0, 2), "length.*1, got 0.*2"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_credit_of_replies_is_moved_to_the_turn_before():
    written = np.array([1, 0, 1, 1, 0, 0], np.int8)
    assert shift_reply_credit(np.arange(6.0), written).tolist() == [1.0, 0.0, 2.0, 12.0, 0.0, 0.0]
