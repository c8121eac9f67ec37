"""Scorers that fail: one line, the finished episodes kept, and right scores afterwards."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tests.campaign.fuzz import build, play, random_settings, require, score
from tests.campaign.outcome import LostError, Outcome, try_cases
from tests.support.rewards.common import make_episode
from tests.support.rules import rule_of
from tokengym.envs import Episode, TokenGymError
from tokengym.rewards import Cached, Normalize, Reward, RewardError, Scorer, Scores


class WordlessError(Exception):
    """An error that cannot even be printed."""

    def __str__(self) -> str:
        raise ValueError("no words")


class PanicError(BaseException):
    """Stands for the panic of a library in Rust."""


def raising(error: BaseException) -> Callable[[int], Any]:
    """Return a fault that raises an error."""

    def fault(count: int) -> Any:
        raise error

    return fault


FAULTS: dict[str, Callable[[int], Any]] = {
    **{
        f"raises {type(error).__name__}": raising(error)
        for error in (
            *(ValueError("two\nlines"), KeyError("word"), RuntimeError(""), StopIteration()),
            *(ConnectionError("no judge"), MemoryError(), RecursionError(), WordlessError()),
            *(AssertionError(), UnicodeError("\x1b[2J"), RewardError("no"), TimeoutError("late")),
            *(SystemExit(0), PanicError("None"), UnicodeError("\ud800")),
        )
    },
    "NaN": lambda count: Scores([np.nan] * count),
    "infinite": lambda count: Scores([np.inf] * count),
    "too large": lambda count: Scores([1e39] * count),
    "NaN part": lambda count: Scores([0.0] * count, {"part": [np.nan] * count}),
    "too long": lambda count: Scores([0.0] * (count + 1)),
    "too short": lambda count: Scores([0.0] * (count - 1)),
    "long part": lambda count: Scores([0.0] * count, {"part": [0.0] * (count + 1)}),
    "a column": lambda count: Scores([[0.0]] * count),
    "one number": lambda count: Scores(1.0),
    "texts": lambda count: Scores(["good"] * count),
    "None": lambda count: None,
    "a list": lambda count: [0.0] * count,
    "an array": np.zeros,
    "a number": float,
    "attributions of no episode": lambda count: Scores([0.0] * count, attributions=[]),
    "long attributions": lambda count: Scores([0.0] * count, attributions=[[0.0] * 99] * count),
    "NaN attributions": lambda count: Scores([0.0] * count, attributions=[[np.nan]] * count),
}


class Faulty(Scorer):
    """Scores as `score` does, and fails once, at a call of choice."""

    name = "faulty"

    def __init__(self, fault: Callable[[int], Any], after: int) -> None:
        self.fault = fault
        self.calls_left = after

    def score(self, episodes: Sequence[Episode], *, attribution: str | None = None) -> Scores:
        """Return right scores, or the fault."""
        self.calls_left -= 1
        if self.calls_left == -1:
            found: Scores = self.fault(len(episodes))
            return found
        return Scores([score(episode.prompt, episode.response) for episode in episodes])


WRAPPERS: tuple[Callable[[Scorer], Scorer], ...] = (
    *(lambda it: it, Cached, lambda it: it + 0.0, lambda it: 1.0 * it),
)
EPISODES = [make_episode(response_ids=(5, *range(5, 5 + i), 1)) for i in range(3)]


def check_state(fault: Callable[[int], Any]) -> None:
    """Check that a fault teaches `Normalize` nothing."""
    faulty = Faulty(fault, 1)
    scorer = Normalize(faulty)
    reward = Reward(scorer, rule_of("sparse"))
    reward.evaluate(EPISODES)
    state = scorer.state_dict()
    try:
        reward.evaluate(EPISODES)
    except RewardError:
        require(scorer.state_dict() == state, f"Normalize learnt from a fault: {state}")
    else:
        raise LostError("Normalize passed a fault on")


def one_fault(random: np.random.Generator) -> None:
    """Play until the scorer fails, then play the same environment again."""
    chosen = random_settings(random)
    named = str(random.choice(list(FAULTS)))
    check_state(FAULTS[named])
    faulty = Faulty(FAULTS[named], int(random.integers(4)))
    scorer = WRAPPERS[random.integers(len(WRAPPERS))](faulty)
    try:
        env = build(chosen, random, scorer)
    except TokenGymError:
        return  # settings that no environment has
    try:
        play(env, chosen, random)
    except RewardError as error:
        kept = error.episodes
        require(faulty.calls_left < 0, f"refused without a fault: {error}")
        require("\n" not in str(error) and "\x1b" not in str(error), f"{named}: {str(error)!r}")
        require(kept, f"{named}: no episode is kept")
        require(all(it.score is None for it in kept), f"{named}: a kept episode has a score")
    else:
        require(faulty.calls_left >= 0, f"{named}: passed without an error")
        return
    play(env, chosen, random)


def scorers(count: int, seed: int) -> Outcome:
    """Try ``count`` scorers that fail."""
    return try_cases("scorers", one_fault, count, seed)
