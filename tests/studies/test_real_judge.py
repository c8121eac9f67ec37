"""SmolLM2 as a judge: which pairs are asked, and in which orders."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from studies import real_judge as study


class Letters:
    """A tokenizer of one token a letter."""

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [ord(letter) for letter in text]}

    def decode(self, ids: list[int]) -> str:
        return "".join(map(chr, ids))


class Likes:
    """A judge that goes by the place: sure of A, and surer where A says a word."""

    def preferences(self, triples: list[study.Pair]) -> np.ndarray:
        return np.array([0.9 if "good" in a else 0.6 for _, a, _ in triples])


def test_dialogues_have_one_turn_and_two_short_answers(tmp_path: Path) -> None:
    def dialogue(*turns: str) -> str:
        return "".join(
            f"\n\n{'Assistant' if place % 2 else 'Human'}: {turn}"
            for place, turn in enumerate(turns)
        )

    rows = [
        (("Why?", "Because."), ("Why?", "No idea.")),
        (("Why?", "Because.", "And?", "So."), ("Why?", "Because.", "And?", "No.")),
        (("Why?", "Same."), ("Why?", "Same.")),
        (("Why?", "x" * (study.LENGTH + 1)), ("Why?", "No.")),
    ]
    file = tmp_path / "hh-rlhf" / "harmless-base-test.jsonl.gz"
    file.parent.mkdir()
    with gzip.open(file, "wt", encoding="utf-8") as lines:
        for good, bad in rows:
            lines.write(json.dumps({"chosen": dialogue(*good), "rejected": dialogue(*bad)}) + "\n")
    assert list(study.dialogue_pairs(tmp_path, Letters())) == [("Why?", "Because.", "No idea.")]


def test_every_pair_is_asked_in_both_orders() -> None:
    pytest.importorskip("vaderSentiment", reason="the extra smollm2 is not installed")
    pairs = [("Rate it.", "good", "a bad one"), ("Rate it.", "fine", "a bad one")]
    judge: Any = Likes()
    found = study.answers(pairs, judge)
    assert [(row["as_a"], row["as_b"]) for row in found] == [(0.9, 0.6), (0.6, 0.6)]
    assert [(row["vader"], row["longer"]) for row in found] == [(1.0, 0.0), (1.0, 0.0)]
