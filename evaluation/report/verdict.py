"""The verdict: a summary in words, with the reward that learned faster, how surely and at what KL.

A difference is clear if its p-value, after Holm's correction for the number of rewards compared,
is below 1 - level on at least five pairs, and if it is not printed as 0; every other difference is
called unclear. Its interval has the level of that corrected test (`holm_level`).

Alarms, signs that a policy games its score, stand among its cautions. An alarm is a reason to read
the samples, not a verdict; each of their limits is a rule of thumb.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from tokengym.agents.ppo.alarms import MAX_LEAP, MAX_LEAP_SHARE
from tokengym.base.text import listed, number, signed
from tokengym.evaluation.measure.measures import measure_of
from tokengym.evaluation.report.curves import NEAR_END
from tokengym.evaluation.statistics import RELIABLE_SEEDS, Array, nats_per_update
from tokengym.evaluation.statistics.series import FEWEST, NOISES, levels, noise, parting

SummaryPart = Mapping[str, Any]
COPY_RISE = 0.10
"""Rise of the copy rate, absolute: one trigram in ten more is taken from the prompt."""
REPETITION_RISE = 0.15
"""Rise of the share of repeated trigrams, absolute."""
FEW = 4
"""Untrained responses to a prompt whose best a training should beat."""
LENGTH_CHANGE = 0.30
"""Change of the response's length, relative to the reference policy's."""


def make_verdict(group: SummaryPart) -> dict[str, Any]:
    """Return the headline of one line, notes on it, a line per reward, and cautions.

    Rewards stand by their lead over the run, controls behind them.
    """

    def place(name: str) -> tuple[bool, float]:
        area = difference_of(group, name, "score", "auc")
        return name in group["controls"], -float(area["difference"]) if area else math.inf

    others = sorted((name for name in group["rewards"] if name != group["baseline"]), key=place)
    return {
        "headline": _headline(group, others),
        "notes": [f"{note}." for note in (_unproven(group, others), _reached(group)) if note],
        "differences": [_difference(group, name) for name in others],
        "cautions": [*_alarms(group), *_about_runs(group, others), *_about_measures(group)],
    }


def kind_of(group: SummaryPart) -> str:
    """Return what is compared, in one word."""
    return "learner" if group["axis"] == "tokens" else "reward"


def unit_of(group: SummaryPart) -> str:
    """Return the unit of the curves' steps, in the plural."""
    return "tokens" if group["axis"] == "tokens" else "updates"


def clear(difference: SummaryPart | None) -> int:
    """Return 1 or -1 if a difference is clearly above or below 0, else 0."""
    return int(difference["clear"]) if difference else 0


def difference_of(group: SummaryPart, name: str, measure: str, kind: str) -> SummaryPart | None:
    """Return a reward's paired difference to the baseline, None if there is none."""
    versus = group["rewards"][name].get("versus_baseline") or {}
    return versus.get("differences", {}).get(measure, {}).get(kind)


def _headline(group: SummaryPart, others: Sequence[str]) -> str:
    baseline, word = group["baseline"], measure_of("score", group["by_gold"]).word
    lost = {**group["failed_seeds"], **group["missing_seeds"]}
    absent = [name for name in lost if name not in group["rewards"]]
    has = "has" if len(absent) == 1 else "have"
    end = f"; {listed(absent)} {has} no finished run." if absent else "."
    if not others:
        final = group["rewards"][baseline]["figures"]["score"]["final"]["iqm"]
        return f"{baseline} went from {word} {number(group['start'])} to {number(final)}{end}"
    faster, slower = (
        [name for name in others if clear(difference_of(group, name, "score", "auc")) == sign]
        for sign in (1, -1)
    )
    drifting = [name for name in others if drift_of(group, name) == "less"]
    if faster:
        best, *rest = faster
        area = difference_of(group, best, "score", "auc")
        assert area is not None  # it is clear
        first = _sentence(_named(group, best)) if best in group["controls"] else best
        how = " by more drift" if drift_of(group, best) == "more" else ""
        text = f"{first} learned faster than {baseline}{how}: {signed(area['difference'])} {word} "
        text += f"over the run; so did {_named(group, *rest)}" if rest else "over the run"
    else:
        text = f"No {kind_of(group)} learned clearly faster than {baseline}"
        if slower:
            text += f"; {_named(group, *slower)} learned slower"
        elif drifting:
            text += f"; {_named(group, *drifting)} drift{'s' * (len(drifting) == 1)} less"
        elif group["ended_early"]:
            text = f"No verdict: {listed(_early(group))}, perhaps because of what they did"
    if not group["reliable"]:
        text = f"Too few seeds to tell. On these {group['fewest_runs']}: {text}"
    return text + end


def _early(group: SummaryPart) -> list[str]:
    """Return how many runs of each reward ended before its longest, in words."""
    return [
        f"{len(of['seeds'])} of {group['rewards'][name]['runs']} runs of {name} ended early "
        f"(from {of['first']:,.10g} {unit_of(group)} on)"
        for name, of in group["ended_early"].items()
    ]


def _named(group: SummaryPart, *names: str) -> str:
    return listed([f"the control {n}" if n in group["controls"] else n for n in names])


def _unproven(group: SummaryPart, others: Sequence[str]) -> str:
    """Return which faster rules are not clearly ahead of a control, as a sentence."""
    behind = {
        name: controls
        for name in others
        if clear(difference_of(group, name, "score", "auc")) > 0
        and (controls := group["rewards"][name].get("unbeaten_controls"))
    }
    if not behind:
        return ""
    controls = [name for name in group["controls"] if any(name in of for of in behind.values())]
    what = f"control{'s' if len(controls) > 1 else ''} {listed(controls)}"
    verb, claim = ("is", "it finds") if len(behind) == 1 else ("are", "they find")
    return (
        f"{listed(list(behind))} {verb} not clearly ahead of the {what}: no evidence that {claim} "
        "the right tokens"
    )


def _reached(group: SummaryPart) -> str:
    """Return which rewards ended at or above best-of-n and which below it, as a sentence.

    Below are those whose interval is; of one whose interval holds the goal nothing is said. Nothing
    is said either where no reward is below.
    """
    if (ends := group["score_range"]) is None or ends["noise"]:
        return ""
    shares = {
        name: entry["figures"]["normalised_score"]["final"]
        for name, entry in group["rewards"].items()
        if "normalised_score" in entry["figures"]
    }
    over = [name for name, share in shares.items() if share["iqm"] >= 1.0]
    below = [name for name, share in shares.items() if max(share["iqm"], share["high"]) < 1.0]
    if not below:
        return ""
    level = f"{measure_of(ends['measure'], group['by_gold']).word} {number(ends['goal'])}"
    goal = f"the untrained policy's best of {ends['n']} ({level})"
    if over:
        return f"{listed(over)} reached {goal}, and {listed(below)} did not"
    if len(below) == len(shares) > 1:
        return f"No {kind_of(group)} reached {goal}"
    return f"{listed(below)} did not reach {goal}"


def drift_of(group: SummaryPart, name: str) -> Literal["more", "less", ""]:
    """Return whether a reward's lead on the baseline is one of drift, its KL over the run.

    Returns:
        "less": it clearly spends less KL, and neither its score over the run nor that at equal KL
        is clearly above, so that a lead in score minus the KL penalty is KL that it did not spend.
        "more": its score over the run is clearly above, that at equal KL neither above nor below,
        and it spends more KL, clearly or on every seed, so that its lead is KL that it spent
        sooner. "" where neither is shown.
    """
    equal = difference_of(group, name, "score", "at_kl")
    faster = clear(difference_of(group, name, "score", "auc"))
    kl = difference_of(group, name, "kl", "auc")
    if clear(kl) < 0 and faster <= 0 and clear(equal) <= 0:
        return "less"
    spends_more = kl and (clear(kl) > 0 or kl["wins"] == kl["pairs"])
    return "more" if equal and not clear(equal) and faster > 0 and spends_more else ""


def _difference(group: SummaryPart, name: str) -> str:
    """Return a reward's difference to the baseline over the run, and whether it is clear."""
    area, baseline = difference_of(group, name, "score", "auc"), group["baseline"]
    if not area:
        return f"{_named(group, name)}: no seed in common with {baseline}, so nothing is paired"
    if frozen := [one for one in (name, baseline) if group["rewards"][one]["is_frozen"]]:
        return _difference_of_levels(group, name, frozen)
    word = measure_of("score", group["by_gold"]).word
    size = f"{signed(area['difference'])} {word} over the run against {baseline}"
    if carried := group["rewards"][name]["versus_baseline"].get("carried"):
        ends = f"{number(carried['low'])} to {number(carried['high'])}"
        size += f", as far as both runs of a pair went; {signed(carried['difference'])} ({ends})"
        return (
            f"{_named(group, name)}: {size} to {carried['to']:,.10g} {unit_of(group)}, the last "
            "value of a run that ended early carried forward; no verdict"
        )
    return f"{_named(group, name)}: {size}, {_how_sure(area)}"


def _how_sure(difference: Mapping[str, Any]) -> str:
    """Return a paired difference's interval, of the corrected test, and whether it is clear."""
    low, high, pairs = number(difference["low"]), number(difference["high"]), difference["pairs"]
    interval = f"{100 * difference['level']:.3g}% interval {low} to {high}"
    if pairs < RELIABLE_SEEDS:
        interval = "no interval" if pairs == 1 else interval
        return f"{interval}; too few seeds to tell ({pairs})"
    p = difference["p_adjusted"]
    corrected = "corrected p < 0.001" if p < 0.001 else f"corrected p = {p:.2g}"
    return f"{interval}; {'clear' if clear(difference) else 'not clear'}, {corrected}"


def _difference_of_levels(group: SummaryPart, name: str, frozen: Sequence[str]) -> str:
    """Return a difference at the end with an agent that learns nothing, and so has no speed."""
    end, word = difference_of(group, name, "score", "final"), measure_of("score", group["by_gold"])
    assert end is not None  # there is one over the run
    size = f"{signed(end['difference'])} {word.word} at the end against {group['baseline']}"
    learns = "learns nothing, and has" if len(frozen) == 1 else "learn nothing, and have"
    return (
        f"{_named(group, name)}: {size}, {_how_sure(end)}; {listed(frozen)} {learns} a level alone"
    )


def _about_runs(group: SummaryPart, others: Sequence[str]) -> Iterator[str]:
    """Yield which runs the figures are of, and over which steps."""
    baseline, kind, unit = group["baseline"], kind_of(group), unit_of(group)
    if group["wanted_baseline"] != baseline:
        yield (
            f"{group['wanted_baseline']} has no finished run here; {baseline} takes its place as "
            "the baseline."
        )
    if not group["reliable"] and group["fewest_runs"] > 1:  # one seed has no interval
        yield (
            f"Fewer than {RELIABLE_SEEDS} seeds per {kind} ({group['fewest_runs']}): the "
            "intervals are unreliable."
        )
    if group["failed_seeds"]:
        runs, first = ("run", "") if group["failed"] == 1 else ("runs", "The first: ")
        remedy = "; --retry-failed repeats what failed" if group["can_retry"] else ""
        yield (
            f"Not in the figures: {group['failed']} failed {runs} "
            f"({_seeds_of(group['failed_seeds'])}), which may favour the {kind}{remedy}. "
            f"{first}{group['failure'].rstrip('.')}."
        )
    if group["missing_seeds"]:
        yield (
            "Not in the figures: runs that have not ended "
            f"({_seeds_of(group['missing_seeds'])}); the comparison's own command resumes."
        )
    if group["late"] is not None:
        yield (
            f"Of pairs with {group['late']} the differences begin at {group['steps'][0]:,.10g} "
            f"{unit}, where it was first evaluated: what the others did before is left out."
        )
    if group["ended_early"]:
        collapsed = [
            f"{round(entry['collapse_rate'] * entry['runs'])} of {entry['runs']} of {name}"
            for name, entry in group["rewards"].items()
            if name in group["ended_early"]
        ]
        yield (
            f"{_sentence(listed(_early(group)))}: a run may end because it collapsed, so that "
            "those which last are the better ones, and nothing over the run or at the end is "
            f"called clear. As far as they were measured, {listed(collapsed)} collapsed."
        )
    cut_at, longest = group["cut_at"], group["longest"]
    near = NEAR_END * longest if group["axis"] == "tokens" else 0.0
    if cut_at is not None and longest - cut_at > near:
        yield (
            f"Runs end between {cut_at:,.10g} ({group['shortest']}) and {longest:,.10g} {unit}: "
            f"each difference is over the {unit} that both runs of a pair reached."
        )
    yield from _unshared_seeds(group, others)


def _seeds_of(seeds: Mapping[str, Sequence[int]]) -> str:
    """Return runs in words: each name with its seeds."""
    parts = [
        f"{name}, {'seed' if len(of) == 1 else 'seeds'} {listed([f'{seed}' for seed in of])}"
        for name, of in seeds.items()
    ]
    return "; ".join(parts)


def _unshared_seeds(group: SummaryPart, others: Sequence[str]) -> Iterator[str]:
    """Yield which rewards and the baseline have seeds that the other was not run with.

    Of those that failed or have not ended another caution tells.
    """

    def seeds(name: str) -> tuple[set[int], set[int]]:
        own = set(group["rewards"][name]["seeds"])
        lost = (group[of].get(name, ()) for of in ("failed_seeds", "missing_seeds"))
        return own, own.union(*lost)

    base, base_meant = seeds(group["baseline"])
    unlike = []
    for name in others:
        area, (own, meant) = difference_of(group, name, "score", "auc"), seeds(name)
        if area and not (own <= base_meant and base <= meant):
            unlike.append(f"{area['pairs']} of the {len(own)} of {name}")
    if unlike:
        yield (
            f"{group['baseline']} has {len(base)} seeds, and shares {listed(unlike)}: differences "
            "are over the seeds that both have, all else is over the seeds of each."
        )


def _about_measures(group: SummaryPart) -> Iterator[str]:
    """Yield what has no best of n or was not measured, and which runs collapsed."""
    rows, ends = group["reference"]["best_of_n"] if group["reference"] else [], group["score_range"]
    if rows and rows[-1]["score"] == rows[0]["score"]:
        yield (
            "The scorer gives all of the untrained policy's responses to a prompt the same score: "
            "it cannot rank them, so there is no best of n."
        )
    elif ends and ends["noise"]:
        yield f"No normalised score: {ends['noise']}."
    titles: dict[tuple[str, ...], list[str]] = {}
    for name, rewards in group["lost"].items():
        titles.setdefault(tuple(rewards), []).append(measure_of(name).title)
    for rewards, measures in titles.items():
        yield f"{', '.join(measures)}: left out of {', '.join(rewards)}, where it was not measured."
    collapsed = [
        f"{name} ({entry['collapse_rate']:.0%} of its seeds)"
        for name, entry in group["rewards"].items()
        if entry["collapse_rate"] > 0
    ]
    if collapsed:
        yield f"Collapsed: {listed(collapsed)}."


# --- alarms ---------------------------------------------------------------------------------------


def _alarms(group: SummaryPart) -> Iterator[str]:
    """Yield each sign of over-optimisation once, with the rewards that show it.

    They stand before all cautions: a gamed score puts every other sentence in doubt.
    """
    shown: dict[tuple[str, str], list[str]] = {}
    for name, entry in group["rewards"].items():
        for alarm in entry["alarms"]:
            arms = shown.setdefault((alarm["sign"], alarm["remedy"]), [])
            arms.append(f"{name} ({alarm['detail']})")
    for (sign, remedy), arms in shown.items():
        yield f"{_sentence(sign)}: {listed(arms)}.{f' {_sentence(remedy)}.' if remedy else ''}"


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


class Alarm(NamedTuple):
    """A sign of over-optimisation in one reward's runs."""

    sign: str
    """What it is, as the beginning of a sentence."""
    detail: str
    """Its figures."""
    remedy: str = ""
    """What to do; empty where the samples are to be read first."""

    def __str__(self) -> str:
        return f"{self.sign} ({self.detail})" + (f": {self.remedy}" if self.remedy else "")


def find_alarms(
    curves: Mapping[str, Array], steps: ArrayLike, *, axis: str = "update", by_gold: bool = False
) -> list[Alarm]:
    """Return the signs of over-optimisation in one reward's mean curves.

    Args:
        curves: Per measurement (time,), the first value the reference policy's.
        steps: (time,) updates made, or tokens read, at each evaluation.
        axis: "tokens" if ``steps`` are tokens.
        by_gold: Whether ``score`` is the gold score, which no training maximised.

    Example:
        >>> curves = {"score": np.arange(6.0), "gold_score": np.array([0, 1, 2, 1.5, 1, 0.5])}
        >>> str(find_alarms(curves, [0, 10, 20, 30, 40, 50])[0])
        'the gold score fell while the score rose (from update 20 on: gold 2 to 0.5, score 2 to 5)'
    """
    at = np.asarray(steps, dtype=np.float64)
    return [
        *_parted(curves, at, axis),
        *_of_texts(curves),
        *(_leap(curves, at) if axis != "tokens" else ()),
        *(_net_loss(curves, by_gold) if at[0] == 0 else ()),  # else the start is not known
    ]


def _parted(curves: Mapping[str, Array], steps: Array, axis: str) -> Iterator[Alarm]:
    if "gold_score" in curves and (at := parting(curves["score"], curves["gold_score"])):
        step = f"{steps[at.best_at]:,.0f}"
        since = f"{step} tokens" if axis == "tokens" else f"update {step}"
        detail = (
            f"from {since} on: gold {at.gold_best:.3g} to {at.gold_last:.3g}, score "
            f"{at.score_then:.3g} to {at.score_last:.3g}"
        )
        yield Alarm("the gold score fell while the score rose", detail)


def _of_texts(curves: Mapping[str, Array]) -> Iterator[Alarm]:
    for name, limit, sign in (
        ("copy_rate", COPY_RISE, "more is copied from the prompt"),
        ("repetition", REPETITION_RISE, "responses repeat themselves more"),
    ):
        if name in curves and curves[name][-1] - (first := curves[name][0]) > limit:
            last = curves[name][-1]
            yield Alarm(sign, f"{first:.0%} of trigrams at first, {last:.0%} at the end")
    if (lengths := curves.get("length")) is not None:
        first, last = lengths[0], lengths[-1]
        if abs(last - first) > LENGTH_CHANGE * first:
            yield Alarm("the length changed", f"{first:.3g} to {last:.3g} tokens")


def _leap(curves: Mapping[str, Array], updates: Array) -> Iterator[Alarm]:
    """Yield the alarm of the longest leap in one update, if it is beyond the limits.

    nats_per_update > max(MAX_LEAP, MAX_LEAP_SHARE * kl at the end)

    A single evaluation shows none.
    """
    kl = curves.get("kl", np.empty(0))
    if len(kl) < 2:
        return
    crossed = nats_per_update(updates, kl)
    i = int(np.argmax(crossed))
    if crossed[i] > max(MAX_LEAP, MAX_LEAP_SHARE * kl[-1]):
        at = f"update {updates[i]:g} to {updates[i + 1]:g}"
        yield Alarm(
            "one update crossed so much KL that no policy between was measured",
            f"at least {crossed[i]:.3g} nats from {at}, {kl[-1]:.3g} at the end",
            "lower learning_rate, or set n_warmup_updates",
        )


def _net_loss(curves: Mapping[str, Array], by_gold: bool) -> Iterator[Alarm]:
    """Yield the alarm of a training that ended below its start by what it maximised."""
    net = curves.get("net_score", np.empty(0))
    if len(net) >= FEWEST and (held := levels(net))[0] - held[-1] > NOISES * noise(net):
        word = "gold score minus the KL penalty" if by_gold else "score minus the KL penalty"
        lost = "" if by_gold else ": training lost by its own objective"
        yield Alarm(f"{word} ended below its start{lost}", f"{net[0]:.3g} to {net[-1]:.3g}")


def short_of_best(ended: float, rows: Sequence[Mapping[str, float]]) -> Alarm | None:
    """Return the alarm of a training that ended below the best of a few untrained responses.

    Example:
        >>> short_of_best(0.5, [{"n": 4, "score": 1.0}]).detail
        'score 0.5 against 1'
    """
    row = next((row for row in rows if row["n"] == FEW), None)
    if row is None or ended >= (best := row.get("net_score", row["score"])):
        return None
    # Beside the score that is printed, a number with the penalty would contradict it.
    word = "score minus the KL penalty" if "net_score" in row else "score"
    return Alarm(
        f"it ended below the best of {FEW} untrained responses, which cost no training",
        f"{word} {ended:.3g} against {best:.3g}",
        "train longer, or at another learning_rate",
    )
