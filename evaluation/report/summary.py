"""The summary of a comparison as plain data: figures per reward and differences from the baseline.

It is a function of the curves and the level alone: each interval has its own generator with a fixed
seed, so the same curves give the same bytes.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from typing import Any

import numpy as np

from tokengym.base.text import sign_of
from tokengym.evaluation.measure.measures import Axis, measure_of
from tokengym.evaluation.measure.references import ReferenceSamples, score_range
from tokengym.evaluation.report.curves import Panel, Runs, figure, make_panels
from tokengym.evaluation.report.verdict import find_alarms, make_verdict, short_of_best
from tokengym.evaluation.statistics import (
    FEWEST_PAIRS,
    MIN_KL,
    RELIABLE_SEEDS,
    SHARES,
    Array,
    Curve,
    collapsed,
    holm,
    holm_level,
    improvement_interval,
    interval,
    iqm,
    paired_difference,
    pairs,
    probability_of_improvement,
    steps_to_shares,
    steps_to_threshold,
)
from tokengym.evaluation.statistics.curve import Group
from tokengym.evaluation.statistics.curves import censored_steps, relative_steps

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class SummarySettings:
    """Settings that the figures of learning curves depend on besides the curves."""

    kl_coef: float | None = None
    """The KL coefficient of the training, for ``net_score``."""
    anchors: Mapping[str, float] = field(default_factory=dict)
    """Score (and gold score) of the reference policy, at which a gain is 0; empty where it was not
    measured."""
    optimum: Mapping[str, float] = field(default_factory=dict)
    """Best possible score (or gold score), at which a gain is 1; empty where it is not known. With
    both, ``normalized_`` figures give the share of the way that runs came."""
    episodes: int | None = None
    """Responses behind each measurement of a run; None takes one to each reference prompt."""
    references: Mapping[Group, ReferenceSamples] = field(default_factory=dict)
    """Responses of the reference policy by group, for best-of-n and the optimum's lower bound; a
    group without them shows neither."""
    level: float = 0.95
    """Confidence level of the intervals."""
    baseline: str | None = None
    """Reward that the others are compared with; None takes the first. A group in which it has no
    run takes its own first."""
    failed: Sequence[Mapping[str, Any]] = ()
    """Runs that failed, as ``{"credit", "seed", "error", "group"}``."""
    missing: Sequence[Mapping[str, Any]] = ()
    """Runs that have not ended, likewise but for the error."""
    cautions: Sequence[str] = ()
    """Further sentences that each group says."""
    controls: Collection[str] = ()
    """Names of the rewards that do not read the text, which a rule must beat before it can be said
    to find the right tokens."""
    axis: Axis = "step"
    """Unit of the curves' steps: updates, where rewards are compared, or tokens, where learners
    are."""
    by_gold: bool = False
    """Whether ``score`` is the gold score, by which all runs are measured."""


def summarize(
    curves: Sequence[Curve], settings: SummarySettings = SummarySettings()
) -> dict[str, Any]:
    """Return the summary of learning curves.

    Args:
        curves: All runs; those with a fault are listed as failed and left out of the figures.
        settings: What the figures depend on besides.

    Returns:
        Data for JSON; FORMAT says which shape. Infinity stands for a threshold never reached.

    Raises:
        ValueError: if no run is without fault.
    """
    baseline, failed, kl_coef = settings.baseline, settings.failed, settings.kl_coef
    sound = [curve for curve in curves if not curve.invalid()]
    lost = [
        *failed,
        *(
            {"credit": c.credit, "seed": c.seed, "group": dict(c.group), "error": str(fault)}
            for c in curves
            if (fault := c.invalid())
        ),
    ]
    if not sound:
        error = f" (the first: {lost[0]['error']})" if lost else ""
        raise ValueError(f"no run to summarise, {len(lost)} failed{error}")
    others = [run["credit"] for run in (*failed, *settings.missing)]
    known = list(dict.fromkeys([c.credit for c in curves] + others))
    if baseline is not None and baseline not in known:
        raise ValueError(f"baseline {baseline!r} is none of the rewards: {', '.join(known)}")
    sound.sort(key=lambda curve: curve.credit != baseline)  # stable: the baseline comes first
    panels = make_panels(sound, kl_coef=kl_coef)
    summary: dict[str, Any] = {
        "format": FORMAT,
        "level": settings.level,
        "kl_coef": kl_coef,
        "axis": settings.axis,
        "by_gold": settings.by_gold,
        "anchors": {
            "reference": dict(settings.anchors) or None,
            "optimum": dict(settings.optimum) or None,
        },
        "failed": lost,
        "missing": list(settings.missing),
        "groups": [_summarize_panel(panel, settings) for panel in panels],
    }
    for group, panel in zip(summary["groups"], panels, strict=True):
        drawn = settings.references.get(panel.group)
        if drawn is not None:
            group["reference"] = drawn.lines(
                kl_coef, by_gold=settings.by_gold, episodes=settings.episodes
            )
            measure = "score" if kl_coef is None else "net_score"
            for entry in group["rewards"].values():
                if measure not in entry["figures"]:
                    continue
                ended = entry["figures"][measure]["final"]["iqm"]
                alarm = short_of_best(ended, group["reference"]["best_of_n"])
                entry["alarms"] += [] if alarm is None else [alarm._asdict()]
            _add_normalised_scores(panel, group, settings.level)
        _add_controls(panel, group, settings)
        group["failed"] = sum(run.get("group", {}) == group["group"] for run in lost)
        errors = [run["error"] for run in lost if run.get("group", {}) == group["group"]]
        group["failure"] = errors[0] if errors else ""
        group["can_retry"] = any(run.get("group", {}) == group["group"] for run in settings.failed)
        group["failed_seeds"] = _seeds_by_reward(lost, group)
        group["missing_seeds"] = _seeds_by_reward(settings.missing, group)
        group["axis"] = settings.axis
        group["wanted_baseline"] = baseline or known[0]
        group["verdict"] = make_verdict(group)
        group["verdict"]["cautions"] += settings.cautions
    return summary


def _summarize_panel(panel: Panel, settings: SummarySettings) -> dict[str, Any]:
    baseline, level, anchors = next(iter(panel.rewards)), settings.level, settings.anchors
    # The first point is the reference policy, before any update, where a curve begins at 0.
    score_anchor = anchors.get("score", panel.start)
    fewest = min(len(runs.seeds) for runs in panel.rewards.values())
    rewards = {}
    for name, runs in panel.rewards.items():
        entry: dict[str, Any] = {
            "runs": len(runs.seeds),
            "seeds": list(runs.seeds),
            "figures": _normalized(_figures(panel, runs, level), anchors, settings.optimum),
            "collapse_rate": float(
                np.mean([collapsed(curve["score"], score_anchor) for curve in runs.curves])
            ),
            "alarms": [
                alarm._asdict()
                for alarm in find_alarms(
                    {m: iqm(runs.values[m], 0)[runs.own_steps] for m in panel.measured(runs)},
                    runs.steps[runs.own_steps],
                    axis=settings.axis,
                    by_gold=settings.by_gold,
                )
            ],
        }
        rewards[name] = entry
        if name != baseline:
            entry["versus_baseline"] = _versus(panel, runs, panel.rewards[baseline], level)
    _add_differences(panel, rewards, level)
    summary = {
        "group": dict(panel.group),
        "baseline": baseline,
        "steps": [float(panel.steps[0]), float(panel.steps[-1])],
        "cut_at": panel.cut_at,
        "longest": panel.longest,
        "shortest": panel.shortest,
        "late": panel.late,
        "start": panel.start,
        "evaluations": len(panel.steps),
        "fewest_runs": fewest,
        "by_gold": settings.by_gold,
        "reliable": fewest >= RELIABLE_SEEDS,
        "measures": list(panel.measures),
        "lost": {name: list(rewards) for name, rewards in panel.lost.items()},
        "equal_kl": _end_kl(panel),
        "reference": None,
        "score_range": None,
        "rewards": rewards,
    }
    _add_steps_to_threshold(panel, summary, level)
    return summary


def _seeds_by_reward(
    runs: Sequence[Mapping[str, Any]], group: Mapping[str, Any]
) -> dict[str, list[int]]:
    """Return the seeds of a group's runs by their rewards."""
    seeds: dict[str, list[int]] = {}
    for run in runs:
        if run.get("group", {}) == group["group"]:
            seeds.setdefault(run["credit"], []).append(run["seed"])
    return seeds


AT_KL = ("score", "gold_score")
"""Measurements that are compared at equal KL too."""


def kinds(measure: str) -> tuple[str, ...]:
    """Return the numbers per run that are reported of a measurement."""
    return ("final", "auc") if measure_of(measure).ranked else ("final",)


def _end_kl(panel: Panel) -> float | None:
    """Return the KL where the baseline ends, the mean over its runs.

    There the others are compared with it. None if it is not known, or below `MIN_KL`.
    """
    baseline = next(iter(panel.rewards.values()))
    if "kl" not in baseline.values:
        return None
    kl = float(panel.per_run(baseline, "kl", "final").mean())
    return kl if kl >= MIN_KL else None


def families(panel: Panel) -> list[list[tuple[str, str]]]:
    """Return the measurements, and the numbers of each, whose differences are tested.

    Those of one family are corrected together: what a sentence says of the end it says of several
    measurements at once. Of the others each is a family. The KL over the run is one of them, though
    nobody is ranked by it: score minus the KL penalty over the run is score less this times the
    coefficient.
    """
    pairs = [(measure, kind) for measure in panel.measures for kind in kinds(measure)]
    ends = [pair for pair in pairs if pair[1] == "final" and measure_of(pair[0]).word]
    alone = [pair for pair in pairs if pair not in ends]
    if "kl" in panel.measures:
        alone += [("kl", "auc"), *((name, "at_kl") for name in AT_KL if name in panel.measures)]
    return [ends, *([pair] for pair in alone)]


def _figures(panel: Panel, runs: Runs, level: float) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for measure in panel.measured(runs):
        figures[measure] = {}
        for kind in kinds(measure):
            values = panel.per_run(runs, measure, kind)
            low, high = interval(values, level=level)
            figures[measure][kind] = {"iqm": iqm(values), "low": low, "high": high}
    return figures


def _normalized(
    figures: dict[str, Any], anchors: Mapping[str, float], optimum: Mapping[str, float]
) -> dict[str, Any]:
    """Add figures between the fixed anchors: (x - reference) / (optimum - reference).

    The anchors are never taken from the runs at hand, so that two comparisons stay comparable.
    """
    for name, best in optimum.items():
        if name in figures and name in anchors and best > anchors[name]:
            span = best - anchors[name]
            figures[f"normalized_{name}"] = {
                kind: {key: (value - anchors[name]) / span for key, value in figure.items()}
                for kind, figure in figures[name].items()
            }
    return figures


def _add_normalised_scores(panel: Panel, group: dict[str, Any], level: float) -> None:
    """Add every reward's normalised score, and the steps to shares of the range.

    normalised = (x - start) / (goal - start), start the mean of the curves before the first update

    Where the range may be noise, its reason stands in ``score_range`` and there are no figures.
    """
    measure = score_range(group["reference"], 0.0).measure
    if measure not in panel.measures or panel.steps[0] > 0:
        return
    having = {name: runs for name, runs in panel.rewards.items() if measure in runs.values}
    starts = np.concatenate([runs.values[measure][:, 0] for runs in having.values()])
    ends = score_range(group["reference"], float(starts.mean()))
    group["score_range"] = asdict(ends)
    if ends.noise is not None:
        return
    for name, runs in having.items():
        entry, rows = group["rewards"][name], runs.values[measure]
        figures = {measure: entry["figures"][measure]}
        normalised = _normalized(figures, {measure: ends.start}, {measure: ends.goal})
        entry["figures"]["normalised_score"] = normalised[f"normalized_{measure}"]
        arrivals = steps_to_shares(runs.steps, rows, ends.start, ends.goal)
        means = steps_to_shares(runs.steps, [iqm(rows, 0)], ends.start, ends.goal)
        entry["steps_to_shares"] = {
            f"{share:g}": asdict(censored_steps(row, float(runs.steps[-1]), level))
            | {"iqm_curve": float(mean)}
            for share, row, (mean,) in zip(SHARES, arrivals, means, strict=True)
        }


def _versus(panel: Panel, runs: Runs, baseline: Runs, level: float) -> dict[str, Any]:
    """Return the probability of improvement over the baseline and the relative speed."""
    improvement: dict[str, Any] = {}
    both = panel.measured(runs, baseline)
    # Runs that are no pairs are compared over the steps that all of the two rewards reached.
    first = max(runs.steps[0], baseline.steps[0])
    last = min(runs.steps[-1], baseline.steps[-1])
    for measure in both:
        for kind in ("final", "auc") if measure_of(measure).ranked else ():
            x, y = (
                [figure(curve.between(first, last), measure, kind) for curve in each.curves]
                for each in (runs, baseline)
            )
            low, high = improvement_interval(x, y, level)
            improvement.setdefault(measure, {})[kind] = {
                "probability": probability_of_improvement(x, y),
                "low": low,
                "high": high,
            }
    speed, paired = {}, pairs(runs.by_seed, baseline.by_seed)
    if paired:  # on the steps that all of these pairs have
        grid = np.union1d(runs.steps, baseline.steps)
        x_runs, y_runs = (Runs.of(each, grid) for each in zip(*paired, strict=True))
        for measure in ("score", "net_score"):
            if measure in both:
                rows = x_runs.values[measure], y_runs.values[measure]
                compared = relative_steps(x_runs.steps, *rows, level, end=y_runs.at_end)
                speed[measure] = None if compared is None else asdict(compared)
    return {
        "differences": {},
        "probability_of_improvement": improvement,
        "relative_steps": speed.get("score"),
        "relative_steps_net": speed.get("net_score"),
    }


def _pairs(one: Runs, other: Runs, measure: str, kind: str) -> tuple[Array, Array]:
    """Return a number of the runs of the seeds that both have, (pairs,) each.

    Each pair is compared over the steps that both of its runs reached, see `pairs`.
    """
    both = pairs(one.by_seed, other.by_seed)
    x, y = (np.array([figure(pair[side], measure, kind) for pair in both]) for side in (0, 1))
    return x, y


def _add_differences(panel: Panel, rewards: Mapping[str, dict[str, Any]], level: float) -> None:
    """Add each reward's paired differences from the baseline, the first, and which are clear.

    The verdict is corrected over the rewards and over what belongs to one family, see `families`,
    and so is the level of the intervals. Neither fewer than `RELIABLE_SEEDS` pairs nor a difference
    that is printed as 0 is clear.
    """
    baseline, *others = panel.rewards
    shared = {name: panel.measured(panel.rewards[baseline], panel.rewards[name]) for name in others}
    at_kl = {
        name: _at_kl(panel, name, rewards, level) if "kl" in shared[name] else {} for name in others
    }
    for measure in AT_KL if any(at_kl.values()) else ():
        if figures := rewards[baseline]["figures"].get(measure):
            figures["at_kl"] = figures["final"]  # the others are read at the KL where it ends

    def numbers(measure: str, kind: str, name: str) -> tuple[Array, Array]:
        """Return what the runs of a reward and of the baseline have, (pairs,); none if unknown."""
        if kind == "at_kl":
            return at_kl[name].get(measure, (np.array([]), np.array([])))
        if measure not in shared[name]:
            return np.array([]), np.array([])
        return _pairs(panel.rewards[name], panel.rewards[baseline], measure, kind)

    for family in families(panel):
        compared = {
            (measure, kind, name): values
            for (measure, kind), name in product(family, others)
            if len((values := numbers(measure, kind, name))[0])
        }
        if not compared:
            continue
        # First the p-values of all together, which say how much wider intervals must be.
        adjusted = holm([paired_difference(x, y).p_value for x, y in compared.values()])
        for ((measure, kind, name), (x, y)), p_value in zip(
            compared.items(), adjusted, strict=True
        ):
            difference = paired_difference(x, y, holm_level(adjusted, level))
            is_clear = p_value < 1.0 - level and difference.pairs >= RELIABLE_SEEDS
            differences = rewards[name]["versus_baseline"]["differences"]
            differences.setdefault(measure, {})[kind] = {
                **asdict(difference),
                "p_adjusted": float(p_value),
                "clear": sign_of(difference.difference) if is_clear else 0,
            }


def _at_kl(
    panel: Panel, name: str, rewards: Mapping[str, dict[str, Any]], level: float
) -> dict[str, tuple[Array, Array]]:
    """Return, by measurement, what the runs of a reward and of the baseline have at equal KL.

    Each pair is compared at the KL where its run of the baseline ends, see
    `tokengym.evaluation.statistics.compare_at_kl`; over the pairs that are known, {} below
    `FEWEST_PAIRS`. How many those are, at which KL and after which step, is added to the reward's
    ``versus_baseline``, and what it has there to its figures.
    """
    runs, base = panel.rewards[name], panel.rewards[next(iter(panel.rewards))]
    both, short = pairs(runs.by_seed, base.by_seed), 0
    known: list[tuple[Curve, Curve, tuple[float, float, float]]] = []
    if not both:
        return {}
    for x, y in both:
        end = y.at_end()
        if end.kl >= MIN_KL and (at := x.at_kl(end.kl)) is not None:
            known.append((x, y, (end.kl, at.step, end.step)))
        else:
            short += bool(x["kl"].max() < end.kl)
    enough = len(known) >= FEWEST_PAIRS
    means = np.mean([at for *_, at in known], axis=0).tolist() if enough else [None] * 3
    rewards[name]["versus_baseline"]["at_kl"] = {
        "pairs": len(known),
        "of": len(both),
        "short": short,
        **dict(zip(("kl", "step", "baseline_step"), means, strict=True)),
    }
    found = {}
    for measure in AT_KL if enough else ():
        if measure in panel.measured(runs, base):
            there = [x.at_kl(kl, measure) for x, _, (kl, *_) in known]
            values = np.array([at.value for at in there if at is not None])
            found[measure] = values, np.array([y.end(measure) for _, y, _ in known])
            low, high = interval(values, level=level)
            at_kl = {"iqm": iqm(values), "low": low, "high": high}
            rewards[name]["figures"][measure]["at_kl"] = at_kl
    return found


def _add_controls(panel: Panel, group: dict[str, Any], settings: SummarySettings) -> None:
    """Add the controls, and to each rule those that it is not clearly ahead of over the run.

    All must be beaten before a rule is said to find the right tokens, so that no correction for
    their number is due (an intersection-union test).
    """
    _, *others = panel.rewards
    group["controls"] = [name for name in others if name in settings.controls]
    for name in [name for name in others if name not in settings.controls]:
        unbeaten = group["rewards"][name]["unbeaten_controls"] = []
        for control in group["controls"]:
            x, y = _pairs(panel.rewards[name], panel.rewards[control], "score", "auc")
            gap = paired_difference(x, y, settings.level) if len(x) >= RELIABLE_SEEDS else None
            if gap is None or gap.p_value >= 1.0 - settings.level or sign_of(gap.difference) <= 0:
                unbeaten.append(control)


def _add_steps_to_threshold(panel: Panel, summary: dict[str, Any], level: float) -> None:
    """Add every reward's steps to where the baseline's interquartile mean curve ends."""
    baseline = panel.rewards[summary["baseline"]]
    curve = iqm(baseline.values["score"], 0)
    threshold = float(curve[baseline.at_end].mean())
    summary["threshold"] = threshold
    summary["baseline_rises"] = bool(threshold > curve[0])
    for name, runs in panel.rewards.items():
        steps = [
            steps_to_threshold(runs.steps, row, threshold, interpolate=True)
            for row in runs.values["score"]
        ]
        censored = censored_steps(steps, float(runs.steps[-1]), level)
        mean = steps_to_threshold(
            runs.steps, iqm(runs.values["score"], 0), threshold, interpolate=True
        )
        summary["rewards"][name]["steps_to_threshold"] = {**asdict(censored), "iqm_curve": mean}
