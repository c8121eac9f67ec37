"""Rows of pairs and responses as tables of typed columns."""

import pytest

from tokengym.base.errors import DatasetError
from tokengym.rewards.pairs import pairs_dataset, responses_dataset

PAIR = {
    **{"prompt": "a film", "chosen": "good", "rejected": "bad", "prompt_id": -1},
    **{"prompt_ids": [3, 4], "chosen_ids": (5, 1), "rejected_ids": []},
    **{"chosen_score": 1, "rejected_score": None},
}
RESPONSE = {
    **{"prompt": "a film", "response": "good", "prompt_ids": [3, 4], "response_ids": [5, 1]},
    **{"score": 0.5, "finish_reason": None, "prompt_id": 2},
}


def test_rows_come_back_as_they_were_given():
    assert pairs_dataset([PAIR]).to_list() == [{**PAIR, "chosen_ids": [5, 1]}]
    assert responses_dataset([RESPONSE]).to_list() == [RESPONSE]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("prompt_ids", "3 4"),
        ("prompt_ids", [3, "4"]),
        ("prompt_ids", [3, 4.0]),
        ("prompt_ids", [3, True]),
        ("prompt_ids", [3, 2**63]),
        ("prompt_ids", 3),
        ("prompt_ids", None),
        ("response", ["good"]),
        ("response", "\ud800"),
        ("response", None),
        ("score", "0.5"),
        ("score", True),
        ("finish_reason", 1),
        ("prompt_id", 0.0),
        ("prompt_id", None),
    ],
)
def test_a_value_of_another_kind_is_named_with_its_row(column, value):
    with pytest.raises(DatasetError, match=f"row 1 .*{column!r} must be a"):
        responses_dataset([RESPONSE, {**RESPONSE, column: value}])
