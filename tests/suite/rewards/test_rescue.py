# mypy: no-check-untyped-defs
"""Scorers that fail: one clear line, and no finished episode is lost; slow ones are named."""

import json
import logging
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.support.rewards.common import make_episode
from tests.support.rules import rule_of
from tokengym.rewards import (
    FunctionScorer,
    Normalize,
    Reward,
    ScorerError,
    Scores,
    TimeLimit,
    VectorRewardWrapper,
    make_reward,
)
from tokengym.rewards.reward import SLOW_SECONDS
from tokengym.rewards.scorers.base import Scorer

EPISODES = [make_episode(), make_episode((3,), (5, 1)), make_episode((4,), (6, 7, 1))]


class Failing(Scorer):
    """Scores lengths, and fails from the nth call on, in a way of choice."""

    name = "failing"

    def __init__(self, fail, after=0):
        self.fail = fail
        self.calls_left = after

    def score(self, episodes, *, attribution=None):
        self.calls_left -= 1
        if self.calls_left < 0:
            return self.fail(episodes)
        return Scores([len(e.response_ids) for e in episodes])


def raises(episodes):
    raise KeyError("no such word\nin the lexicon")


FAULTS = {
    "NaN": (lambda e: Scores([np.nan] * len(e)), r"values\[0\] = nan for"),
    "NaN part": (lambda e: Scores([0.0] * len(e), {"x": [np.nan] * len(e)}), r"x\[0\] = nan"),
    "wrong shape": (lambda e: Scores(np.zeros((len(e), 2))), r"shape \(\d, 2\) for \d"),
    "wrong length": (lambda e: Scores(np.zeros(len(e) + 1)), r"shape \(\d,\) for \d"),
    "no scores": (lambda e: [0.0] * len(e), r"returned list; return Scores"),
    "raises": (raises, r"KeyError \('no such word\\nin the lexicon'\).*\d episodes"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_failing_scorer_is_named_in_one_line_and_keeps_the_episodes(fault):
    fail, message = FAULTS[fault]
    with pytest.raises(ScorerError, match=rf"scorer 'failing' .*{message}") as caught:
        Reward(Failing(fail), rule_of("sparse")).evaluate(EPISODES)
    assert list(caught.value.episodes) == EPISODES
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith("(3 finished episodes are kept in this error's .episodes)")


def test_the_line_that_is_named_is_the_users_and_no_librarys():
    """The terminal shows no traceback, and hears of no attribute of the error."""

    def parses(episodes):
        return json.loads("{")

    line = parses.__code__.co_firstlineno + 1
    with pytest.raises(ScorerError) as caught:
        Reward(Failing(parses), rule_of("sparse")).evaluate(EPISODES)
    said = caught.value.for_terminal()
    assert re.search(rf"over 3 episodes; correct the scorer, line {line} of \S*rescue\.py$", said)


def test_a_cause_that_cannot_be_printed_is_named():
    class Wordless(Exception):
        def __str__(self):
            raise ValueError("no words")

    def fail(episodes):
        raise Wordless

    with pytest.raises(ScorerError, match=r"Wordless \(<.*\).*3 episodes") as caught:
        Reward(Failing(fail), rule_of("sparse")).evaluate(EPISODES)
    assert isinstance(caught.value.__cause__, Wordless)


def test_interrupts_are_not_caught():
    def interrupt(episodes):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Reward(Failing(interrupt), rule_of("sparse")).evaluate(EPISODES)


def hang(episodes):
    time.sleep(600)


def hang_and_try_again(episodes):
    try:
        hang(episodes)
    except Exception:
        hang(episodes)


@pytest.mark.parametrize("fail", [hang, hang_and_try_again])
def test_a_scorer_that_hangs_is_given_up_and_the_episodes_are_kept(fail):
    before = signal.getsignal(signal.SIGALRM)
    reward = make_reward("sparse", scorer=Failing(fail, after=1), scorer_timeout=0.2)
    assert [episode.score for episode in reward.evaluate(EPISODES)] == [3.0, 2.0, 3.0]
    with pytest.raises(
        ScorerError, match=r"'failing'.*TimeoutError.*scorer_timeout=0.2.*3"
    ) as caught:
        reward.evaluate(EPISODES)
    assert len(caught.value.episodes) == 3
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_every_way_to_ask_a_scorer_is_limited():
    limited = TimeLimit(Failing(hang), 0.2)
    for ask in (
        limited.score,
        limited.score_prefix,
        lambda episodes: limited.score_groups([episodes]),
    ):
        with pytest.raises(TimeoutError, match="no answer within"):
            ask(EPISODES)


def slowly(seconds):
    """Return a way to score lengths that takes its time, whatever rings meanwhile."""

    def score(episodes):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(0.01)
        return Scores([len(e.response_ids) for e in episodes])

    return Failing(score)


def test_a_limit_inside_gives_the_outer_one_no_time_back():
    class FourCalls(Scorer):
        def score(self, episodes, *, attribution=None):
            for _ in range(3):
                inside.score(episodes)
            return inside.score(episodes)

    inside = TimeLimit(slowly(0.2), 0.4)
    with pytest.raises(TimeoutError, match=r"within scorer_timeout=0.5 s"):
        TimeLimit(FourCalls(), 0.5).score(EPISODES)
    for inner, outer in ((20.0, 0.2), (0.1, 20.0)):  # the nearer one stops both
        with pytest.raises(TimeoutError, match=f"within scorer_timeout={min(inner, outer):g} s"):
            TimeLimit(TimeLimit(slowly(1.0), inner), outer).score(EPISODES)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_another_alarm_keeps_its_time():
    rung = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: rung.append(number))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        limited = TimeLimit(slowly(0.4), 20.0)
        assert limited.score(EPISODES).values.tolist() == [3.0, 2.0, 3.0]
        assert len(rung) == 1
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
        signal.setitimer(signal.ITIMER_REAL, 50.0)
        limited.score(EPISODES)
        assert 0.0 < signal.getitimer(signal.ITIMER_REAL)[0] <= 49.6
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def test_a_limit_stays_inside_what_learners_take_off():
    scorer = Normalize(Failing(hang))
    for normalize in (None, "running"):
        made = make_reward(scorer, normalize=normalize, scorer_timeout=3)
        inside = made.scorer
        while isinstance(inside, Normalize):
            inside = inside.scorer
        assert isinstance(inside, TimeLimit)
        assert inside.name == "failing"
    assert isinstance(scorer.scorer, Failing)


def test_limits_that_cannot_work_are_named():
    for seconds in (0, -1.0, np.nan, np.inf):
        with pytest.raises(ScorerError, match=r"scorer_timeout.*> 0"):
            make_reward("sparse", scorer=Failing(hang), scorer_timeout=seconds)
    with ThreadPoolExecutor(1) as pool:
        limited = pool.submit(TimeLimit(Failing(raises), 1.0).score, EPISODES)
        with pytest.raises(ScorerError, match="scorer_timeout=1"):
            limited.result()


def test_what_was_kept_before_stays():
    outer, inner = timed("outer"), timed("inner")
    with (
        pytest.raises(ScorerError) as caught,
        outer.scoring(1, EPISODES[:1]),
        inner.scoring(2, EPISODES[1:]),
    ):
        raise ScorerError("no")
    assert list(caught.value.episodes) == EPISODES
    assert (outer.scored, inner.scored) == (1, 2)  # a failing call counts


@pytest.mark.parametrize("fault", ["NaN", "raises"])
def test_a_batch_keeps_what_ended_in_the_step(make_envs, fault):
    envs = VectorRewardWrapper(make_envs(), Reward(Failing(FAULTS[fault][0]), rule_of("sparse")))
    envs.reset(seed=0)
    with pytest.raises(ScorerError, match="2 finished episodes") as caught:
        envs.step(np.array([1, 5, 1]))  # EOS in the first and the last row
    assert [episode.response_ids for episode in caught.value.episodes] == [(1,), (1,)]
    assert [episode.score for episode in caught.value.episodes] == [None, None]


def test_a_scorer_that_fails_between_steps_keeps_what_ended(make_envs):
    # RED scores the rows that go on before those that ended.
    scorer = Failing(raises, after=2)
    envs = VectorRewardWrapper(make_envs(), Reward(scorer, rule_of("red")))
    envs.reset(seed=0)
    envs.step(np.array([5, 5, 5]))
    with pytest.raises(ScorerError, match=r"KeyError.*1 episodes") as caught:
        envs.step(np.array([1, 5, 5]))
    assert [episode.response_ids for episode in caught.value.episodes] == [(5, 1)]


class Clock:
    """Seconds as a test sets them."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def timed(name, clock=None):
    """Return a reward whose seconds a clock counts."""
    reward = Reward(FunctionScorer(lambda prompt, response: 1.0, name=name), rule_of("sparse"))
    reward.clock = clock or Clock()
    return reward


def test_a_slow_scorer_is_named_once_with_its_share(caplog):
    clock = Clock()
    watch = timed("judge", clock)
    with caplog.at_level(logging.WARNING):
        for _ in range(4):
            with watch.scoring(8):
                clock.now += SLOW_SECONDS / 2
            clock.now += SLOW_SECONDS / 6
    assert len(caplog.records) == 1
    # After two calls: 60 of 70 seconds, 16 episodes.
    assert "'judge' takes 86 % of the time, 3.8 s for each of 16 ep" in caplog.messages[0]
    assert (watch.seconds, watch.scored) == (2 * SLOW_SECONDS, 32)


@pytest.mark.parametrize(("scoring", "rest"), [(1.0, 3.0), (0.001, 0.0)])
def test_a_quick_scorer_is_not(caplog, scoring, rest):
    clock = Clock()
    watch = timed("quick", clock)
    for _ in range(200):
        with watch.scoring(1):
            clock.now += scoring
        clock.now += rest
    assert not caplog.records
