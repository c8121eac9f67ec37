"""verifiers and prime-rl: real traces, paid through our function and through prime-rl's."""

import os
from pathlib import Path
from typing import Any

import pytest
import verifiers.v1 as vf
from verifiers.v1.graph import MessageNode
from verifiers.v1.trace import Trace
from verifiers.v1.types import AssistantMessage, UserMessage

from studies.shipped_trainers import Source
from tests.support.paid_words import ADVANTAGES, LONG, PROMPT, SHORT, credit
from tokengym.bridges.prime_rl import trace_advantages
from tokengym.bridges.verifiers import pay_traces


def traces() -> list[Any]:
    """Return verifiers' own traces of one prompt, a message of the user and a sampled one."""
    made = []
    for ids in (LONG, SHORT):
        asked = MessageNode(
            message=UserMessage(content="i saw"), token_ids=PROMPT, mask=[False] * len(PROMPT)
        )
        said = MessageNode(
            parent=0, message=AssistantMessage(content="a film"), sampled=True, token_ids=ids,
            mask=[True] * len(ids), logprobs=[-1.0] * len(ids),
        )  # fmt: skip
        # Of what ran, which a trace also holds, neither function reads anything.
        trace: Any = Trace.model_construct(id="t", nodes=[asked, said])
        assert trace.branches[0].sampled_mask == [*asked.mask, *said.mask]
        made.append(trace)
    return made


def test_the_sampled_tokens_of_real_traces_are_paid() -> None:
    some = traces()
    pay_traces(some, credit())
    for trace, expected in zip(some, ADVANTAGES, strict=True):
        assert trace.nodes[1].advantages == pytest.approx(expected)
        assert trace.branches[0].advantages == pytest.approx([0.0] * len(PROMPT) + expected)


def test_prime_rl_assigns_what_we_return() -> None:
    sources = os.environ.get("DOORS_SOURCES")
    if sources is None:
        pytest.skip("set DOORS_SOURCES to a folder that has prime-rl at the commit of its door")
    source = Source(Path(sources) / "prime-rl")
    assign = source.take("orchestrator/algo/routing.py", "assign_advantages", vf=vf)
    some = traces()
    for trace, values in zip(some, trace_advantages(some, credit()), strict=True):
        assign.assign_advantages(trace, values)
    for trace, expected in zip(some, ADVANTAGES, strict=True):
        assert trace.nodes[1].advantages == pytest.approx(expected)
