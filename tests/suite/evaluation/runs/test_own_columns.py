"""Runs whose rules, scorers and estimators read columns of the data that nobody listed."""

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import tokengym
from tokengym.rewards import shares, token_credit

QUIET = Console(quiet=True)
TINY: dict[str, Any] = {
    **{"seeds": 1, "updates": 1, "batch_size": 4, "max_new_tokens": 6, "n_epochs": 1},
    **{"eval_every": 1, "eval_episodes": 4, "samples": 2, "reference_samples": 0},
    **{"jobs": 1, "console": QUIET},
}
TEXTS = ("the film was shot", "a blind actor and", "the plot of this", "an old story of")
READ: list[list[Any]] = []


@token_credit
def by_label(paid: Any, label: Any, response_mask: Any) -> Any:
    """Pays the first token where the label is above 0, else all alike."""
    READ.append(label)
    weights = response_mask.double()
    for row, value in enumerate(label):
        weights[row, 1:] *= float(value) <= 0
    return paid[:, None] * shares(weights, response_mask)


def labelled(response: str, label: Any) -> float:
    return float(label) + len(response) / 100.0


def steady(paid: Any, response_mask: Any, label: Any) -> Any:
    READ.append(label)
    return paid[:, None] * response_mask


@pytest.fixture
def data(tmp_path: Path) -> dict[str, Any]:
    lines = [f"{text},{row % 2}" for row, text in enumerate(TEXTS)]
    (tmp_path / "films.csv").write_text("\n".join(["text,label", *lines]), encoding="utf-8")
    path = str(tmp_path / "films.csv")
    return {"dataset": path, "prompt_column": "text", "prompt_tokens": 4, "bundle": "movie_review"}


@pytest.fixture(autouse=True)
def _none_read():
    READ.clear()


@pytest.mark.parametrize("words", [["sparse", by_label], [by_label, "sparse"]])
def test_a_rule_credits_held_out_prompts_by_its_columns(tmp_path, data, words):
    result = tokengym.compare("MovieReview", tmp_path / "out", rewards=words, **data, **TINY)
    assert result["failed"] == []
    assert {value for label in READ for value in label} <= {0, 1}
    (samples,) = (rows for name, rows in result.samples.groupby("credit") if name != "sparse")
    labels = dict(zip(TEXTS, [0, 1, 0, 1], strict=True))
    assert {*samples.step} == {0, 1}
    for row in samples.itertuples():
        first, *others = row.token_rewards
        if labels[row.prompt]:
            assert others == pytest.approx([0.0] * len(others))
        else:
            assert others == pytest.approx([first] * len(others))


def test_a_scorer_of_one_arm_has_its_columns(tmp_path, data):
    words = ["sparse", labelled]
    result = tokengym.compare("MovieReview", tmp_path / "out", rewards=words, **data, **TINY)
    assert result["failed"] == []
    labels = dict(zip(TEXTS, [0, 1, 0, 1], strict=True))
    rows = [row for row in result.samples.itertuples() if row.credit != "sparse"]
    assert rows
    for row in rows:
        paid = labels[row.prompt] + len(row.response) / 100.0
        assert sum(row.token_rewards) == pytest.approx(paid, abs=1e-5)


def test_an_estimator_reads_columns_that_are_not_listed(tmp_path, data):
    result = tokengym.compare(
        "MovieReview", tmp_path / "out", advantage=steady, rewards=["sparse"], **data, **TINY
    )
    assert result["failed"] == []
    assert READ
    assert {value for label in READ for value in label} <= {0, 1}
