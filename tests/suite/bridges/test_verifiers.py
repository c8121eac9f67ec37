"""verifiers' rubric of 0.3.1, by its arithmetic, and its traces of 0.4.0, by their fields."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.paid_words import LONG, PROMPT, SHORT, credit
from tokengym.base.errors import SettingsError
from tokengym.bridges.prime_rl import trace_advantages
from tokengym.bridges.verifiers import ConservesScore, pay_traces


class Rubric:
    """verifiers' own, as far as the rewards of steps are concerned."""

    def __init__(self, funcs: list[Any]) -> None:
        self.funcs = funcs

    async def score_group(self, states: list[dict[str, Any]]) -> None:
        for state in states:
            state["reward"] = float(sum(function(state) for function in self.funcs))
        mean = sum(state["reward"] for state in states) / len(states)
        for state in states:
            for step in state["trajectory"]:
                if step["advantage"] is None:
                    step["advantage"] = state["reward"] - mean
                if step["reward"] is None:
                    step["reward"] = state["reward"]


class Conserving(ConservesScore, Rubric):
    pass


def played(rubric: Any, *rewards: float | None) -> list[float]:
    """Return the rewards of the steps of an episode whose score is 1."""
    steps: list[dict[str, Any]] = [{"reward": paid, "advantage": None} for paid in rewards]
    asyncio.run(rubric.score_group([{"trajectory": steps}]))
    return [step["reward"] for step in steps]


def won(state: dict[str, Any]) -> float:
    return 1.0


def test_a_success_is_paid_once_where_verifiers_pays_it_each_turn():
    assert sum(played(Rubric([won]), *[None] * 20)) == 20.0
    assert played(Conserving([won]), *[None] * 20) == pytest.approx([1 / 20] * 20)
    assert played(Conserving([won], gamma=0.5), None, None, None) == pytest.approx(
        [1 / 7, 2 / 7, 4 / 7]
    )
    assert played(Conserving([won], gamma=0.0), None, None) == [0.0, 1.0]
    with pytest.raises(SettingsError, match="gamma must be"):
        Conserving([won], gamma=1.5)


def test_steps_that_were_paid_keep_their_rewards():
    assert played(Conserving([won]), 0.25, None, None) == pytest.approx([0.25, 0.375, 0.375])
    assert played(Conserving([won]), 0.25, 0.75) == [0.25, 0.75]


def test_each_node_gets_the_advantages_of_its_sampled_tokens():
    def node(ids: list[int], *, sampled: bool) -> Any:
        mask = [False, *[True] * (len(ids) - 1)] if sampled else []
        return SimpleNamespace(token_ids=ids, mask=mask, advantages=None)

    nodes = [
        node(PROMPT, sampled=False),
        node([PROMPT[0], *LONG], sampled=True),  # a template's token before what was sampled
        node(SHORT, sampled=False),
        node([PROMPT[0], *SHORT], sampled=True),
    ]
    traces = [
        SimpleNamespace(id="t", nodes=nodes, branches=[None]),
        SimpleNamespace(
            id="o",
            nodes=[
                SimpleNamespace(token_ids=PROMPT, mask=None, advantages=None),
                node([5, *SHORT], sampled=True),
            ],
            branches=[None],
        ),
    ]

    pay_traces(traces, credit())
    expected = trace_advantages(traces, credit())
    assert [one.advantages is None for one in nodes] == [True, False, True, False]
    assert [*nodes[1].advantages, *nodes[3].advantages] == expected[0]
    assert (len(nodes[1].advantages), len(nodes[3].advantages)) == (3, 2)
    assert traces[1].nodes[0].advantages is None
    assert traces[1].nodes[1].advantages == expected[1]
