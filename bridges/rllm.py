"""Token credit in rLLM: ``step.advantage`` of every step of a group's trajectories.

    pay_trajectories(trajectories, credit, groups=task_ids)  # with use_precomputed_advantage: true

A trajectory whose steps continue one conversation is one row: each step's prompt begins with the
prompt and the response of the step before. Written from rLLM at 9beb6e0 (August 2026), and not run
inside it.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from tokengym.base.errors import SettingsError
from tokengym.bridges.rows import Row, credit_rows
from tokengym.credit import TokenCredit


def pay_trajectories(
    trajectories: Sequence[Any],
    credit: TokenCredit,
    *,
    groups: Sequence[Hashable],
    references: Sequence[str | None] | None = None,
    estimator: str = "loo",
) -> None:
    """Set each step's ``advantage`` to a list with one number per response token.

    rLLM takes one kind of advantage in a group: all of its trajectories have to be paid.

    Args:
        trajectories: rLLM's, each with ``steps`` of ``prompt_ids`` and ``response_ids``.
        credit: Scorer, rule and tokenizer.
        groups: (trajectories,) what tells their tasks apart.
        references: (trajectories,) ground truths; None where there are none.
        estimator: See `token_advantages`.

    Raises:
        SettingsError: if a step does not continue the one before it.
    """
    truths = [None] * len(trajectories) if references is None else references
    rows = [
        _row(number, trajectory.steps, group, truth)
        for number, (trajectory, group, truth) in enumerate(
            zip(trajectories, groups, truths, strict=True)
        )
    ]
    credited = credit_rows(rows, credit, estimator)
    for trajectory, row, advantages in zip(trajectories, rows, credited.advantages, strict=True):
        for step in trajectory.steps:
            begins = len(step.prompt_ids) - len(row.prompt_ids)
            ends = begins + len(step.response_ids)
            step.advantage = advantages[begins:ends].tolist()


def _row(number: int, steps: Sequence[Any], group: Hashable, reference: str | None) -> Row:
    """Return a trajectory as one row."""
    prompt = list(steps[0].prompt_ids)
    ids, written = list(prompt), [0] * len(prompt)
    for place, step in enumerate(steps):
        said = list(step.prompt_ids)
        if said[: len(ids)] != ids:
            raise SettingsError(
                f"step {place} of trajectory {number} does not begin with the tokens of the steps "
                "before it; pay each step as a trajectory of its own"
            )
        ids = [*said, *step.response_ids]
        written += [0] * (len(said) - len(written)) + [1] * len(step.response_ids)
    return Row(
        prompt_ids=prompt,
        response_ids=ids[len(prompt) :],
        group=group,
        written=written[len(prompt) :],
        reference=reference,
    )
