"""Rows that wait for the slowest one do nothing, also where padding is the EOS (as in GPT-2)."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from tests.support.agents.common import EOS, TARGET, single_env
from tests.support.agents.playing import MODES, Scripted
from tests.support.rules import rule_of
from tests.support.words import make_word_tokenizer as make_tokenizer
from tokengym.agents import collect
from tokengym.agents.rollouts.playing import as_sampler, play_round
from tokengym.agents.rollouts.rounds import as_rounds
from tokengym.agents.sb3 import as_vec_env
from tokengym.envs import PadTokenRewards, TokenGenerationEnv, TokenGenerationVectorEnv
from tokengym.rewards import (
    FunctionScorer,
    Reward,
    Rule,
    VectorRewardWrapper,
)

ROWS, PROMPTS = 4, tuple(f"{a} {b}" for a in "bcde" for b in "bcde")  # 16 different ones
SETTINGS: dict[str, Any] = {
    "prompts": PROMPTS,
    "prompt_sampling": "sequential",
    "max_new_tokens": 9,
}


class Counting:
    """A scorer that keeps what it scored."""

    def __init__(self, credit: Rule | None = None) -> None:
        self.scored: list[tuple[str, str]] = []
        self.reward = Reward(FunctionScorer(self.score), credit or rule_of("sparse"))

    def score(self, prompt: str, response: str) -> float:
        self.scored.append((prompt, response))
        return float(len(response.split()))


def pad_is_eos() -> Any:
    tokenizer = make_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def native(counting: Counting, mode: str) -> Any:
    envs = TokenGenerationVectorEnv(
        num_envs=ROWS, tokenizer=pad_is_eos(), autoreset_mode=mode, **SETTINGS
    )
    return VectorRewardWrapper(envs, counting.reward)


def copies(counting: Counting, *wrappers: Any) -> list[Any]:
    how = SETTINGS | {"tokenizer": pad_is_eos()}
    return [
        lambda row=row: single_env(counting.reward, *wrappers, prompt_shard=(row, ROWS), **how)
        for row in range(ROWS)
    ]


def sync(counting: Counting, mode: str) -> Any:
    return SyncVectorEnv(copies(counting, PadTokenRewards), autoreset_mode=mode)


def sync_paid_as_a_batch(counting: Counting, mode: str) -> Any:
    bare = [
        lambda row=row: PadTokenRewards(
            TokenGenerationEnv(tokenizer=pad_is_eos(), prompt_shard=(row, ROWS), **SETTINGS)
        )
        for row in range(ROWS)
    ]
    return VectorRewardWrapper(SyncVectorEnv(bare, autoreset_mode=mode), counting.reward)


BACKENDS: dict[str, Callable[[Counting], Any]] = {
    **{f"native {m}": lambda c, m=m: native(c, m) for m in MODES},  # type: ignore[misc]
    **{f"sync {m}": lambda c, m=m: sync(c, m) for m in MODES},  # type: ignore[misc]
    "sync in a batch": lambda c: sync_paid_as_a_batch(c, "NextStep"),
    **{f"monitored {m}": lambda c, m=m: VecMonitor(as_vec_env(native(c, m))) for m in MODES},  # type: ignore[misc]
    "adapted sync": lambda c: VecMonitor(as_vec_env(sync(c, "NextStep"))),
    "stock monitored": lambda c: DummyVecEnv(copies(c, Monitor)),
}


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_row_that_waits_draws_and_plays_nothing(backend):
    counting = Counting()
    episodes = collect(Scripted(), BACKENDS[backend](counting), 2 * len(PROMPTS), seed=0)
    assert [len(e.response_ids) for e in episodes] == 8 * [1, 2, 3, 4]
    assert [e.prompt for e in episodes] == [*PROMPTS, *PROMPTS]
    assert len(counting.scored) == 2 * len(PROMPTS)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_causal_credit_reads_each_row_once(backend):
    counting = Counting(rule_of("red"))
    collect(Scripted(), BACKENDS[backend](counting), len(PROMPTS), seed=0)
    # A round is scored when it has ended: of n tokens, n + 1 prefixes and the text.
    tokens = 4 * (1 + 2 + 3 + 4)
    at_end = (tokens + len(PROMPTS)) + len(PROMPTS)
    # A monitor around the reward sees what steps pay: after the first token two prefixes, after
    # each other one but the last one more.
    is_monitored = "monitored" in backend or backend == "adapted sync"
    in_steps = 4 * (2 + (2 + 1) + (2 + 1 + 1)) if is_monitored else 0
    assert len(counting.scored) == at_end + in_steps


def test_a_row_that_waits_in_another_process_does_nothing():
    envs = AsyncVectorEnv(copies(Counting(), PadTokenRewards))
    try:
        episodes = collect(Scripted(), envs, len(PROMPTS), seed=0)
    finally:
        envs.close()
    assert [e.prompt for e in episodes] == list(PROMPTS)


def test_a_batch_waits_as_copies_do():
    """Step for step the same as ``SyncVectorEnv`` while rows wait."""
    for mode in MODES:
        pair = [native(Counting(), mode), sync(Counting(), mode)]
        for envs in pair:
            envs.reset(seed=0)
            held = envs.unwrapped
            held.hold_after_end(True) if envs is pair[0] else held.call("hold_after_end", True)
        for step in range(4):
            actions = np.where(np.arange(ROWS) <= step, EOS, TARGET)
            seen = [envs.step(actions) for envs in pair]
            for one, other in zip(seen[0][:4], seen[1][:4], strict=True):
                np.testing.assert_equal(one, other)
            waiting = [infos.get("waiting", np.zeros(ROWS, bool)).tolist() for *_, infos in seen]
            assert (
                waiting[0]
                == waiting[1]
                == [row < step + (mode == "SameStep") for row in range(ROWS)]
            )
            if mode == "Disabled":
                pair[1].reset(options={"reset_mask": seen[1][2] | seen[1][3]})
        if mode != "Disabled":
            one, other = (envs.reset()[1]["waiting"].tolist() for envs in pair)
            assert one == other
            assert any(one)


@pytest.mark.parametrize("mode", MODES)
def test_the_autoreset_mode_is_in_force_again_after_a_round(mode):
    envs = native(Counting(), mode)
    collect(Scripted(), envs, ROWS, seed=0)
    _, infos = envs.reset()
    assert list(infos["prompt"]) == list(PROMPTS[ROWS : 2 * ROWS])
    envs.step(np.full(ROWS, EOS))
    *_, infos = envs.step(np.full(ROWS, TARGET))
    begun = list(infos["prompt"]) == list(PROMPTS[2 * ROWS : 3 * ROWS]) if "prompt" in infos else 0
    assert begun == (mode == "NextStep")


def test_an_abandoned_round_lets_go_of_its_rows():
    counting = Counting()
    envs = native(counting, "NextStep")
    played = play_round(as_sampler(Scripted()), as_rounds(envs), seed=0, on_step=lambda *_: False)
    assert played is None
    envs.step(np.full(ROWS, TARGET))
    *_, infos = envs.step(np.full(ROWS, EOS))
    assert "waiting" not in infos
    _, infos = envs.reset()
    assert list(infos["prompt"]) != list(PROMPTS[:ROWS])
