"""The word of each rule of the suite stands for the function that its file defines."""

from collections.abc import Callable
from typing import Any

import pytest

from tokengym.rewards import RewardChoice
from tokengym.rewards.credits.abc import abc
from tokengym.rewards.credits.abc_signed import abc_signed
from tokengym.rewards.credits.r3 import r3
from tokengym.rewards.credits.r3_dense import r3_dense
from tokengym.rewards.credits.random import random
from tokengym.rewards.credits.recency import recency
from tokengym.rewards.credits.red import red
from tokengym.rewards.credits.sparse import sparse
from tokengym.rewards.credits.uniform import uniform


@pytest.mark.parametrize(
    "function", [abc, abc_signed, r3, r3_dense, random, recency, red, sparse, uniform]
)
def test_a_word_is_the_function_of_its_file(function: Callable[..., Any]):
    word = function.__name__.replace("_", "-")
    made: Any = RewardChoice.of(word).made
    assert made.function is function
    assert (made.name, word) == (word, word)
    assert function.__doc__


@pytest.mark.parametrize(
    ("word", "declared"),
    [
        ("red", 0.5),
        ("red:beta=0.5", None),
        ("red:segments=4", None),
        ("red:cut=sentence", None),
        ("abc-signed", 0.5),
        ("abc-signed:beta=0.5", None),
        ("sparse", None),
    ],
)
def test_a_low_lambda_is_declared_for_the_whole_score_in_single_tokens(word: str, declared: Any):
    rule: Any = RewardChoice.of(word).made
    assert rule.gae_lambda == declared
