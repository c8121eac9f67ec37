# mypy: no-check-untyped-defs
"""Pairs that a model cannot read, and pairs that are held out."""

from typing import Any

import pytest

from tests.support.rewards.read import DIALOGUE, ROW
from tokengym.envs import DatasetError
from tokengym.lab.training.pipeline import divide, limit_lengths, split_pairs
from tokengym.lab.training.process import _divided
from tokengym.rewards import PreferencePair, read_pairs


def test_overlong_pairs():
    pairs = read_pairs([{**ROW, "chosen": ""}, ROW, DIALOGUE | {"prompt": "x"}], on_error="skip")
    assert limit_lengths(pairs, [5, 9], max_tokens=9, drop=False) is pairs
    with pytest.raises(DatasetError, match=r"row 2.*9 tokens.*max_tokens=8"):
        limit_lengths(pairs, [5, 9], max_tokens=8, drop=False)
    with pytest.raises(DatasetError, match=r"row 1.*\(1 more"):
        limit_lengths(pairs, [5, 9], max_tokens=4, drop=False)
    fitting = limit_lengths(pairs, [5, 9], max_tokens=8, drop=True)
    assert (fitting.pairs, fitting.rows) == (pairs.pairs[:1], (1,))
    assert fitting.skip_counts() == {"empty": 1, "overlong": 1}
    with pytest.raises(DatasetError, match="3 rows, 0 pairs, 3 skipped"):
        limit_lengths(pairs, [5, 9], max_tokens=4, drop=True)


@pytest.mark.parametrize(
    ("share", "held_out"), [(0.9, 90), (0.8, 80), (0.6, 60), (0.4, 40), (0.35, 35), (0.15, 15)]
)
def test_the_share_is_held_out(share: float, held_out: int):
    pairs = [PreferencePair(prompt=f"{i}", chosen="x", rejected="y") for i in range(100)]
    assert len(split_pairs(pairs, share)[1]) == held_out


def test_one_in_n_is_every_n_th_prompt():
    pairs = [PreferencePair(prompt=f"{i}", chosen="x", rejected="y") for i in range(400)]
    for n in range(2, 200):
        assert split_pairs(pairs, 1 / n)[1] == list(range(n - 1, 400, n))


def test_no_prompt_is_on_both_sides_and_none_is_lost():
    pairs = [PreferencePair(prompt=str(i % 7), chosen=f"{i}", rejected="x") for i in range(42)]
    train, test = split_pairs(pairs, 1 / 3)
    assert sorted(train + test) == list(range(42))
    assert {pairs[i].prompt for i in test} == {"2", "5"}
    assert {pairs[i].prompt for i in train} == {"0", "1", "3", "4", "6"}
    alone = [PreferencePair(prompt="", chosen=f"{i}", rejected="x") for i in range(20)]
    assert split_pairs(alone, 0.1)[1] == [9, 19]
    with pytest.raises(DatasetError, match=r"1 pairs of 1 prompts.*leave 1.*0"):
        split_pairs(pairs[:1], 0.5)
    with pytest.raises(DatasetError, match=r"held_out.*got 1"):
        split_pairs(pairs, 1.0)


TEXTS = [{"chosen": f"{i}", "rejected": "x"} for i in range(3)]
STEPS = [{"prompt": f"{i}", "completions": ["a"], "labels": [True]} for i in range(3)]


@pytest.mark.parametrize(
    ("split", "rows"),
    [(divide, [ROW | {"prompt": f"{i}"} for i in range(3)]), (divide, TEXTS), (_divided, STEPS)],
)
def test_held_out_rows_whose_prompts_are_learned_from_are_said(split: Any, rows: Any, caplog: Any):
    split(rows[:2], rows[2:])
    assert not caplog.records
    split(rows[:2], rows[1:])
    assert "1 of 2 held-out rows" in caplog.text
