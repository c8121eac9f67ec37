"""Many episodes and updates, after which no more is in memory than before them."""

import gc
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from tests.campaign.fuzz import build, play, random_settings, score
from tests.campaign.outcome import LostError, Outcome, try_cases
from tests.support.agents.common import PROMPTS, make_model, target_reward
from tests.support.words import make_word_tokenizer as make_tokenizer
from tokengym import agents
from tokengym.envs import TokenGenerationVectorEnv, TokenGymError
from tokengym.rewards import Cached, FunctionScorer, Normalize, VectorRewardWrapper

ROUNDS = 20
"""Rounds of the same work before memory is read, and between two readings."""
ALLOWED = 32 * 1024
"""Bytes by which memory may grow over two readings; allocators keep a few for later."""
LEARNERS: dict[str, dict[str, Any]] = {"PPO": {"n_epochs": 2}, "NLPO": {"mask_refresh": 2}}


def growth(work: Callable[[], None], rounds: int = ROUNDS) -> tuple[int, int]:
    """Return how many bytes and tensors more there are after rounds of the same work.

    The first rounds fill logs and caches and do not count.
    """
    gc.collect()
    gc.freeze()  # what was there before is not looked through at each reading
    tracemalloc.start()
    try:
        readings = []
        for _ in range(4):
            for _ in range(rounds):
                work()
            gc.collect()
            tensors = sum(issubclass(type(it), torch.Tensor) for it in gc.get_objects())
            readings.append((tracemalloc.get_traced_memory()[0], tensors))
    finally:
        tracemalloc.stop()
    (before, few), (one, several), (other, many) = readings[1:]
    return min(one, other) - before, min(several, many) - few


def play_on(random: np.random.Generator) -> Callable[[], None]:
    """Return what plays one environment for many episodes."""
    chosen = random_settings(random)
    scorer = FunctionScorer(score)
    env = build(chosen, random, Cached(scorer, size=4) if random.integers(2) else scorer)

    def work() -> None:
        for _ in range(5):
            play(env, chosen, random)

    return work


def learn_on(random: np.random.Generator) -> Callable[[], None]:
    """Return what updates one agent many times."""
    name = str(random.choice(list(LEARNERS)))
    envs = TokenGenerationVectorEnv(
        num_envs=4, tokenizer=make_tokenizer(), prompts=PROMPTS, max_new_tokens=6
    )
    reward = target_reward()
    if random.integers(2):
        reward.scorer = Normalize(reward.scorer)
    agent = getattr(agents, name)(
        "CausalLMPolicy",
        VectorRewardWrapper(envs, reward),
        policy_kwargs={"model": make_model()},
        seed=int(random.integers(100)),
        device="cpu",
        **LEARNERS[name],
    )
    return lambda: agent.learn(1, reset_num_timesteps=False, log_interval=None)


def one_soak(random: np.random.Generator) -> None:
    """Soak an environment or a learner."""
    make = (play_on, learn_on)[random.integers(2)]
    try:
        work = make(random)
    except TokenGymError:
        return  # settings that no environment has
    size, tensors = growth(work)
    if size > ALLOWED or tensors > 0:
        raise LostError(f"{make.__name__}: {size} bytes and {tensors} tensors are left")


def soak(count: int, seed: int) -> Outcome:
    """Try ``count`` soaks."""
    return try_cases("soak", one_soak, count, seed)
