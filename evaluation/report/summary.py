"""The summary of a comparison as plain data: figures per reward and differences from the baseline.

It is a function of the curves and the level alone: the same curves give the same bytes.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from typing import Any

import numpy as np

from tokengym.base.settings import check_number
from tokengym.base.text import sign_of
from tokengym.evaluation.measure.measures import Axis, measure_of, measures_of
from tokengym.evaluation.measure.references import MIN_ERRORS, ReferenceSamples, score_range
from tokengym.evaluation.report.curves import Panel, Runs, make_panels
from tokengym.evaluation.report.verdict import find_alarms, make_verdict, short_of_best
from tokengym.evaluation.statistics import (
    DEFAULT_LEVEL,
    MIN_KL,
    RELIABLE_SEEDS,
    Array,
    Curve,
    collapsed,
    holm,
    holm_level,
    improvement_interval,
    paired_difference,
    pairs,
    probability_of_improvement,
    relative_steps,
    student_interval,
)
from tokengym.evaluation.statistics.curve import GroupKey, on_one_grid, scored_alike
from tokengym.evaluation.statistics.frontier import (
    FEWEST_PAIRS,
    There,
    at_level,
    both_there,
    earlier,
    there,
)
from tokengym.evaluation.statistics.series import error_of_mean, jitter

FORMAT = 2
KINDS = ("final", "auc")
"""Numbers per run: the mean at its end, and over all of it."""
GAINS = ("start", "gain")
"""Numbers of the score besides, by which a verdict says whether a lead is one of speed."""
AT_KL = ("score", "gold_score")
"""Measurements that are compared at equal KL too."""
KL_OVER_THE_RUN = "kl", "auc"
SHARE_OF_KL = 0.1
"""Share of the error of 1 - level that a difference in KL over the run may have. The headline says
"drifts less" of it beside what it says of the speed, which keeps its level. Of equal rewards at
95 % the two are false in 5.2 % of reports, where two tests of one level are in 7.4 %."""
Pairs = Sequence[tuple[Curve, Curve]]
"""Runs of a reward with those of the baseline of the same seeds, see `pairs`."""
Numbers = dict[tuple[str, str], tuple[Array, Array]]
"""By measurement and kind, what the two runs of each pair have, (pairs,) each."""


@dataclass(frozen=True, kw_only=True)
class SummarySettings:
    """Settings that the figures of learning curves depend on besides the curves.

    Raises:
        ValueError: if the level is out of range.
    """

    kl_coef: float | None = None
    """The KL coefficient of the training, for ``net_score``."""
    anchors: Mapping[str, float] = field(default_factory=dict)
    """Score (and gold score) of the reference policy, at which a gain is 0; empty where it was not
    measured."""
    optimum: Mapping[str, float] = field(default_factory=dict)
    """Best possible score (or gold score), at which a gain is 1; empty where it is not known. With
    both, ``normalised_`` figures give the share of the way that runs came."""
    episodes: int | None = None
    """Responses behind each measurement of a run; None takes one to each reference prompt."""
    own_prompts: bool = False
    """Whether each seed is measured on its own random subset of the held-out prompts."""
    references: Mapping[GroupKey, ReferenceSamples] = field(default_factory=dict)
    """Responses of the reference policy by group, for best-of-n and the optimum's lower bound; a
    group without them shows neither."""
    level: float = DEFAULT_LEVEL
    """Confidence level of the intervals, in (0, 1)."""
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
    logged: Mapping[str, str] = field(default_factory=dict)
    """Of curves made elsewhere what measurements were read from, such as ``column reward of
    trainer_state.json``: nobody knows more of them. Such a KL is compared with no other."""
    of_tools: bool = False
    """Whether the curves are the logs of other tools, whose arms need not be rewards."""

    def __post_init__(self) -> None:
        check_number(self, "level", above=0.0, below=1.0, hint=f"{DEFAULT_LEVEL} is usual")


def summarize(
    curves: Sequence[Curve], settings: SummarySettings = SummarySettings()
) -> dict[str, Any]:
    """Return the summary of learning curves.

    Figures of a reward are of its whole runs. Each difference is over the steps, or tokens, that
    both runs of a pair reached, so that runs may differ in length.

    A step at which a run has no score is left out of all runs of its seed, and counted.

    Args:
        curves: All runs; those with a fault are listed as failed and left out of the figures.
        settings: What the figures depend on besides.

    Returns:
        Data for JSON; FORMAT says which shape.

    Raises:
        ValueError: if no run is without fault.
    """
    baseline = settings.baseline
    sound = scored_alike(curves)
    lost = [
        *settings.failed,
        *(
            {"credit": c.credit, "seed": c.seed, "group": dict(c.group), "error": fault}
            for c in curves
            if (fault := c.invalid())
        ),
    ]
    if not sound:
        error = f" (the first: {lost[0]['error']})" if lost else ""
        raise ValueError(f"no run to summarise, {len(lost)} failed{error}")
    others = [run["credit"] for run in (*settings.failed, *settings.missing)]
    known = list(dict.fromkeys([c.credit for c in curves] + others))
    if baseline is not None and baseline not in known:
        raise ValueError(f"baseline {baseline!r} is none of the rewards: {', '.join(known)}")
    sound.sort(key=lambda curve: curve.credit != baseline)  # stable: the baseline comes first
    panels = make_panels(sound, kl_coef=settings.kl_coef, axis=settings.axis)
    groups = [
        _group(panel, settings, lost, _unscored(curves, panel.group), baseline or known[0])
        for panel in panels
    ]
    return {
        "format": FORMAT,
        "level": settings.level,
        "kl_coef": settings.kl_coef,
        "axis": settings.axis,
        "by_gold": settings.by_gold,
        "own_prompts": settings.own_prompts,
        "logged": dict(settings.logged),
        "of_tools": settings.of_tools,
        "anchors": {
            "reference": dict(settings.anchors) or None,
            "optimum": dict(settings.optimum) or None,
        },
        "failed": lost,
        "missing": list(settings.missing),
        "measurements": _meanings(groups, settings),
        "groups": groups,
    }


def _meanings(
    groups: Sequence[Mapping[str, Any]], settings: SummarySettings
) -> dict[str, dict[str, str]]:
    """Return what each measurement of these groups means, and how sure it is, by name."""
    entries = [entry for group in groups for entry in group["rewards"].values()]
    names = dict.fromkeys(name for entry in entries for name in entry["figures"])
    table = measures_of(settings.by_gold, settings.logged, own_prompts=settings.own_prompts)
    return {name: table[name].as_dict() for name in names if name in table}


def _unscored(curves: Iterable[Curve], group: GroupKey) -> list[dict[str, Any]]:
    """Return where valid runs of a group have no score, by run."""
    return [
        {"credit": c.credit, "seed": c.seed, "steps": c.unscored.tolist()}
        for c in curves
        if c.group == group and len(c.unscored) and not c.invalid()
    ]


def _group(
    panel: Panel,
    settings: SummarySettings,
    lost: Sequence[Mapping[str, Any]],
    unscored: Sequence[Mapping[str, Any]],
    wanted: str,
) -> dict[str, Any]:
    """Return the figures and the verdict of one setting, and which of its runs are not in them."""
    reference = None
    if (drawn := settings.references.get(panel.group)) is not None:
        seeds = {c.seed for runs in panel.rewards.values() for c in runs.curves}
        reference = drawn.lines(
            settings.kl_coef,
            by_gold=settings.by_gold,
            episodes=settings.episodes,
            seeds=len(seeds) if settings.own_prompts else 0,
        )
    rewards = {
        name: _figures(panel, runs, settings, reference) for name, runs in panel.rewards.items()
    }
    _add_comparisons(panel, rewards, settings)
    fewest = min(entry["runs"] for entry in rewards.values())
    group: dict[str, Any] = {
        "group": dict(panel.group),
        "baseline": next(iter(panel.rewards)),
        "steps": [float(panel.steps[0]), float(panel.steps[-1])],
        "cut_at": panel.cut_at,
        "longest": panel.longest,
        "shortest": panel.shortest,
        "late": [late._asdict() for late in panel.late],
        "ended_early": {
            name: {
                "seeds": list(seeds),
                "first": min(float(c.steps[-1]) for c in panel.rewards[name].curves),
            }
            for name, seeds in panel.ended_early.items()
        },
        "start": panel.start,
        "tokens": {} if settings.axis == "tokens" else _tokens(panel),
        "evaluations": len(panel.steps),
        "fewest_runs": fewest,
        "by_gold": settings.by_gold,
        "own_prompts": settings.own_prompts,
        "logged": dict(settings.logged),
        "of_tools": settings.of_tools,
        "reliable": fewest >= RELIABLE_SEEDS,
        "measures": list(panel.measures),
        "lost": {name: list(lacking) for name, lacking in panel.lost.items()},
        "equal_kl": None if "kl" in settings.logged else _end_kl(panel),
        "reference": reference,
        "score_range": None,
        "rewards": rewards,
    }
    if reference is not None:
        _add_normalised_scores(panel, group)
    _add_controls(panel, group, settings)
    failed, retried, missing = (
        [run for run in runs if run.get("group", {}) == group["group"]]
        for runs in (lost, settings.failed, settings.missing)
    )
    group |= {
        "failed": len(failed),
        "failure": failed[0]["error"] if failed else "",
        "can_retry": bool(retried),
        "failed_seeds": _seeds_by_reward(failed),
        "missing_seeds": _seeds_by_reward(missing),
        "unscored": list(unscored),
        "axis": settings.axis,
        "wanted_baseline": wanted,
    }
    group["verdict"] = make_verdict(group)
    group["verdict"]["cautions"] += settings.cautions
    return group


def _tokens(panel: Panel) -> dict[str, float]:
    """Return the tokens that a run of each reward has sampled at the last common step.

    {} where some reward's are not known.
    """
    sampled = {
        name: float(runs.values["tokens"][:, runs.steps == panel.steps[-1]].mean())
        for name, runs in panel.rewards.items()
        if "tokens" in runs.values
    }
    return sampled if len(sampled) == len(panel.rewards) else {}


def _seeds_by_reward(runs: Sequence[Mapping[str, Any]]) -> dict[str, list[int]]:
    seeds: dict[str, list[int]] = {}
    for run in runs:
        seeds.setdefault(run["credit"], []).append(run["seed"])
    return seeds


def _end_kl(panel: Panel) -> float | None:
    """Return the KL where the baseline ends, the mean over its runs.

    There the others are compared with it. None if it is not known, or below `MIN_KL`.
    """
    baseline = next(iter(panel.rewards.values()))
    if "kl" not in baseline.values:
        return None
    kl = float(baseline.figures("kl", "final").mean())
    return kl if kl >= MIN_KL else None


# --- figures of a reward --------------------------------------------------------------------------


def kinds_of(measure: str) -> tuple[str, ...]:
    """Return the numbers per run that are reported of a measurement."""
    return KINDS if measure_of(measure).ranked else KINDS[:1]


def _figures(
    panel: Panel, runs: Runs, settings: SummarySettings, reference: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return what a reward's runs are by themselves."""
    figures: dict[str, Any] = {}
    for measure in panel.measured(runs):
        figures[measure] = {
            kind: _estimate(runs.figures(measure, kind), settings.level)
            for kind in kinds_of(measure)
        }
    measuring = _errors(runs.curves, figures, own_prompts=settings.own_prompts)
    for name, (start, best) in _spans(panel, settings).items():
        if name in figures:
            figures[f"normalised_{name}"] = _normalised(figures[name], start, best)
            if name in measuring:
                measuring[f"normalised_{name}"] = _of_span(measuring[name], best - start)
    learns = _learns(runs.curves, settings.level)
    # The first point is the reference policy, before any update, where a curve begins at 0.
    anchor, own = settings.anchors.get("score", panel.start), runs.own_steps
    means = {
        measure: runs.values[measure].mean(axis=0)[own]
        for measure in panel.measured(runs)
        if measure != "kl" or "kl" not in settings.logged  # nats per update are no nats per token
    }
    alarms = find_alarms(means, runs.steps[own], axis=settings.axis, by_gold=settings.by_gold)
    maximised = "score" if settings.kl_coef is None else "net_score"
    weighed = all(curve.is_weighed for curve in runs.curves)
    if reference is not None and weighed and maximised in figures:
        alarm = short_of_best(figures[maximised]["final"]["mean"], reference["best_of_n"])
        alarms += [alarm] if alarm else []
    return {
        "runs": len(runs.curves),
        "seeds": list(runs.by_seed),
        "figures": figures,
        "learns": learns,
        "measuring": measuring,
        "collapse_rate": _collapse_rate(runs.curves, anchor) if learns else 0.0,
        "alarms": [alarm._asdict() for alarm in alarms],
    }


def _learns(curves: Sequence[Curve], level: float) -> int:
    """Return 1 or -1 if the mean over the run is clearly above or below the runs' own starts."""
    gain = paired_difference([c.figure("score", "gain") for c in curves], [0.0] * len(curves))
    return sign_of(gain.difference) if gain.p_value < 1.0 - level else 0


def _collapse_rate(curves: Sequence[Curve], anchor: float) -> float:
    """Return the share of runs that collapsed, by the noise of all.

    It is asked of an arm that is shown to move alone: flat runs that wander would seem to.
    """
    deviation = jitter([curve["score"] for curve in curves])
    return float(np.mean([collapsed(curve["score"], anchor, deviation) for curve in curves]))


def _spans(panel: Panel, settings: SummarySettings) -> dict[str, tuple[float, float]]:
    """Return by measurement the reference policy's score and the best one, where shares are shown.

    best - start > MIN_ERRORS * error of the start

    Else, or where nobody knows the error, a share of the span may be any number.
    """
    spans = {}
    for name, best in settings.optimum.items():
        start = settings.anchors.get(name)
        error = _error_of_start(panel, name, own_prompts=settings.own_prompts)
        if start is not None and error is not None and best - start > MIN_ERRORS * error:
            spans[name] = start, best
    return spans


def _error_of_start(panel: Panel, name: str, *, own_prompts: bool) -> float | None:
    """Return the standard error of the reference policy's mean over seeds; None: not known.

    It is over the responses of the first evaluation, which arms of a seed share, or where these
    were not kept, over seeds that have each their own.
    """
    first: dict[int, Curve] = {}
    for curve in (c for runs in panel.rewards.values() for c in runs.curves):
        if curve.steps[0] == 0 and name in curve.values:
            first.setdefault(curve.seed, curve)
    tables = [curve.responses[name][0] for curve in first.values() if name in curve.responses]
    if tables and len(tables) == len(first):
        return _error_over_seeds(tables, own_prompts=own_prompts)
    return error_of_mean([curve[name][0] for curve in first.values()]) if own_prompts else None


def _errors(
    curves: Sequence[Curve], measures: Iterable[str], *, own_prompts: bool
) -> dict[str, dict[str, float]]:
    """Return the standard errors of measuring of a reward's figures, over prompts and draws.

    They are of the measurements whose single responses were kept, see `_error_over_seeds`.
    """
    errors: dict[str, dict[str, float]] = {}
    for measure, kind in product(measures, KINDS):
        of_runs = [curve.of_prompts(measure, kind) for curve in curves]
        known = [row for row in of_runs if row is not None]
        if known and len(known) == len(of_runs):
            size = _error_over_seeds(known, own_prompts=own_prompts)
            if size is not None:
                errors.setdefault(measure, {})[kind] = size
    return errors


def _error_of_pairs(both: Pairs, measure: str, kind: str, *, own_prompts: bool) -> float | None:
    """Return the standard error of measuring of a mean difference, paired by seed and prompt."""
    differences: list[Array] = []
    for pair in both:
        x, y = (curve.of_prompts(measure, kind) for curve in pair)
        if x is None or y is None or x.shape != y.shape:
            return None
        differences.append(x - y)
    return _error_over_seeds(differences, own_prompts=own_prompts) if differences else None


def _error_over_seeds(rows: Sequence[Array], *, own_prompts: bool) -> float | None:
    """Return the standard error of measuring of a mean over seeds; None where one is not known.

    Of prompts of its own each seed has an error, which are independent: the root of their mean
    square, divided by the root of their number. Prompts that all seeds have leave an error that
    more seeds do not make smaller: that of the mean over seeds at each prompt.

    Args:
        rows: Per seed a number for each prompt, (prompts,), NaN where there is none.
        own_prompts: Whether each seed has its own.
    """
    if not own_prompts and len({len(row) for row in rows}) == 1:
        table = np.array(rows)
        counts = np.isfinite(table).sum(axis=0)
        return error_of_mean(np.nansum(table, axis=0)[counts > 0] / counts[counts > 0])
    errors = [error for row in rows if (error := error_of_mean(row)) is not None]
    if len(errors) < len(rows):
        return None
    return float(np.sqrt(np.mean(np.square(errors)) / len(errors)))


def _estimate(values: Array, level: float) -> dict[str, float]:
    """Return the mean of a number per run with its interval."""
    mean, low, high, _ = map(float, student_interval(values, level))
    return {"mean": mean, "low": low, "high": high}


def _normalised(figures: Mapping[str, Any], start: float, goal: float) -> dict[str, Any]:
    """Return figures between fixed ends: (x - start) / (goal - start).

    The ends are never taken from the runs at hand, so that two comparisons stay comparable.
    """
    return {
        kind: {key: (value - start) / (goal - start) for key, value in figure.items()}
        for kind, figure in figures.items()
    }


def _of_span(errors: Mapping[str, float], span: float) -> dict[str, float]:
    """Return standard errors of figures between fixed ends."""
    return {kind: error / span for kind, error in errors.items()}


def _add_normalised_scores(panel: Panel, group: dict[str, Any]) -> None:
    """Add every reward's normalised score.

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
    for name in having:
        entry = group["rewards"][name]
        figures = _normalised(entry["figures"][measure], ends.start, ends.goal)
        entry["figures"]["normalised_score"] = figures
        if measure in entry["measuring"]:
            size = _of_span(entry["measuring"][measure], ends.goal - ends.start)
            entry["measuring"]["normalised_score"] = size


# --- comparisons with the baseline ----------------------------------------------------------------


def _add_comparisons(
    panel: Panel, rewards: Mapping[str, dict[str, Any]], settings: SummarySettings
) -> None:
    """Add to each reward but the first, the baseline, how it compares with it."""
    level, own_prompts = settings.level, settings.own_prompts
    baseline, *others = panel.rewards
    base = panel.rewards[baseline]
    numbers: dict[str, Numbers] = {}
    end_kl = None if "kl" in settings.logged else _end_kl(panel)
    for measure, values in _baseline_at_kl(base, panel.measured(base), end_kl).items():
        rewards[baseline]["figures"][measure]["at_kl"] = _estimate(values, level)
    for name in others:
        runs, entry = panel.rewards[name], rewards[name]
        whole, shared = pairs(runs.by_seed, base.by_seed), panel.measured(base, runs)
        both = [(x, y) for x, y in map(on_one_grid, whole)]
        versus = entry["versus_baseline"] = _versus(runs, base, both, shared, level)
        versus["unlike_steps"] = any(
            len(x.steps) < len(of_x.steps) or len(y.steps) < len(of_y.steps)
            for (x, y), (of_x, of_y) in zip(both, whole, strict=True)
        )
        if both and not panel.ended_early.keys().isdisjoint((name, baseline)):
            versus |= _unequal(runs, base, level)
        kinds = list(product(shared if both else (), KINDS))
        gains = [("score", kind) for kind in GAINS] if both else []
        numbers[name] = {of: _numbers(both, *of) for of in (*kinds, *gains)}
        errors = {of: _error_of_pairs(both, *of, own_prompts=own_prompts) for of in kinds}
        versus["measuring"] = _nested({of: e for of, e in errors.items() if e is not None})
        if both and "kl" in shared and "kl" not in settings.logged:
            versus["at_kl"], at_kl = _at_kl(whole, shared, end_kl)
            numbers[name] |= at_kl
            for (measure, kind), (values, _) in at_kl.items():
                entry["figures"][measure][kind] = _estimate(values, level)
    for family in families(panel):
        _add_differences(family, numbers, rewards, level)
    for name in others:
        versus = rewards[name]["versus_baseline"]
        unsure = {*KINDS, "gain"} if "carried" in versus else set[str]()
        if versus.get("at_kl", {}).get("earlier"):
            unsure.add("at_kl")
        _withhold(versus["differences"], unsure)


def _nested(errors: Mapping[tuple[str, str], float]) -> dict[str, dict[str, float]]:
    nested: dict[str, dict[str, float]] = {}
    for (measure, kind), error in errors.items():
        nested.setdefault(measure, {})[kind] = error
    return nested


def _unequal(runs: Runs, base: Runs, level: float) -> dict[str, Any]:
    """Return what stands beside differences of runs some of which ended early: no chances.

    ``carried`` is the difference in score over the longest run, the last value of a shorter one
    carried forward.
    """
    longest = max(float(curve.steps[-1]) for curve in (*runs.curves, *base.curves))
    whole = [
        {seed: curve.carried(longest) for seed, curve in each.by_seed.items()}
        for each in (runs, base)
    ]
    carried = paired_difference(*_numbers(pairs(*whole), "score", "auc"), level)
    return {
        "carried": {**asdict(carried), "to": longest},
        "probability_of_improvement": {},
        "relative_steps": None,
        "relative_steps_net": None,
    }


def _withhold(
    differences: Mapping[str, Mapping[str, dict[str, Any]]], kinds: Collection[str]
) -> None:
    """Call no difference of these kinds clear.

    Over the run and at the end only the runs that lasted are read where some ended early. At equal
    KL a policy that trained for longer may have more for that alone.
    """
    for of_measure in differences.values():
        for kind in of_measure.keys() & set(kinds):
            of_measure[kind]["clear"] = 0


def _add_differences(
    family: Sequence[tuple[str, str]],
    numbers: Mapping[str, Numbers],
    rewards: Mapping[str, dict[str, Any]],
    level: float,
) -> None:
    """Add the differences, paired by seed, of the numbers of a family, and which are clear.

    The verdict is corrected over the rewards and over the family, and so is the level of the
    intervals. Neither fewer than `RELIABLE_SEEDS` pairs nor a difference that is printed as 0 is
    clear. The KL over the run is tested at `SHARE_OF_KL` of the error.
    """
    if family == [KL_OVER_THE_RUN]:
        level = 1.0 - SHARE_OF_KL * (1.0 - level)
    keys = [(of, name) for of, name in product(family, numbers) if of in numbers[name]]
    if not keys:
        return
    # First the p-values of all together, which say how much wider intervals must be.
    adjusted = holm([paired_difference(*numbers[name][of]).p_value for of, name in keys])
    corrected = holm_level(adjusted, level)
    for ((measure, kind), name), p_value in zip(keys, adjusted, strict=True):
        difference = paired_difference(*numbers[name][measure, kind], corrected)
        is_clear = p_value < 1.0 - level and difference.pairs >= RELIABLE_SEEDS
        differences = rewards[name]["versus_baseline"]["differences"]
        differences.setdefault(measure, {})[kind] = {
            **asdict(difference),
            "p_adjusted": float(p_value),
            "clear": sign_of(difference.difference) if is_clear else 0,
        }


def families(panel: Panel) -> list[list[tuple[str, str]]]:
    """Return the measurements, and the numbers of each, whose differences are tested.

    Those of one family are corrected together: what a sentence says of the end it says of several
    measurements at once. Of the others each is a family. The KL over the run is one of them, though
    nobody is ranked by it: score minus the KL penalty over the run is score less this times the
    coefficient.
    """
    numbers = [(measure, kind) for measure in panel.measures for kind in kinds_of(measure)]
    ends = [pair for pair in numbers if pair[1] == "final" and measure_of(pair[0]).word]
    alone = [pair for pair in numbers if pair not in ends]
    alone += [("score", kind) for kind in GAINS]
    if "kl" in panel.measures:
        alone += [KL_OVER_THE_RUN, *((name, "at_kl") for name in AT_KL if name in panel.measures)]
    return [ends, *([pair] for pair in alone)]


def _numbers(both: Pairs, measure: str, kind: str) -> tuple[Array, Array]:
    """Return a number of each pair's two runs, (pairs,) each."""
    x, y = (np.array([pair[side].figure(measure, kind) for pair in both]) for side in (0, 1))
    return x, y


def _baseline_at_kl(base: Runs, measured: Sequence[str], kl: float | None) -> dict[str, Array]:
    """Return what the baseline's runs have at the KL where they end, by measurement, (runs,)."""
    found = {}
    for measure in (name for name in AT_KL if name in measured):
        if kl is None:
            continue
        runs = [there(curve, kl, measure) for curve in base.curves]
        if known := [run for run in runs if run is not None]:
            found[measure] = at_level(known, kl)
    return found


def _at_kl(both: Pairs, shared: Sequence[str], kl: float | None) -> tuple[dict[str, Any], Numbers]:
    """Return how the pairs stand at the KL where the baseline ends, and their numbers there.

    How many pairs were there, at which KL and after which step each side was, and whether one was
    there `earlier`, stands beside the numbers, which fewer than `FEWEST_PAIRS` do not have.
    """
    found = {m: both_there(both, kl, m) for m in AT_KL if m in shared} if kl is not None else {}
    sides: list[tuple[There, ...]] = [*zip(*found.get("score", []), strict=True)]
    counts: dict[str, Any] = {"pairs": len(sides[0]) if sides else 0, "of": len(both)}
    is_enough = counts["pairs"] >= FEWEST_PAIRS
    for side, runs in zip(("", "baseline_"), sides if is_enough else ((), ()), strict=True):
        for name in ("kl", "step"):
            known = [getattr(run, name) for run in runs]
            counts[f"{side}{name}"] = float(np.mean(known)) if known else None
    counts["earlier"] = earlier(found["score"]) if is_enough else 0
    if not is_enough or kl is None:
        return counts, {}
    numbers = {}
    for measure, pairs_there in found.items():
        x, y = zip(*pairs_there, strict=True)
        numbers[measure, "at_kl"] = at_level(x, kl), at_level(y, kl)
    return counts, numbers


def _versus(
    runs: Runs, baseline: Runs, both: Pairs, shared: Sequence[str], level: float
) -> dict[str, Any]:
    """Return the probability of improvement over the baseline and the relative speed."""
    improvement: dict[str, Any] = {}
    # Runs that are no pairs are compared over the steps that all of the two rewards reached.
    first = max(runs.steps[0], baseline.steps[0])
    last = min(runs.steps[-1], baseline.steps[-1])
    every = (*runs.curves, *baseline.curves)
    whole = on_one_grid([curve.between(first, last) for curve in every])
    count = len(runs.curves)
    for measure in shared:
        for kind in kinds_of(measure) if measure_of(measure).ranked else ():
            figures = [curve.figure(measure, kind) for curve in whole]
            x, y = figures[:count], figures[count:]
            low, high = improvement_interval(x, y, level)
            improvement.setdefault(measure, {})[kind] = {
                "probability": probability_of_improvement(x, y),
                "low": low,
                "high": high,
            }
    speed: dict[str, Any] = {}
    if both:  # on the steps that all of these pairs have
        grid = np.union1d(runs.steps, baseline.steps)
        x_runs, y_runs = (Runs.of(each, grid) for each in zip(*both, strict=True))
        for measure in ("score", "net_score"):
            if measure in shared:
                rows = x_runs.values[measure], y_runs.values[measure]
                compared = relative_steps(x_runs.steps, *rows, level, end=y_runs.at_end)
                speed[measure] = None if compared is None else asdict(compared)
    return {
        "differences": {},
        "probability_of_improvement": improvement,
        "relative_steps": speed.get("score"),
        "relative_steps_net": speed.get("net_score"),
    }


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
            whole = pairs(panel.rewards[name].by_seed, panel.rewards[control].by_seed)
            both = [(x, y) for x, y in map(on_one_grid, whole)]
            x, y = _numbers(both, "score", "auc")
            has_ended = {name, control} & panel.ended_early.keys()
            is_enough = len(x) >= RELIABLE_SEEDS and not has_ended
            gap = paired_difference(x, y, settings.level) if is_enough else None
            if gap is None or gap.p_value >= 1.0 - settings.level or sign_of(gap.difference) <= 0:
                unbeaten.append(control)
