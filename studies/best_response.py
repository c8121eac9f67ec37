"""Does a learner that follows a credit rule's token rewards stay at the best response?

A policy gradient credits a token with the reward to go, the token rewards from it on. That leaves
out nothing only if what was paid before does not depend on what is written later. Rules known in
hindsight do not keep to that: a later token may take credit from an earlier one, and so earn more
while the score falls. On the Oracle the best response is known, and each of its tokens can be
exchanged for every other one: exactly, without learning or noise.

    python -m studies.best_response [--docs docs/results]
"""

from pathlib import Path
from typing import Any

import gymnasium as gym

from studies.cells import DOCS, Docs, command_line
from studies.credit_grid import ORACLE_RULES
from studies.grid_page import panel_of
from studies.tables import fill, iqm_with_interval, markdown_table
from tokengym.evaluation.measure.evaluate import task_reward
from tokengym.evaluation.report.curves import read_curves
from tokengym.evaluation.report.summary import per_run
from tokengym.evaluation.report.verdict import signed
from tokengym.lab.gradients.best_response import best_departure, best_play, token_rewards


def departures_table(docs: Path) -> str:
    """Return, per rule, what leaving the best response gains, and where PPO ended in the grid.

    Args:
        docs: The folder whose ``grid`` has the Oracle's published runs.
    """
    oracle: Any = gym.make("tokengym/Oracle-v0", reward=None).unwrapped
    _, info = oracle.reset(seed=0)
    best, others = best_play(oracle)
    everything = [best, *(ids for responses in others.values() for ids in responses)]
    score = float(oracle.optimal_values().values[()])
    ended = [
        _final_scores(docs / "grid" / f"{name}.csv") for name in ("Oracle", "Oracle-not-centred")
    ]
    rows = []
    for rule in ORACLE_RULES:
        reward, _ = task_reward("Oracle", {"reward": rule})
        row = [f"`{rule}`"]
        for centre, finals in zip((score, 0.0), ended, strict=True):
            paid = token_rewards(reward, everything, info["prompt"], centre)
            gain, response = best_departure(best, others, paid)
            said = f' by "{oracle.tokenizer.decode(response)}"' if gain > 0 else ""
            row += [f"{signed(round(gain, 3))}{said}", finals.get(rule, "")]
        rows.append(row)
    header = ["rule", "centred: gain by leaving", "PPO ends at"]
    return markdown_table([*header, "not centred: gain by leaving", "PPO ends at"], rows)


def _final_scores(curves: Path) -> dict[str, str]:
    """Return each rule's final score in some published runs, with its interval."""
    panel = panel_of(read_curves(curves, group_by=()))
    return {
        rule: iqm_with_interval(per_run(panel, runs, "score", "final"))
        for rule, runs in panel.rewards.items()
    }


def main(docs: Docs = DOCS) -> None:
    """Fill the document."""
    fill(docs / "best_response.md", {"departures": departures_table(docs)})


if __name__ == "__main__":
    command_line(__doc__, main)
