"""Scoring functions that answer from afar: side by side, again, too late, and not at all."""

import asyncio
import copy
import functools
import os
import pickle
import threading
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from tests.support.rules import rule_of
from tests.support.words import make_word_tokenizer
from tokengym import TokenCredit
from tokengym.agents import RandomAgent, collect
from tokengym.envs import Episode
from tokengym.rewards import (
    Cached,
    CallSettings,
    FunctionScorer,
    Normalize,
    Reward,
    Scorer,
    ScorerError,
    Scores,
    TimeLimit,
)
from tokengym.rewards.scorers import find_scorer


def episodes_of(*texts: str, **fields: Any) -> list[Episode]:
    of: Any = {"prompt": "p", "prompt_ids": (1,)} | fields
    return [Episode(response=text, response_ids=(2, 3), **of) for text in texts]


class Service:
    """A judge that answers when all of so many calls are in flight; counts them."""

    def __init__(self, together: int = 1, failures: int = 0, name: str = "service") -> None:
        self.__name__ = name
        self.together, self.failures = together, failures
        self.calls = self.in_flight = self.most = 0
        self.gate: asyncio.Event | None = None
        self.loops: set[int] = set()

    async def __call__(self, response: str) -> float:
        self.loops.add(id(asyncio.get_running_loop()))
        self.gate = self.gate or asyncio.Event()
        self.calls += 1
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        try:
            if self.calls <= self.failures:
                raise ConnectionError("no\nanswer")
            if self.in_flight >= self.together:
                self.gate.set()
            await self.gate.wait()
            return float(len(response))
        finally:
            self.in_flight -= 1


TEXTS = ["a" * (1 + number) for number in range(64)]


def test_calls_of_a_batch_are_in_flight_together():
    """None would answer before all 64 were asked."""
    service = Service(together=64)
    scores = FunctionScorer(service).score(episodes_of(*TEXTS))
    assert scores.values.tolist() == [float(len(text)) for text in TEXTS]  # in their order
    assert service.most == 64


@pytest.mark.parametrize("limit", [1, 5])
def test_no_more_are_in_flight_than_was_said(limit):
    service = Service(together=limit)
    scores = FunctionScorer(service, concurrency=limit).score(episodes_of(*TEXTS))
    assert scores.measured.all()
    assert service.most == limit


def test_batches_share_a_loop_so_that_a_client_keeps_its_connections():
    service = Service()
    for _ in range(3):
        FunctionScorer(service).score(episodes_of("a", "b"))
    assert len(service.loops) == 1
    FunctionScorer(Service()).score(episodes_of("a"))


def test_a_running_loop_as_a_notebooks_is_left_alone():
    service = Service(together=2)

    async def cell() -> list[float]:
        return FunctionScorer(service).score(episodes_of("a", "bb")).values.tolist()

    assert asyncio.run(cell()) == [1.0, 2.0]


def test_what_is_async_is_seen():
    async def judge(prompt: str, response: str, level: float = 1.0) -> float:
        return level * len(response)

    class Called:
        async def __call__(self, response: str) -> float:
            return 1.0 * len(response)

        async def method(self, response: str) -> float:
            return 1.0 * len(response)

    of_object = functools.partial(functools.partial(Called()))
    of_function = functools.partial(judge, level=1.0)
    for function in (judge, of_function, Called(), Called().method, of_object):
        name = None if hasattr(function, "__name__") else "mine"
        scorer = FunctionScorer(function, name=name)
        assert scorer.score(episodes_of("abc")).values.tolist() == [3.0]
        assert scorer.score_prefix(episodes_of("", "ab")).tolist() == [0.0, 2.0]


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_an_answer_that_is_to_be_awaited_is_refused_of_a_plain_function(on_error):
    async def judge(response: str) -> float:
        return 1.0

    scorer = FunctionScorer(lambda response: judge(response), name="mine", on_error=on_error)
    with pytest.raises(ScorerError, match=r"'mine' returned a coroutine.*write it with async def"):
        scorer.score(episodes_of("abc"))


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_a_call_that_failed_is_made_again(on_error):
    service = Service(failures=2)
    scorer = FunctionScorer(service, retries=2, backoff=0.0, on_error=on_error)
    assert scorer.score(episodes_of("abc")).values.tolist() == [3.0]
    assert service.calls == 3


def test_pauses_double(monkeypatch):
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr("tokengym.rewards.scorers.calls.asyncio.sleep", sleep)
    monkeypatch.setattr("tokengym.rewards.scorers.calls.time.sleep", pauses.append)
    FunctionScorer(Service(failures=3), retries=3, backoff=0.5).score(episodes_of("a"))
    assert pauses == [0.5, 1.0, 2.0]

    def once_more(response: str) -> float:
        if len(pauses) < 5:
            raise ConnectionError
        return 1.0

    FunctionScorer(once_more, retries=2, backoff=3.0).score(episodes_of("a"))
    assert pauses[3:] == [3.0, 6.0]


@pytest.mark.parametrize("is_async", [True, False])
def test_one_that_fails_for_good_ends_the_run_or_is_missing(is_async, caplog):
    def fails(response: str) -> float:
        if response == "b":
            raise ConnectionError("no answer")
        return float(len(response))

    async def awaited(response: str) -> float:
        await asyncio.sleep(0)
        return fails(response)

    judge: Any = awaited if is_async else fails
    texts = episodes_of("aaa", "b", "aa")
    with pytest.raises(ScorerError, match=r"'(fails|awaited)' raised ConnectionError.*no answer"):
        Reward(FunctionScorer(judge), rule_of("sparse")).evaluate(texts)
    reward = Reward(FunctionScorer(judge, on_error="skip"), rule_of("uniform"))
    for _ in range(2):
        paid = reward.evaluate(texts)
        assert [episode.score for episode in paid] == [3.0, None, 2.0]
        assert paid[0].token_rewards is not None
        assert paid[0].token_rewards.tolist() == [1.5, 1.5]
        assert paid[1].token_rewards is None
    assert reward.unscored == 2
    said = [record.getMessage() for record in caplog.records]
    assert sum("failed, and its response has no score: no answer" in line for line in said) == 1
    assert sum("1 of 3 episodes have no score" in line for line in said) == 1


def test_scores_that_there_are_can_be_credited_without_a_second_question(caplog):
    asked: list[str] = []

    def judge(response: str) -> float | None:
        asked.append(response)
        return None if response == "b" else float(len(response))

    reward = Reward(FunctionScorer(judge), rule_of("uniform"))
    scored = reward.evaluate(episodes_of("aaa", "b", "aa"))
    asked.clear()
    caplog.clear()
    other = Reward(FunctionScorer(judge), rule_of("sparse")).credit_scored(scored)
    assert not asked
    assert not caplog.messages
    assert [episode.score for episode in other] == [3.0, None, 2.0]
    rewards = [episode.token_rewards for episode in other]
    assert rewards[0] is not None
    assert rewards[2] is not None
    assert rewards[0].tolist() == [0.0, 3.0]
    assert rewards[1] is None
    assert rewards[2].tolist() == [0.0, 2.0]
    assert (
        Reward(FunctionScorer(judge), rule_of("sparse")).credit_scored(scored[1:2])[0].score is None
    )


def test_calls_that_are_still_in_flight_when_one_ended_the_run_are_cancelled():
    cancelled = threading.Event()

    async def judge(response: str) -> float:
        if response == "b":
            raise ConnectionError("no answer")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return 1.0

    with pytest.raises(ConnectionError):
        FunctionScorer(judge).score(episodes_of("a", "b"))
    assert cancelled.is_set()


async def hangs(response: str) -> float:
    if response == "b":
        await asyncio.Event().wait()
    return 1.0


def test_a_call_that_takes_too_long_is_given_up():
    scorer = FunctionScorer(hangs, timeout=0.05, retries=1, backoff=0.0, on_error="skip")
    assert scorer.score(episodes_of("a", "b")).measured.tolist() == [True, False]
    scorer = FunctionScorer(hangs, timeout=0.05)
    with pytest.raises(TimeoutError, match=r"no answer within timeout=0.05 s"):
        scorer.score(episodes_of("b"))


def test_the_limit_on_a_batch_holds_too():
    scorer = TimeLimit(FunctionScorer(hangs), 0.1)
    with pytest.raises(TimeoutError, match=r"scorer_timeout=0.1"):
        scorer.score(episodes_of("b"))
    assert scorer.score(episodes_of("a")).values.tolist() == [1.0]


def test_a_scorer_within_a_call_of_another_is_refused_instead_of_waiting_for_itself():
    inner = FunctionScorer(hangs)

    async def outer(response: str) -> float:
        return float(inner.score(episodes_of(response)).values[0])

    with pytest.raises(ScorerError, match=r"within a call of another one.*await"):
        FunctionScorer(outer).score(episodes_of("a"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"concurrency": 0}, r"concurrency must be an integer >= 1.*0"),
        ({"timeout": 0.0}, r"timeout must be.*> 0.*0.0"),
        ({"retries": -1}, r"retries must be an integer >= 0.*-1"),
        ({"backoff": -1.0}, r"backoff must be.*-1.0"),
        ({"on_error": "ignore"}, r"on_error must be 'raise' or 'skip'.*'ignore'"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(ScorerError, match=message):
        FunctionScorer(hangs, **settings)
    assert CallSettings().on_error == "raise"


@pytest.mark.parametrize("setting", ["concurrency", "timeout"])
def test_what_has_no_effect_on_a_plain_function_is_refused(setting):
    with pytest.raises(ScorerError, match=rf"{setting}=3.*'len'.*async def"):
        FunctionScorer(lambda prompt, response: 1.0, name="len", **{setting: 3})


def test_an_unknown_setting_is_named():
    with pytest.raises(
        TypeError, match=r"FunctionScorer\(\) got an unexpected keyword argument 'retry'.*'retries'"
    ):
        FunctionScorer(hangs, retry=3)


async def fussy(response: str, keywords: list[str]) -> float | None:
    """Judge a response; say nothing of those that begin with "b"."""
    await asyncio.sleep(0)
    return None if response.startswith("b") else float(len(response) + len(keywords))


def test_it_scores_environments_and_texts():
    """By a column of the data, in copies and batches, normalised or remembered."""
    tokenizer = make_word_tokenizer()
    rows = [{"prompt": text, "keywords": ["a", "b"]} for text in ("b c", "d", "e d")]
    for mode in (None, "sync"):
        settings: dict[str, Any] = {} if mode is None else {"vectorization_mode": mode}
        envs = gym.make_vec(
            "tokengym/TokenGeneration-v0",
            num_envs=12,
            tokenizer=tokenizer,
            dataset=rows,
            reward=fussy,
            max_new_tokens=6,
            normalize="running" if mode is None else None,
            **settings,
        )
        episodes = collect(RandomAgent(envs, seed=0), envs, 24, seed=0)
        known = [episode.raw_score for episode in episodes if episode.score is not None]
        assert 0 < len(known) < 24
        for episode in episodes:
            assert (episode.score is None) == episode.response.startswith("b")
            if episode.score is not None:
                assert episode.raw_score == len(episode.response) + 2
    credit = TokenCredit(fussy, "uniform", tokenizer=tokenizer)
    paid = credit(["a b", "b"], metadata=[{"keywords": []}] * 2)
    np.testing.assert_array_equal(paid.scores, [3.0, np.nan])
    assert paid.token_rewards.tolist() == [[1.5, 1.5], [0.0, 0.0]]


def test_credit_that_asks_about_beginnings_is_lost_with_an_answer_about_one():
    """An episode whose beginning nobody judged has no credit; the others keep theirs."""

    async def judge(response: str) -> float:
        if response == "b":
            raise ConnectionError("no answer")
        return float(len(response.split()))

    credit = TokenCredit(
        FunctionScorer(judge, on_error="skip"),
        "red",
        tokenizer=make_word_tokenizer(),
    )
    paid = credit(["a d", "b d", "d d a"])
    assert [episode.score for episode in paid.episodes] == [2.0, None, 3.0]
    assert paid.token_rewards.tolist() == [[1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]


class Parted(Scorer):
    """Parts of 3 and of 5, and what stands for those of a response that was not measured."""

    attribution_kinds = frozenset({"relevance"})

    def score(self, episodes: Any, *, attribution: str | None = None) -> Scores:
        return Scores([3.0, None, 5.0], None, [[1.0, 2.0], [np.nan], [4.0, 1.0]], additive=True)


class Whole(Parted):
    """As `Parted`, which measures all responses."""

    def score(self, episodes: Any, *, attribution: str | None = None) -> Scores:
        return Scores([3.0, 4.0, 5.0], None, [[1.0, 2.0], [2.0, 2.0], [4.0, 1.0]], additive=True)


@pytest.mark.parametrize(
    ("scorer", "expected"),
    [
        (Parted(), [[1.0, 2.0], [4.0, 1.0]]),
        (Parted() + Whole(), [[2.0, 4.0], [8.0, 2.0]]),
        (Whole() + Parted(), [[2.0, 4.0], [8.0, 2.0]]),
        (Parted() * 2.0, [[2.0, 4.0], [8.0, 2.0]]),
        # minus the mean of 4, evenly, over a deviation of 1
        (Normalize(Parted()), [[-1.0, 0.0], [2.0, -1.0]]),
        (Normalize(Whole() + FunctionScorer(fussy)), [[-1.5, 0.5], [1.5, -0.5]]),
        (Normalize(Parted() + Whole()), [[-1.0, 0.0], [2.0, -1.0]]),
    ],
)
def test_attributions_of_what_was_not_measured_are_left_alone(scorer, expected):
    episodes = episodes_of("a", "b", "c", metadata={"keywords": []})
    paid = Reward(scorer, rule_of("r3-dense")).evaluate(episodes)
    assert paid[1].score is None
    assert paid[1].token_rewards is None
    for episode, rewards in zip(paid[::2], expected, strict=True):
        assert episode.token_rewards is not None
        np.testing.assert_allclose(episode.token_rewards, rewards, atol=1e-6)


def test_a_word_says_how_its_function_is_called(tmp_path):
    file = tmp_path / "score.py"
    file.write_text(
        "def fails(prompt, response):\n"
        "    raise ConnectionError('no answer')\n\n"
        "def made(retries=0):\n"
        "    return lambda prompt, response: float(retries)\n"
    )
    scorer: Any = find_scorer(f"{file}:fails:on_error=skip,retries=1,backoff=0.0")
    assert (scorer.name, scorer._calls.settings.retries) == ("fails", 1)
    assert np.isnan(scorer.score(episodes_of("a")).values).all()
    made = find_scorer(f"{file}:made:retries=3")  # an option of its own makes the scorer
    assert made is not None
    assert made.score(episodes_of("a")).values.tolist() == [3.0]


def test_copies_and_other_processes_ask_too():
    scorer = FunctionScorer(hangs, retries=1)
    for copied in (copy.deepcopy(scorer), pickle.loads(pickle.dumps(scorer)), Cached(scorer)):
        assert copied.score(episodes_of("a")).values.tolist() == [1.0]
    Normalize(scorer).score(episodes_of("a"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_process_that_was_forked_has_a_loop_of_its_own():
    scorer = FunctionScorer(hangs, timeout=5.0)
    scorer.score(episodes_of("a"))
    if (child := os.fork()) == 0:
        try:
            os._exit(0 if scorer.score(episodes_of("a")).values.tolist() == [1.0] else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_missing_scores_are_said_once_for_a_scorer_normalised_or_not(caplog):
    """As measuring and training have it, each with a reward of its own."""

    def picky(response: str) -> float | None:
        return None if response == "b" else 1.0

    given = FunctionScorer(picky)
    for scorer in (given, Normalize(given), given):
        Reward(scorer, rule_of("sparse")).evaluate(episodes_of("aaa", "b"))
    (said,) = [line for line in caplog.messages if "have no score" in line]
    assert said.startswith("1 of 2 episodes have no score, as scorer 'picky' gave None")
