"""Options of another kind than the accepted ones: one line that names option and value."""

from typing import Any

import gymnasium
import numpy as np
import pytest

import tokengym  # noqa: F401  (registers the ids)
from tokengym.envs import TokenGymError

CASES: list[tuple[str, Any, str]] = [
    ("normalize", True, r"normalize.*got True"),
    ("reward_model", 3, r"reward_model.*got 3; .*scorer="),
    ("scorer", "", r"scorer.*got ''"),
    ("scorer_timeout", "soon", r"scorer_timeout.*got 'soon'"),
    ("model", "", r"model must.*empty"),
    ("eos_token", 2.5, r"eos_token.*got 2\.5"),
    ("eos_token", 999, r"eos_token=999.*564"),
    ("pad_token", "", r"pad_token=''.*564"),
    ("dataset", False, r"dataset.*got bool"),
    ("metadata_columns", "title", r"metadata_columns.*got 'title'"),
    ("predict_query_types", "no", r"predict_query_types.*got 'no'"),
    ("prompt_tokens", True, r"prompt_tokens.*got True"),
    ("prompt_tokens", 10**30, r"prompt_tokens.*got 1000"),
    ("prompt_shard", (0, 1, 2), "prompt_shard"),
    ("prompt_shard", (0.0, 1.0), "prompt_shard"),
    ("allowed_token_ids", [1], r"allowed_token_ids.*got \[1\]"),
    ("horizon", np.array([1, 2]), r"horizon.*got array"),
]


@pytest.mark.parametrize(("name", "value", "message"), CASES)
def test_option_of_another_kind(name, value, message):
    with pytest.raises(TokenGymError, match=message):
        gymnasium.make("tokengym/MovieReview-v0", **{name: value})


@pytest.mark.parametrize(
    ("count", "message"),
    [
        (np.array([1, 2]), r"num_envs.*whole number"),
        (10**30, r"max_new_tokens.*0"),  # more than memory holds
    ],
)
def test_number_of_rows_of_another_kind(count, message):
    with pytest.raises(TokenGymError, match=message):
        gymnasium.make_vec("tokengym/MovieReview-v0", num_envs=count)


def test_a_numpy_number_counts_tokens():
    env = gymnasium.make("tokengym/MovieReview-v0", prompt_tokens=np.int64(2))
    assert env.observation_space["input_ids"].shape == (2 + 48,)  # type: ignore[index]
