"""Runs of one setting on common steps, ready for statistics."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tokengym.evaluation.report.curves import SPENT, Curve, Group
from tokengym.evaluation.statistics import Array


@dataclass(frozen=True, kw_only=True)
class Runs:
    """All runs of one reward, on the panel's steps."""

    seeds: tuple[int, ...]
    """(runs,), rising."""
    values: Mapping[str, Array]
    """Per measurement that every run has: (runs, time)."""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Every reward's runs in one setting."""

    group: Group
    """What sets this setting apart; () where there is one."""
    steps: Array
    """(time,): every step at which a run was evaluated, up to the last that all runs reached."""
    rewards: Mapping[str, Runs]
    """In the order of the comparison."""
    measures: tuple[str, ...]
    """Measurements that all rewards have, ``score`` first."""
    cut_at: float | None
    """The step at which longer runs were cut, so that all had one budget; None if none was."""


def make_panels(curves: Sequence[Curve], *, kl_coef: float | None = None) -> list[Panel]:
    """Group curves by setting and put each group's on common steps.

    Between its own evaluations a run is interpolated linearly. Where the KL was measured and
    ``kl_coef`` is given, ``net_score`` = score - kl_coef * kl joins the measurements: what a PPO
    with that coefficient maximises.

    Args:
        curves: Runs without fault (`Curve.fault`).
        kl_coef: The KL coefficient the runs trained with.

    Raises:
        ValueError: if a run appears twice, or the runs of a group share fewer than two steps.
    """
    groups: dict[Group, list[Curve]] = {}
    for curve in curves:
        groups.setdefault(curve.group, []).append(curve)
    return [_panel(group, members, kl_coef) for group, members in groups.items()]


def _panel(group: Group, curves: Sequence[Curve], kl_coef: float | None) -> Panel:
    steps, cut_at = common_steps(curves)
    names = [name for name in curves[0].values if all(curve.has(name) for curve in curves)]
    rewards: dict[str, Runs] = {}
    for credit in dict.fromkeys(curve.credit for curve in curves):
        runs = sorted((c for c in curves if c.credit == credit), key=lambda c: c.seed)
        seeds = tuple(curve.seed for curve in runs)
        if len(set(seeds)) < len(seeds):
            twice = next(seed for seed in seeds if seeds.count(seed) > 1)
            raise ValueError(
                f"credit {credit!r} has two runs with seed {twice}; merge only runs of different "
                "rewards or seeds"
            )
        values = {
            name: np.stack([np.interp(steps, run.steps, run.values[name]) for run in runs])
            for name in names
        }
        if kl_coef is not None and "kl" in values:
            values["net_score"] = values["score"] - kl_coef * values["kl"]
        rewards[credit] = Runs(seeds=seeds, values=values)
    measured = [name for name in next(iter(rewards.values())).values if name not in SPENT]
    measured.sort(key=lambda name: name != "score")
    return Panel(group=group, steps=steps, rewards=rewards, measures=tuple(measured), cut_at=cut_at)


def common_steps(curves: Sequence[Curve]) -> tuple[Array, float | None]:
    """Return the steps of all curves within the range all cover, and where longer ones were cut.

    Raises:
        ValueError: if fewer than two steps are common.
    """
    first = max(float(curve.steps[0]) for curve in curves)
    last = min(float(curve.steps[-1]) for curve in curves)
    steps = np.unique(np.concatenate([curve.steps for curve in curves]))
    steps = steps[(steps >= first) & (steps <= last)]
    if len(steps) < 2:
        raise ValueError(
            f"the runs share {len(steps)} steps (from {first:g} to {last:g}); a curve needs at "
            "least two evaluations within the budget of the shortest run"
        )
    cut = any(float(curve.steps[-1]) > last for curve in curves)
    return steps, last if cut else None
