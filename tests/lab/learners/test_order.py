"""The order in which learners of the laboratory are compared."""

from typing import Any

import pytest

from tokengym import decide


@pytest.mark.parametrize("agents", [("raft", "ppo"), ("online-dpo", "loo")])
@pytest.mark.parametrize(
    "given", [{}, {"env": "Dialogue", "updates": 12}, {"batch_size": 8, "updates": 4}]
)
def test_the_order_of_learners_decides_nothing(agents, given):
    def runs(order: Any) -> dict[str, Any]:
        found = decide(rewards="sparse", agents=order, **given).runs
        left_out = ("compared", "command")
        return {
            run.name: {k: v for k, v in run.as_dict().items() if k not in left_out} for run in found
        }

    assert runs(agents) == runs(agents[::-1])
