"""Token credit in rLLM, never run inside it: ``step.advantage`` of a group's trajectories.

    pay_trajectories(trajectories, credit, groups=task_ids)  # with use_precomputed_advantage: true

A trajectory whose steps continue one conversation is one row: each step's prompt begins with the
prompt and the response of the step before. Written from rLLM at 9beb6e0 (August 2026), whose own
trajectories and steps were paid.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from tokengym.base.errors import SettingsError
from tokengym.bridges.conversations import join_calls
from tokengym.bridges.functions import Advantage
from tokengym.bridges.rows import Row, credit_rows
from tokengym.credit import TokenCredit


def pay_trajectories(
    trajectories: Sequence[Any],
    credit: TokenCredit,
    *,
    groups: Sequence[Hashable],
    references: Sequence[Any] | None = None,
    advantage: Advantage = "loo",
) -> None:
    """Set each step's ``advantage`` to a list with one number per response token.

    rLLM takes one kind of advantage in a group: all of its trajectories have to be paid.

    Args:
        trajectories: rLLM's, each with ``steps`` of ``prompt_ids`` and ``response_ids``.
        credit: Scorer, rule and tokenizer.
        groups: (trajectories,) what tells their tasks apart.
        references: (trajectories,) ground truths; None where there are none.
        advantage: "loo", "reinforce", or a function of named inputs, see `Advantage`.

    Raises:
        SettingsError: if a step does not continue the one before it.
    """
    truths = [None] * len(trajectories) if references is None else references
    rows, answers = [], []
    for number, (trajectory, group, truth) in enumerate(
        zip(trajectories, groups, truths, strict=True)
    ):
        try:
            said, places = join_calls((s.prompt_ids, s.response_ids) for s in trajectory.steps)
        except ValueError as error:
            raise SettingsError(
                f"trajectory {number}: {error}; pay each step as a trajectory of its own"
            ) from error
        log_probs = [0.0] * len(said.response_ids)
        for step, place in zip(trajectory.steps, places, strict=True):
            sampled = getattr(step, "logprobs", None) or ()
            if len(sampled) == len(step.response_ids):
                log_probs[place] = sampled
            else:
                log_probs = []  # what reads them says so
                break
        rows.append(
            Row(**said._asdict(), group=group, log_probs=log_probs or None, reference=truth)
        )
        answers.append(places)
    credited = credit_rows(rows, credit, advantage, door="rllm")
    for trajectory, places, advantages in zip(
        trajectories, answers, credited.advantages, strict=True
    ):
        for step, place in zip(trajectory.steps, places, strict=True):
            step.advantage = advantages[place].tolist()
