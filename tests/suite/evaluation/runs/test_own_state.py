"""Objects with a state in the runs of a comparison that one process does after another."""

import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import tokengym
from tokengym.base.objects import own, own_copies
from tokengym.rewards import Reward, Rule, Scorer, Scores, shares, token_credit

QUIET = Console(quiet=True)
TINY: dict[str, Any] = {
    **{"updates": 2, "batch_size": 4, "max_new_tokens": 5, "n_epochs": 1, "eval_every": 1},
    **{"eval_episodes": 4, "samples": 2, "reference_samples": 0, "jobs": 1, "console": QUIET},
}
SEEN: list[tuple[str, int, int]] = []
"""Kind of what was called, its count before, and rows."""


class Counting:
    """Counts its calls; the weight of later tokens grows with them."""

    def __init__(self) -> None:
        self.calls = 0

    def state_dict(self) -> dict[str, int]:
        return {"calls": self.calls}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.calls = state.get("calls", 0)

    def count(self, kind: str, rows: int) -> int:
        SEEN.append((kind, self.calls, rows))
        self.calls += 1
        return self.calls


class CountingRule(Counting):
    def __call__(self, paid: Any, positions: Any, response_mask: Any) -> Any:
        power = self.count("rule", len(paid))
        return paid[:, None] * shares((1.0 + positions.clamp(min=0)) ** power, response_mask)


class CountingEstimator(Counting):
    def __call__(self, token_rewards: Any, response_mask: Any) -> Any:
        return token_rewards * response_mask / self.count("estimator", len(token_rewards))


class CountingScorer(Scorer):
    def __init__(self) -> None:
        self.counting = Counting()

    def score(self, episodes: Any, *, attribution: str | None = None) -> Scores:
        calls = self.counting.count("scorer", len(episodes))
        return Scores([calls + len(one.response) / 10.0 for one in episodes])

    def state_dict(self) -> dict[str, Any]:
        return self.counting.state_dict()

    def load_state_dict(self, state: Any) -> None:
        self.counting.load_state_dict(state)


class Learning:
    """Plays the word whose id is the number of rounds that it learned from."""

    def __init__(self) -> None:
        self.rounds = 0

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return [5 + self.rounds] * len(observation["input_ids"]), state

    def learn(self, episodes):
        SEEN.append(("agent", self.rounds, len(episodes)))
        self.rounds += 1


def uniform(paid: Any, response_mask: Any) -> Any:
    return paid[:, None] * shares(1.0 * response_mask, response_mask)


def marked(rule: Any = CountingRule) -> Any:
    return token_credit(rule())


MADE: dict[str, Any] = {
    "rule": lambda: {"rewards": [marked()]},
    "whole rule": lambda: {"rewards": [Rule(marked())]},
    "partial": lambda: {"rewards": [partial(marked())]},
    "reward": lambda: {"rewards": [Reward(CountingScorer(), Rule(token_credit(uniform)))]},
    "scorer": lambda: {"rewards": ["uniform"], "scorer": CountingScorer()},
    "estimator": lambda: {"rewards": ["uniform"], "advantage": CountingEstimator()},
    "agent": lambda: {"rewards": ["uniform"], "agent": Learning()},
}


@pytest.fixture(autouse=True)
def _none_seen():
    SEEN.clear()


@pytest.mark.parametrize("kind", MADE)
def test_each_run_begins_with_the_state_that_was_passed(tmp_path: Path, kind: str):
    given = MADE[kind]()

    def train(out: str, **changes: Any) -> Any:
        SEEN.clear()
        settings = {"seeds": 2, **TINY, **given, **changes}
        if kind == "agent":
            del settings["n_epochs"]
        return tokengym.compare("MovieReview", tmp_path / out, **settings), list(SEEN)

    result, seen = train("both")
    assert result["failed"] == []
    assert seen
    second, seen_second = train("second", seeds=1, first_seed=1)
    half = len(seen) // 2
    assert seen[half:] == seen_second
    assert [one[1] for one in seen[:half]] == [one[1] for one in seen[half:]]
    columns = ["step", "score"]
    of_both = result.curves[result.curves.seed == 1][columns].reset_index(drop=True)
    assert of_both.equals(second.curves[columns].reset_index(drop=True))
    # The same call finds its runs: the object was not changed by them.
    again, seen_again = train("both")
    assert seen_again == []
    assert again.curves.equals(result.curves)


def test_what_credits_samples_leaves_the_training_as_it_was(tmp_path: Path):
    tokengym.compare("MovieReview", tmp_path / "out", seeds=1, **TINY, **MADE["rule"]())
    # Samples (2 rows) before training and after it, rounds (4 rows) between.
    assert SEEN == [("rule", 0, 2), ("rule", 0, 4), ("rule", 1, 4), ("rule", 2, 2)]


def test_a_rule_of_a_file_begins_each_run_anew(tmp_path: Path, monkeypatch: Any):
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(
        "from tests.suite.evaluation.runs.test_own_state import marked\nrule = marked()\n",
        encoding="utf-8",
    )
    comparison = tokengym.decide(
        "MovieReview",
        rewards=["own.py:rule"],
        seeds=2,
        **{k: v for k, v in TINY.items() if k not in ("jobs", "console")},
    )
    from tokengym.evaluation.runs.run import run

    for seed in (0, 1):
        SEEN.clear()
        run(comparison, "own.py:rule", seed)
        assert [one[1] for one in SEEN] == [0, 0, 1, 2]


class Locked:
    """Holds what cannot be copied, and something that a run may change."""

    def __init__(self) -> None:
        self.lock, self.calls = threading.Lock(), 0


def test_what_cannot_be_copied_is_shared_and_said(caplog: pytest.LogCaptureFixture):
    class Client(Counting):
        def __reduce_ex__(self, protocol: Any) -> Any:
            raise TypeError("a socket is open")

    client, plain = Client(), Counting()
    assert own(plain) is plain
    with own_copies():
        assert own(client) is client
        assert own(plain) is not plain
        assert own(uniform) is uniform
    (record,) = caplog.records
    assert "Client cannot be copied (a socket is open)" in record.message
    assert "pass its class" in record.message
    caplog.clear()
    locked, empty = Locked(), threading.Lock()
    with own_copies():
        assert own(locked) is locked
        assert own(empty) is empty
    (record,) = caplog.records
    assert "Locked cannot be copied" in record.message
