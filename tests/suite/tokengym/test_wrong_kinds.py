"""Options of another kind than the accepted ones: one line that names option and value."""

from typing import Any

import gymnasium
import numpy as np
import pytest

import tokengym  # noqa: F401  (registers the ids)
from tokengym.envs import TokenGymError

CASES: list[tuple[str, Any, str]] = [
    ("normalize", True, r"normalize.*got True"),
    ("normalize", (0.5,), r"normalize.*got \(0\.5,\)"),
    ("normalize", (0.5, 2.0), r"normalize.*got \(0\.5, 2\.0\)"),
    ("reward_model", 3, r"reward_model.*got 3; .*scorer="),
    ("encoder", "", r"encoder.*got ''"),
    ("scorer", "", r"scorer.*got ''"),
    ("scorer_timeout", "soon", r"scorer_timeout.*got 'soon'"),
    ("scorer_timeout", True, r"scorer_timeout.*got True"),
    ("model", "", r"model must.*empty"),
    ("eos_token", 2.5, r"eos_token.*got 2\.5"),
    ("eos_token", 999, r"eos_token=999.*564"),
    ("pad_token", "", r"pad_token=''.*564"),
    ("dataset", False, r"dataset.*got bool"),
    ("metadata_columns", "title", r"metadata_columns.*got 'title'"),
    ("metadata_columns", 3, r"metadata_columns.*got 3"),
    ("predict_query_types", "no", r"predict_query_types.*got 'no'"),
    ("prompt_tokens", True, r"prompt_tokens.*got True"),
    ("prompt_tokens", 2.5, r"prompt_tokens.*got 2\.5"),
    ("prompt_tokens", 10**30, r"prompt_tokens.*got 1000"),
    ("allowed_token_ids", [1], r"allowed_token_ids.*got \[1\]"),
    ("horizon", np.array([1, 2]), r"horizon.*got array"),
]


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize(("name", "value", "message"), CASES)
def test_option_of_another_kind(name, value, message, batched):
    make: Any = gymnasium.make_vec if batched else gymnasium.make
    with pytest.raises(TokenGymError, match=message):
        make("tokengym/MovieReview-v0", **{name: value})


@pytest.mark.parametrize("shard", [None, "ab", (1,), (0, 1, 2), (0.0, 1.0)])
def test_prompt_shard_of_another_kind(shard):
    with pytest.raises(TokenGymError, match="prompt_shard"):
        gymnasium.make("tokengym/MovieReview-v0", prompt_shard=shard)


@pytest.mark.parametrize("count", [int, np.array([1, 2])])
def test_number_of_rows_of_another_kind(count):
    with pytest.raises(TokenGymError, match=r"num_envs.*whole number"):
        gymnasium.make_vec("tokengym/MovieReview-v0", num_envs=count)


def test_more_rows_than_the_memory_holds():
    with pytest.raises(TokenGymError, match=r"max_new_tokens.*0"):
        gymnasium.make_vec("tokengym/MovieReview-v0", num_envs=10**30)


def test_a_numpy_number_counts_tokens():
    env = gymnasium.make("tokengym/MovieReview-v0", prompt_tokens=np.int64(2))
    assert env.observation_space["input_ids"].shape == (2 + 48,)  # type: ignore[index]
