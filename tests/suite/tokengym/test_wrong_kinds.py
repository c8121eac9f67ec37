"""Options of another kind than the accepted ones: one line that names option and value."""

from typing import Any

import gymnasium
import numpy as np
import pytest

import tokengym  # noqa: F401  (registers the ids)
from tokengym.envs import TokenGymError

CASES: list[tuple[str, Any, str]] = [
    ("normalize", True, "normalize must be None, 'running' or 'batch', got True"),
    ("normalize", (0.5,), r"normalize must be .* got \(0.5,\)"),
    ("normalize", (0.5, 2.0), r"normalize must be .* got \(0.5, 2.0\)"),
    ("reward_model", 3, "reward_model must be a folder or a hub name, got 3; .* scorer="),
    ("encoder", "", "encoder must be a folder or a hub name, got ''"),
    ("scorer", "", "scorer must be a folder or a hub name, got ''"),
    ("scorer_timeout", "soon", "scorer_timeout must be a number of seconds > 0, got 'soon'"),
    ("scorer_timeout", True, "scorer_timeout must be a number of seconds > 0, got True"),
    ("model", "", "model must be a folder or a name, got an empty text"),
    ("eos_token", 2.5, "eos_token must be one or several tokens, texts or ids, got 2.5"),
    ("eos_token", 999, "eos_token=999 is not among the 564 tokens"),
    ("pad_token", "", "pad_token='' is not among the 564 tokens"),
    ("dataset", False, "dataset must be .* got bool"),
    ("metadata_columns", "title", "metadata_columns must be a list of columns, got 'title'"),
    ("metadata_columns", 3, "metadata_columns must be a list of columns, got 3"),
    ("predict_query_types", "no", "predict_query_types must be True or False, got 'no'"),
    ("prompt_tokens", True, "prompt_tokens must be a number or .* got True"),
    ("prompt_tokens", 2.5, "prompt_tokens must be a number or .* got 2.5"),
    ("prompt_tokens", 10**30, "prompt_tokens must be a number or .* got 1000"),
    ("allowed_token_ids", [1], r"allowed_token_ids must be lists of integers, .* got \[1\]"),
    ("horizon", np.array([1, 2]), r"horizon must be 'terminated' or 'truncated', got array"),
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
    with pytest.raises(TokenGymError, match=r"num_envs must be a whole number, got"):
        gymnasium.make_vec("tokengym/MovieReview-v0", num_envs=count)


def test_more_rows_than_the_memory_holds():
    with pytest.raises(TokenGymError, match=r"max_new_tokens.*0"):
        gymnasium.make_vec("tokengym/MovieReview-v0", num_envs=10**30)


def test_a_numpy_number_counts_tokens():
    env = gymnasium.make("tokengym/MovieReview-v0", prompt_tokens=np.int64(2))
    assert env.observation_space["input_ids"].shape == (2 + 48,)  # type: ignore[index]
