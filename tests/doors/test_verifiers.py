"""verifiers and prime-rl: real traces, paid through our function and through prime-rl's."""

from typing import Any

import pytest
import verifiers as vf

from tests.doors.common import ADVANTAGES, LONG, PROMPT, SHORT, credit, from_sources
from tokengym.bridges.prime_rl import trace_advantages
from tokengym.bridges.verifiers import pay_traces


def traces() -> list[Any]:
    """Return verifiers' own traces of one prompt, a message of the user and a sampled one."""
    made = []
    for ids in (LONG, SHORT):
        trace = vf.Trace.model_construct(id="t", nodes=[])
        nodes = [
            vf.MessageNode.model_construct(
                parent=parent, message=None, sampled=sampled, token_ids=list(tokens),
                mask=[sampled] * len(tokens), logprobs=[-1.0] * len(tokens) if sampled else [],
            )
            for parent, sampled, tokens in ((None, False, PROMPT), (0, True, ids))
        ]  # fmt: skip
        trace.nodes = nodes
        made.append(trace)
    return made


def test_the_sampled_tokens_of_real_traces_are_paid() -> None:
    some = traces()
    pay_traces(some, credit())
    for trace, expected in zip(some, ADVANTAGES, strict=True):
        assert trace.nodes[1].advantages == pytest.approx(expected)
        assert trace.nodes[0].advantages is None


def test_prime_rl_assigns_what_we_return() -> None:
    assign = from_sources(
        "prime-rl", "src", "prime_rl", "orchestrator", "algo", "routing.py"
    ).assign_advantages
    some = traces()
    for trace, values in zip(some, trace_advantages(some, credit()), strict=True):
        assign(trace, values)
    for trace, expected in zip(some, ADVANTAGES, strict=True):
        assert trace.nodes[1].advantages == pytest.approx(expected)
