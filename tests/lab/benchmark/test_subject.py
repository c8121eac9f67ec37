"""What a file's object is, told from its text."""

from pathlib import Path

import pytest

from tokengym.envs import SettingsError
from tokengym.lab.benchmark.subject import kind_of

FILE = """
from tokengym import token_credit


@token_credit
def of_tokens(scores, response_mask):
    return scores


@token_credit
def estimates(token_rewards, response_mask):
    return token_rewards


@token_credit
def weighs(response_mask, advantages):
    return advantages


def steps(log_probs, old_log_probs, advantages):
    return advantages


def bare(token_rewards, response_mask):
    return token_rewards


class Half:
    pass
"""


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("of_tokens", "rule"),
        ("estimates", "estimator"),
        ("weighs", "weight"),
        ("steps", "loss"),
        ("bare", "estimator"),
        ("Half", "rule"),
    ],
)
def test_what_a_function_reads_says_what_it_is_whether_marked_or_not(
    name: str, kind: str, tmp_path: Path
) -> None:
    (tmp_path / "own.py").write_text(FILE)
    assert kind_of(f"{tmp_path / 'own.py'}:{name}") == kind


def test_a_word_before_a_subject_says_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(FILE)
    file = f"{tmp_path / 'own.py'}:estimates"
    assert [kind_of(f"{kind}:{file}") for kind in ("weight", "loss")] == ["weight", "loss"]
    for word in ("loss:entropy", "weight:gspo", "loss:sparse"):  # which are of another kind
        with pytest.raises(SettingsError, match=f"unknown subject '{word}'"):
            kind_of(word)
    assert [kind_of(name) for name in ("gspo", "loss:gspo", "entropy")] == [
        "loss",
        "loss",
        "weight",
    ]
