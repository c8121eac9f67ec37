"""The figures of a process do not depend on its default dtype, which numerical code sets."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from tests.support.paid_words import LONG, PROMPT, SHORT, credit
from tokengym.agents.ppo.advantages import ADVANTAGES
from tokengym.base.errors import TokenGymError
from tokengym.bridges.rows import Row, credit_rows
from tokengym.rewards.attribution.policy_attention import mean_attention
from tokengym.rewards.credits.words import REWARDS

DEFAULTS = [torch.float64, torch.bfloat16, torch.float16]


@contextmanager
def default(dtype: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def paid(rule: str, **settings: Any) -> list[Any]:
    """Return what two episodes of film reviews are paid, (steps, 2)."""
    envs = gym.make_vec(
        "tokengym/MovieReview-v0", num_envs=2, reward=rule, max_new_tokens=6, **settings
    )
    envs.reset(seed=0)
    steps = [envs.step(np.array([5 + step, 7 + 3 * step]))[1].tolist() for step in range(14)]
    envs.close()
    return steps


def advantages(name: str) -> list[Any]:
    """Return what a door hands its trainer, of rows with all that a row can say."""
    rows = [
        Row(
            prompt_ids=PROMPT,
            response_ids=ids,
            group=group,
            log_probs=[-1.0] * len(ids),
            entropy=[0.5] * len(ids),
        )
        for group in "ab"
        for ids in (LONG, SHORT)
    ]
    return [one.tolist() for one in credit_rows(rows, credit(), name).advantages]


@pytest.fixture(scope="module")
def usual() -> dict[str, list[Any]]:
    """What all rules that need no setting pay, and all advantages that a row has the inputs of."""
    found: dict[str, list[Any]] = {}
    for kind, names in (("rule", REWARDS.names()), ("door", ["loo", *ADVANTAGES.names()])):
        for name in names:
            try:
                found[f"{kind} {name}"] = (paid if kind == "rule" else advantages)(name)
            except TokenGymError:  # it needs a setting, or what nobody supplies here
                continue
    found["running rule"] = paid("uniform", normalize="running")
    assert {"rule sparse", "rule uniform", "door loo", "door reinforce"} <= found.keys()
    return found


@pytest.mark.parametrize("dtype", DEFAULTS, ids=str)
def test_rules_and_advantages_are_the_same_under_any_default(
    usual: dict[str, list[Any]], dtype: torch.dtype
):
    with default(dtype):
        for called, figures in usual.items():
            kind, name = called.split(" ")
            if kind == "running":
                now = paid("uniform", normalize="running")
            else:
                now = (paid if kind == "rule" else advantages)(name)
            assert now == figures, called


@pytest.mark.parametrize("dtype", DEFAULTS, ids=str)
def test_the_attention_of_a_policy_is_float32_under_any_default(dtype: torch.dtype):
    generator = torch.Generator().manual_seed(0)
    query = torch.rand(1, 2, 3, 4, generator=generator, dtype=torch.float32)
    usual = mean_attention(query, query, None, scaling=0.5)
    with default(dtype):
        now = mean_attention(query, query, None, scaling=0.5)
    assert now.dtype == torch.float32
    torch.testing.assert_close(now, usual, rtol=0, atol=0)
