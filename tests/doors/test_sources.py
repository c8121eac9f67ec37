"""rLLM and slime, which are on no index: their own classes, from their sources."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.doors.common import from_sources
from tests.support.paid_words import ADVANTAGES, LONG, PROMPT, SHORT, credit
from tokengym.bridges.rllm import pay_trajectories
from tokengym.bridges.slime import TokenCreditRewards, advantages


def test_rllms_own_steps_are_paid() -> None:
    types = from_sources("rllm", "rllm", "types.py")
    talks = [
        types.Trajectory(steps=[types.Step(prompt_ids=PROMPT, response_ids=ids)])
        for ids in (LONG, SHORT)
    ]
    pay_trajectories(talks, credit(), groups=["p", "p"])
    for talk, expected in zip(talks, ADVANTAGES, strict=True):
        assert talk.steps[0].advantage == pytest.approx(expected)


def test_slimes_own_samples_are_paid(monkeypatch: pytest.MonkeyPatch) -> None:
    misc = SimpleNamespace(decode_int32_meta_array=None)  # of what a server samples from
    for name in ("slime", "slime.utils", "slime.utils.misc"):
        monkeypatch.setitem(sys.modules, name, misc)
    sample = from_sources("slime", "slime", "utils", "types.py").Sample
    samples = [
        sample(group_index=0, tokens=[*PROMPT, *ids], response_length=len(ids))
        for ids in (LONG, SHORT)
    ]
    args = SimpleNamespace(custom_advantage_function_path="m.advantages", context_parallel_size=1)
    scores, rows = TokenCreditRewards(credit())(args, samples)
    assert scores == [3.0, 2.0]
    batch: dict[str, Any] = {"rewards": rows, "kl": [torch.zeros(3), torch.zeros(2)]}
    advantages(args, batch)  # as slime's loss calls it on each rank
    for row, expected in zip(batch["advantages"], ADVANTAGES, strict=True):
        assert row.tolist() == pytest.approx(expected)
