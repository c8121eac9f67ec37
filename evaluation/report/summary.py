"""The summary of a comparison: figures per reward and differences from the baseline.

It is a function of the curves and the level alone: the same curves give the same bytes. What it is
made of stands in `facts`.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product

import numpy as np

from tokengym.base.settings import check_number
from tokengym.base.text import sign_of
from tokengym.evaluation.measure.measures import Axis, measure_of, measures_of
from tokengym.evaluation.measure.references import (
    MIN_ERRORS,
    ReferenceLines,
    ReferenceSamples,
    ScoreRange,
    score_range,
)
from tokengym.evaluation.report.curves import Panel, Runs, make_panels
from tokengym.evaluation.report.facts import (
    Alarm,
    Anchors,
    Arm,
    AtKl,
    Carried,
    Chance,
    Difference,
    EndedEarly,
    Errors,
    Estimate,
    Group,
    LostRun,
    Summary,
    UnscoredRun,
    Versus,
)
from tokengym.evaluation.report.verdict import find_alarms, make_verdict, short_of_best
from tokengym.evaluation.statistics import (
    DEFAULT_LEVEL,
    MIN_KL,
    RELIABLE_SEEDS,
    Array,
    Curve,
    RelativeSteps,
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
    failed: Sequence[LostRun] = ()
    """Runs that failed."""
    missing: Sequence[LostRun] = ()
    """Runs that have not ended."""
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


def summarize(curves: Sequence[Curve], settings: SummarySettings = SummarySettings()) -> Summary:
    """Return the summary of learning curves.

    Figures of a reward are of its whole runs. Each difference is over the steps, or tokens, that
    both runs of a pair reached, so that runs may differ in length.

    A step at which a run has no score is left out of all runs of its seed, and counted.

    Args:
        curves: All runs; those with a fault are listed as failed and left out of the figures.
        settings: What the figures depend on besides.

    Raises:
        ValueError: if no run is without fault.
    """
    baseline = settings.baseline
    sound = scored_alike(curves)
    lost = [
        *settings.failed,
        *(
            LostRun(credit=c.credit, seed=c.seed, group=dict(c.group), error=fault)
            for c in curves
            if (fault := c.invalid())
        ),
    ]
    if not sound:
        error = f" (the first: {lost[0].error})" if lost else ""
        raise ValueError(f"no run to summarise, {len(lost)} failed{error}")
    others = [run.credit for run in (*settings.failed, *settings.missing)]
    known = list(dict.fromkeys([c.credit for c in curves] + others))
    if baseline is not None and baseline not in known:
        raise ValueError(f"baseline {baseline!r} is none of the rewards: {', '.join(known)}")
    sound.sort(key=lambda curve: curve.credit != baseline)  # stable: the baseline comes first
    panels = make_panels(sound, kl_coef=settings.kl_coef, axis=settings.axis)
    groups = [
        _group(panel, settings, lost, _unscored(curves, panel.group), baseline or known[0])
        for panel in panels
    ]
    return Summary(
        level=settings.level,
        kl_coef=settings.kl_coef,
        axis=settings.axis,
        by_gold=settings.by_gold,
        own_prompts=settings.own_prompts,
        logged=dict(settings.logged),
        of_tools=settings.of_tools,
        anchors=Anchors(
            reference=dict(settings.anchors) or None, optimum=dict(settings.optimum) or None
        ),
        failed=lost,
        missing=list(settings.missing),
        measurements=_meanings(groups, settings),
        groups=groups,
    )


def _meanings(groups: Sequence[Group], settings: SummarySettings) -> dict[str, dict[str, str]]:
    """Return what each measurement of these groups means, and how sure it is, by name."""
    arms = [arm for group in groups for arm in group.rewards.values()]
    names = dict.fromkeys(name for arm in arms for name in arm.figures)
    table = measures_of(settings.by_gold, settings.logged, own_prompts=settings.own_prompts)
    return {name: table[name].as_dict() for name in names if name in table}


def _unscored(curves: Iterable[Curve], group: GroupKey) -> list[UnscoredRun]:
    """Return where valid runs of a group have no score, by run."""
    return [
        UnscoredRun(credit=c.credit, seed=c.seed, steps=c.unscored.tolist())
        for c in curves
        if c.group == group and len(c.unscored) and not c.invalid()
    ]


def _group(
    panel: Panel,
    settings: SummarySettings,
    lost: Sequence[LostRun],
    unscored: Sequence[UnscoredRun],
    wanted: str,
) -> Group:
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
    ends = None if reference is None else _score_range(panel, reference)
    equal_kl = None if "kl" in settings.logged else _end_kl(panel)
    _, *others = panel.rewards
    controls = [name for name in others if name in settings.controls]
    fewest = min(len(runs.curves) for runs in panel.rewards.values())
    failed, retried, missing = (
        [run for run in runs if run.group == dict(panel.group)]
        for runs in (lost, settings.failed, settings.missing)
    )
    group = Group(
        group=dict(panel.group),
        baseline=next(iter(panel.rewards)),
        steps=[float(panel.steps[0]), float(panel.steps[-1])],
        cut_at=panel.cut_at,
        longest=panel.longest,
        shortest=panel.shortest,
        late=panel.late,
        ended_early={
            name: EndedEarly(
                seeds=seeds, first=min(float(c.steps[-1]) for c in panel.rewards[name].curves)
            )
            for name, seeds in panel.ended_early.items()
        },
        start=panel.start,
        tokens={} if settings.axis == "tokens" else _tokens(panel),
        evaluations=len(panel.steps),
        fewest_runs=fewest,
        by_gold=settings.by_gold,
        own_prompts=settings.own_prompts,
        logged=dict(settings.logged),
        of_tools=settings.of_tools,
        reliable=fewest >= RELIABLE_SEEDS,
        measures=panel.measures,
        lost=panel.lost,
        equal_kl=equal_kl,
        reference=reference,
        score_range=ends,
        rewards=_arms(panel, settings, controls, reference, ends, equal_kl),
        controls=controls,
        failed=len(failed),
        failure=(failed[0].error or "") if failed else "",
        can_retry=bool(retried),
        failed_seeds=_seeds_by_reward(failed),
        missing_seeds=_seeds_by_reward(missing),
        unscored=unscored,
        axis=settings.axis,
        wanted_baseline=wanted,
    )
    verdict = make_verdict(group)
    cautions = [*verdict.cautions, *settings.cautions]
    return replace(group, verdict=replace(verdict, cautions=cautions))


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


def _seeds_by_reward(runs: Sequence[LostRun]) -> dict[str, list[int]]:
    seeds: dict[str, list[int]] = {}
    for run in runs:
        seeds.setdefault(run.credit, []).append(run.seed)
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


def _arms(
    panel: Panel,
    settings: SummarySettings,
    controls: Sequence[str],
    reference: ReferenceLines | None,
    ends: ScoreRange | None,
    equal_kl: float | None,
) -> dict[str, Arm]:
    """Return what each reward's runs are by themselves, and beside the baseline's."""
    versus, at_kl = _comparisons(panel, settings, equal_kl)
    return {
        name: replace(
            _arm(panel, runs, settings, reference, ends, at_kl.get(name, {})),
            versus_baseline=versus.get(name),
            unbeaten_controls=_unbeaten(panel, name, controls, settings.level)
            if name in versus and name not in controls
            else None,
        )
        for name, runs in panel.rewards.items()
    }


def _arm(
    panel: Panel,
    runs: Runs,
    settings: SummarySettings,
    reference: ReferenceLines | None,
    ends: ScoreRange | None,
    at_kl: Mapping[str, Array],
) -> Arm:
    """Return what a reward's runs are by themselves.

    ``at_kl`` has what they have at the KL where the baseline ends, by measurement, (runs there,).
    """
    level = settings.level
    figures = {
        measure: {kind: _estimate(runs.figures(measure, kind), level) for kind in kinds_of(measure)}
        for measure in panel.measured(runs)
    }
    measuring = _errors(runs.curves, figures, own_prompts=settings.own_prompts)
    alarms = _alarms(panel, runs, settings, figures, reference)

    def normalise(title: str, name: str, start: float, goal: float) -> None:
        """Add figures between fixed ends: (x - start) / (goal - start).

        The ends are never taken from the runs at hand, so that two comparisons stay comparable.
        """
        if name in figures:
            figures[title] = {
                kind: Estimate(**{k: (v - start) / (goal - start) for k, v in asdict(one).items()})
                for kind, one in figures[name].items()
            }
        if name in measuring:
            errors = measuring[name].items()
            measuring[title] = {kind: error / (goal - start) for kind, error in errors}

    for name, span in _spans(panel, settings).items():
        normalise(f"normalised_{name}", name, *span)
    for measure, values in at_kl.items():
        figures[measure]["at_kl"] = _estimate(values, level)
    if ends is not None and ends.noise is None:
        normalise("normalised_score", ends.measure, ends.start, ends.goal)
    learns = _learns(runs.curves, level)
    # The first point is the reference policy, before any update, where a curve begins at 0.
    anchor = settings.anchors.get("score", panel.start)
    return Arm(
        runs=len(runs.curves),
        seeds=list(runs.by_seed),
        figures=figures,
        learns=learns,
        measuring=measuring,
        collapse_rate=_collapse_rate(runs.curves, anchor) if learns else 0.0,
        alarms=alarms,
    )


def _alarms(
    panel: Panel,
    runs: Runs,
    settings: SummarySettings,
    figures: Mapping[str, Mapping[str, Estimate]],
    reference: ReferenceLines | None,
) -> list[Alarm]:
    """Return the signs of over-optimisation in a reward's mean curves, and of too short training.

    They read what the first run was evaluated at itself.
    """
    own = runs.own_steps
    means = {
        measure: runs.values[measure].mean(axis=0)[own]
        for measure in panel.measured(runs)
        if measure != "kl" or "kl" not in settings.logged  # nats per update are no nats per token
    }
    alarms = find_alarms(means, runs.steps[own], axis=settings.axis, by_gold=settings.by_gold)
    maximised = "score" if settings.kl_coef is None else "net_score"
    weighed = all(curve.is_weighed for curve in runs.curves)
    if reference is not None and weighed and maximised in figures:
        alarm = short_of_best(figures[maximised]["final"].mean, reference.best_of_n)
        alarms += [alarm] if alarm else []
    return alarms


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


def _estimate(values: Array, level: float) -> Estimate:
    """Return the mean of a number per run with its interval."""
    mean, low, high, _ = map(float, student_interval(values, level))
    return Estimate(mean=mean, low=low, high=high)


def _score_range(panel: Panel, reference: ReferenceLines) -> ScoreRange | None:
    """Return the ends of every reward's normalised score; None where no curve begins at step 0.

    normalised = (x - start) / (goal - start), start the mean of the curves before the first update
    """
    measure = score_range(reference, 0.0).measure
    if measure not in panel.measures or panel.steps[0] > 0:
        return None
    having = [runs for runs in panel.rewards.values() if measure in runs.values]
    starts = np.concatenate([runs.values[measure][:, 0] for runs in having])
    return score_range(reference, float(starts.mean()))


# --- comparisons with the baseline ----------------------------------------------------------------


def _comparisons(
    panel: Panel, settings: SummarySettings, equal_kl: float | None
) -> tuple[dict[str, Versus], dict[str, dict[str, Array]]]:
    """Return how each reward but the first, the baseline, compares with it.

    And what the runs of each have at the KL where the baseline ends, by measurement.
    """
    level, own_prompts = settings.level, settings.own_prompts
    baseline, *others = panel.rewards
    base = panel.rewards[baseline]
    numbers: dict[str, Numbers] = {}
    there_of = {baseline: _baseline_at_kl(base, panel.measured(base), equal_kl)}
    found: dict[str, Versus] = {}
    for name in others:
        runs = panel.rewards[name]
        whole, shared = pairs(runs.by_seed, base.by_seed), panel.measured(base, runs)
        both = [(x, y) for x, y in map(on_one_grid, whole)]
        kinds = list(product(shared if both else (), KINDS))
        gains = [("score", kind) for kind in GAINS] if both else []
        numbers[name] = {of: _numbers(both, *of) for of in (*kinds, *gains)}
        errors = {of: _error_of_pairs(both, *of, own_prompts=own_prompts) for of in kinds}
        stands = None
        if both and "kl" in shared and "kl" not in settings.logged:
            stands, at_kl = _at_kl(whole, shared, equal_kl)
            numbers[name] |= at_kl
            there_of[name] = {measure: values for (measure, _), (values, _) in at_kl.items()}
        has_ended = bool(both) and not panel.ended_early.keys().isdisjoint((name, baseline))
        speed = {} if has_ended else _speed(runs, base, both, shared, level)
        found[name] = Versus(
            differences={},
            probability_of_improvement={} if has_ended else _chances(runs, base, shared, level),
            relative_steps=speed.get("score"),
            relative_steps_net=speed.get("net_score"),
            unlike_steps=any(
                len(x.steps) < len(of_x.steps) or len(y.steps) < len(of_y.steps)
                for (x, y), (of_x, of_y) in zip(both, whole, strict=True)
            ),
            carried=_carried(runs, base, level) if has_ended else None,
            measuring=_nested({of: e for of, e in errors.items() if e is not None}),
            at_kl=stands,
        )
    tested: dict[str, dict[str, dict[str, Difference]]] = {name: {} for name in others}
    for family in families(panel):
        _add_differences(family, numbers, tested, level)
    return {
        name: replace(versus, differences=_withheld(tested[name], versus))
        for name, versus in found.items()
    }, there_of


def _nested(errors: Mapping[tuple[str, str], float]) -> Errors:
    nested: dict[str, dict[str, float]] = {}
    for (measure, kind), error in errors.items():
        nested.setdefault(measure, {})[kind] = error
    return nested


def _carried(runs: Runs, base: Runs, level: float) -> Carried:
    """Return the difference in score over the longest run, where runs ended early.

    The last value of a shorter one is carried forward.
    """
    longest = max(float(curve.steps[-1]) for curve in (*runs.curves, *base.curves))
    whole = [
        {seed: curve.carried(longest) for seed, curve in each.by_seed.items()}
        for each in (runs, base)
    ]
    carried = paired_difference(*_numbers(pairs(*whole), "score", "auc"), level)
    return Carried(**asdict(carried), to=longest)


def _withheld(
    differences: Mapping[str, Mapping[str, Difference]], versus: Versus
) -> dict[str, dict[str, Difference]]:
    """Return differences of which none is called clear that the runs cannot show.

    Over the run and at the end only the runs that lasted are read where some ended early. At equal
    KL a policy that trained for longer may have more for that alone.
    """
    unsure = {*KINDS, "gain"} if versus.carried else set[str]()
    if versus.at_kl and versus.at_kl.earlier:
        unsure.add("at_kl")
    return {
        measure: {
            kind: replace(one, clear=0) if kind in unsure else one for kind, one in of.items()
        }
        for measure, of in differences.items()
    }


def _add_differences(
    family: Sequence[tuple[str, str]],
    numbers: Mapping[str, Numbers],
    tested: Mapping[str, dict[str, dict[str, Difference]]],
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
        tested[name].setdefault(measure, {})[kind] = Difference(
            **asdict(difference),
            p_adjusted=float(p_value),
            clear=sign_of(difference.difference) if is_clear else 0,
        )


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


def _at_kl(both: Pairs, shared: Sequence[str], kl: float | None) -> tuple[AtKl, Numbers]:
    """Return how the pairs stand at the KL where the baseline ends, and their numbers there.

    Fewer than `FEWEST_PAIRS` have none.
    """
    found = {m: both_there(both, kl, m) for m in AT_KL if m in shared} if kl is not None else {}
    sides: list[tuple[There, ...]] = [*zip(*found.get("score", []), strict=True)]
    count = len(sides[0]) if sides else 0
    if count < FEWEST_PAIRS or kl is None:
        return AtKl(pairs=count, of=len(both)), {}
    ours, theirs = sides
    numbers = {}
    for measure, pairs_there in found.items():
        x, y = zip(*pairs_there, strict=True)
        numbers[measure, "at_kl"] = at_level(x, kl), at_level(y, kl)
    return AtKl(
        pairs=count,
        of=len(both),
        kl=float(np.mean([run.kl for run in ours])),
        step=float(np.mean([run.step for run in ours])),
        baseline_kl=float(np.mean([run.kl for run in theirs])),
        baseline_step=float(np.mean([run.step for run in theirs])),
        earlier=earlier(found["score"]),
    ), numbers


def _chances(
    runs: Runs, baseline: Runs, shared: Sequence[str], level: float
) -> dict[str, dict[str, Chance]]:
    """Return the probabilities of improvement over the baseline, of the ranked measurements.

    Runs that are no pairs are compared over the steps that all of the two rewards reached.
    """
    first = max(runs.steps[0], baseline.steps[0])
    last = min(runs.steps[-1], baseline.steps[-1])
    every = (*runs.curves, *baseline.curves)
    whole = on_one_grid([curve.between(first, last) for curve in every])
    count = len(runs.curves)

    def chance(measure: str, kind: str) -> Chance:
        figures = [curve.figure(measure, kind) for curve in whole]
        x, y = figures[:count], figures[count:]
        low, high = improvement_interval(x, y, level)
        return Chance(probability=probability_of_improvement(x, y), low=low, high=high)

    ranked = [measure for measure in shared if measure_of(measure).ranked]
    return {measure: {kind: chance(measure, kind) for kind in KINDS} for measure in ranked}


def _speed(
    runs: Runs, baseline: Runs, both: Pairs, shared: Sequence[str], level: float
) -> dict[str, RelativeSteps | None]:
    """Return the relative speed by the score and the net score, on steps that all pairs have."""
    if not both:
        return {}
    grid = np.union1d(runs.steps, baseline.steps)
    x_runs, y_runs = (Runs.of(each, grid) for each in zip(*both, strict=True))
    return {
        measure: relative_steps(
            x_runs.steps,
            x_runs.values[measure],
            y_runs.values[measure],
            level,
            end=y_runs.at_end,
        )
        for measure in ("score", "net_score")
        if measure in shared
    }


def _unbeaten(panel: Panel, name: str, controls: Iterable[str], level: float) -> list[str]:
    """Return the controls that a rule is not clearly ahead of over the run.

    All must be beaten before a rule is said to find the right tokens, so that no correction for
    their number is due (an intersection-union test).
    """
    unbeaten = []
    for control in controls:
        whole = pairs(panel.rewards[name].by_seed, panel.rewards[control].by_seed)
        both = [(x, y) for x, y in map(on_one_grid, whole)]
        x, y = _numbers(both, "score", "auc")
        has_ended = {name, control} & panel.ended_early.keys()
        is_enough = len(x) >= RELIABLE_SEEDS and not has_ended
        gap = paired_difference(x, y, level) if is_enough else None
        if gap is None or gap.p_value >= 1.0 - level or sign_of(gap.difference) <= 0:
            unbeaten.append(control)
    return unbeaten
