"""Credit in verifiers: step rewards that add up to the score, and an advantage per sampled token.

verifiers' ``Rubric`` gives each step of a trajectory the reward of the whole: a success of 1 in 20
turns is paid 20 times. It is in ``verifiers`` up to 0.2 and in ``verifiers.legacy`` of 0.3.

    class Won(ConservesScore, Rubric):
        pass

    rubric = Won(funcs=[won], gamma=0.9)

From 0.4 on a trace has one reward, and an advantage for each token that was sampled:

    pay_traces(traces, credit)  # the traces of one task; branch.advantages are then aligned

Run with the traces of verifiers 0.4.0; the rubric is written from 0.3.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokengym.base.settings import check_number
from tokengym.bridges.functions import Advantage
from tokengym.bridges.openenv import step_shares
from tokengym.bridges.prime_rl import trace_advantages
from tokengym.credit import TokenCredit


class ConservesScore:
    """Mixin of verifiers' ``Rubric``: the rewards of a trajectory's steps sum to its reward.

    Steps that the environment has paid keep what they have; the others share the rest. Advantages
    of steps are verifiers' own.

    Args:
        others: Arguments of the rubric.
        gamma: Weight of a step against the one after it, in [0, 1]: 0 pays the last, 1 all alike.
        named: Keyword arguments of the rubric.

    Raises:
        SettingsError: if gamma is not in [0, 1].
    """

    def __init__(self, *others: Any, gamma: float = 1.0, **named: Any) -> None:
        super().__init__(*others, **named)
        self.gamma = gamma
        check_number(self, "gamma", least=0.0, most=1.0)

    async def score_group(self, states: Sequence[Any]) -> None:
        """Score states as the rubric does, and divide each one's reward among its steps."""
        unpaid = [[s for s in state["trajectory"] if s["reward"] is None] for state in states]
        rubric: Any = super()
        await rubric.score_group(states)
        for state, steps in zip(states, unpaid, strict=True):
            if steps:
                mine = {id(step) for step in steps}
                paid = sum(s["reward"] for s in state["trajectory"] if id(s) not in mine)
                rest = step_shares(state["reward"] - paid, len(steps), self.gamma)
                for step, reward in zip(steps, rest, strict=True):
                    step["reward"] = reward


def pay_traces(
    traces: Sequence[Any],
    credit: TokenCredit,
    *,
    references: Sequence[Any] | None = None,
    advantage: Advantage = "loo",
) -> None:
    """Set the ``advantages`` of each trace's nodes, one for each of their sampled tokens.

    Args:
        traces: verifiers' traces of one task.
        credit: Scorer, rule and tokenizer.
        references: (traces,) ground truths; None where there are none.
        advantage: "loo", "reinforce", or a function of named inputs, see `Advantage`.

    Raises:
        SettingsError: if a trace branches.
    """
    advantages = trace_advantages(traces, credit, references=references, advantage=advantage)
    for trace, values in zip(traces, advantages, strict=True):
        begins = 0
        for node in trace.nodes:
            size = sum(map(bool, node.mask or ()))  # a message without a mask was not sampled
            if size:
                node.advantages = values[begins : begins + size]
            begins += size
