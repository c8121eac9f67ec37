"""The page about conversations runs as it stands."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.checkout.pages import blocks, run
from tests.support.rules import rewards_of
from tokengym.envs import Episode, Turn, episodes_from_infos
from tokengym.rewards import Scores

PAGE = blocks("guide/turns.md")


def test_the_page_s_rule_pays_turns():
    found = run(PAGE[2])
    turns = (
        Turn("assistant", "a", (0, 2)),
        Turn("user", "b", (2, 3)),
        Turn("assistant", "c", (3, 5)),
    )
    episode = Episode(
        prompt="x",
        response="a b c",
        prompt_ids=[0],
        response_ids=[1, 2, 3, 4, 5],
        turns=turns,
        written=np.array([1, 1, 0, 1, 1], np.int8),
    )
    (paid,) = rewards_of(found["early"], [episode], Scores([4.0]))
    assert paid.tolist() == [0.0, 2.0, 0.0, 0.0, 2.0]


def test_the_page_s_exact_values() -> None:
    found = run(PAGE[3])
    assert len(found["talks"].episodes) == 256
    assert float(found["values"][0]) == 1.75


def test_the_page_s_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    own, make, *_ = PAGE
    (tmp_path / "guess.py").write_text(own, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    try:
        found = run(make)
    finally:
        sys.modules.pop("guess", None)
    envs = found["envs"]
    _, infos = envs.reset(seed=0)
    episodes: list[Any] = []
    rng = np.random.default_rng(0)
    while len(episodes) < 8:
        _, _, _, _, infos = envs.step(rng.integers(2, 100, 8))
        episodes += episodes_from_infos(infos).values()
    for episode in episodes:
        assert episode.turns[1].text in ("no , try again :", "")
        assert episode.score == sum(turn.score or 0.0 for turn in episode.turns)
        assert not episode.token_rewards[episode.written == 0].any()
