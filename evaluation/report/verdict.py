"""The verdict: what a comparison shows, how surely and at what KL, as facts that `sentences` says.

A difference is clear if its p-value, after Holm's correction for the number of rewards compared,
is below 1 - level on at least five pairs, and if it is not printed as 0; every other difference is
called unclear. Its interval has the level of that corrected test (`holm_level`).

Alarms, signs that a policy games its score, stand among its cautions. An alarm is a reason to read
the samples, not a verdict; each of their limits is a rule of thumb.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from tokengym.agents.ppo.settings import MAX_LEAP, MAX_LEAP_SHARE
from tokengym.evaluation.measure.measures import measure_of
from tokengym.evaluation.report import sentences
from tokengym.evaluation.report.curves import NEAR_END
from tokengym.evaluation.report.sentences import Alarm, Early, kind_of, unit_of
from tokengym.evaluation.statistics import RELIABLE_SEEDS, Array, final_mean, nats_per_update
from tokengym.evaluation.statistics.series import FEWEST, NOISES, levels, noise, parting

SummaryPart = Mapping[str, Any]
Starts = Literal["", "higher", "lower"]
Word = Literal["", "faster", "slower", "higher", "lower", "more", "less"]
Drift = Literal["more", "less", "unknown", ""]
"""How a lead stands to the KL that was spent, see `drift_of`."""
DRIFT_SHARE = 0.5
"""Share of a lead over the run below which the score at equal KL must be shown to be, before the
lead is called one of more drift: most of it is KL that was spent sooner."""
COPY_RISE = 0.10
"""Rise of the copy rate, absolute: one trigram in ten more is taken from the prompt."""
REPETITION_RISE = 0.15
"""Rise of the share of repeated trigrams, absolute."""
FEW = 4
"""Untrained responses to a prompt whose best a training should beat."""
MORE_TOKENS = 1.5
"""Ratio of the tokens that two rewards' runs sampled in as many updates, above which it is said: a
rule that continues responses samples more than texts differ in length."""
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
        "notes": [note for note in (_unproven(group, others), _reached(group)) if note],
        "differences": [_difference(group, name) for name in others],
        "cautions": [*_alarms(group), *_about_runs(group, others), *_about_measures(group)],
    }


def clear(difference: SummaryPart | None) -> int:
    """Return 1 or -1 if a difference is clearly above or below 0, else 0."""
    return int(difference["clear"]) if difference else 0


def difference_of(group: SummaryPart, name: str, measure: str, kind: str) -> SummaryPart | None:
    """Return a reward's paired difference to the baseline, None if there is none."""
    versus = group["rewards"][name].get("versus_baseline") or {}
    return versus.get("differences", {}).get(measure, {}).get(kind)


def _headline(group: SummaryPart, others: Sequence[str]) -> str:
    lost = {**group["failed_seeds"], **group["missing_seeds"]}
    end = sentences.end_of_headline([name for name in lost if name not in group["rewards"]])
    return (_claim(group, others) if others else _level(group)) + end


def _level(group: SummaryPart) -> str:
    """Return where the one reward began and ended."""
    baseline, word = group["baseline"], measure_of("score", group["by_gold"]).word
    final = group["rewards"][baseline]["figures"]["score"]["final"]["mean"]
    return sentences.alone(baseline, word, group["start"], final)


def _claim(group: SummaryPart, others: Sequence[str]) -> str:
    """Return what the headline says of the others, as far as `RELIABLE_SEEDS` pairs tell.

    "Faster" is said of what was gained over the own starts, see `word_of`.
    """
    baseline, controls, kind = group["baseline"], group["controls"], kind_of(group)
    gaps = {name: difference_of(group, name, "score", "gain") for name in others}
    pairs = {name: gap["pairs"] if gap else 0 for name, gap in gaps.items()}
    untold = [name for name in others if pairs[name] < RELIABLE_SEEDS]
    if len(untold) == len(others):
        return sentences.too_few_seeds(baseline, kind, [*pairs.values()])
    told: dict[str, list[str]] = {}
    for name in others:
        told.setdefault(sentences.phrase(*word_of(group, name)), []).append(name)
    told.pop("", None)
    drifting = [name for name in others if drift_of(group, name) == "less"]
    if group["ended_early"] and not (told or drifting):
        return sentences.no_verdict(_early(group), unit_of(group))
    above = [name for name in others if word_of(group, name)[1] == "faster"]
    if not above:
        return sentences.none_faster(
            baseline, kind, told=told, drifting=drifting, untold=untold, controls=controls
        )
    first, *rest = above
    gap = gaps[first]
    assert gap is not None  # it is clear
    return sentences.faster(
        first,
        rest,
        baseline,
        lead=gap["difference"],
        word=measure_of("score", group["by_gold"]).word,
        starts=word_of(group, first)[0],
        drift=drift_of(group, first),
        controls=controls,
    )


def word_of(group: SummaryPart, name: str) -> tuple[Starts, Word]:
    """Return what is said of a reward's starts beside the baseline's, and of its runs.

    | where | said |
    |---|---|
    | the starts differ clearly | "higher" or "lower", beside what follows |
    | neither arm's gain over its own start is clear | a level: "higher", "lower" or nothing |
    | the gains differ clearly, and the leader's is clear | "faster", "slower" |
    | else the starts do not differ clearly, and the means over the run do | "more", "less" |
    | else | nothing |
    """

    def sign(kind: str) -> int:
        return clear(difference_of(group, name, "score", kind))

    start, gain, area = sign("start"), sign("gain"), sign("auc")
    learns, baseline_learns = (group["rewards"][one]["learns"] for one in (name, group["baseline"]))
    starts: Starts = ("", "higher", "lower")[start]
    if not (learns or baseline_learns):
        return starts, ("", "higher", "lower")[area]
    if gain and (learns if gain > 0 else baseline_learns) > 0:
        return starts, "faster" if gain > 0 else "slower"
    return starts, "" if start else ("", "more", "less")[area]


def _early(group: SummaryPart) -> list[Early]:
    """Return how many runs of each reward ended before its longest."""
    entries = group["rewards"]
    return [
        Early(
            name,
            len(of["seeds"]),
            entries[name]["runs"],
            of["first"],
            round(entries[name]["collapse_rate"] * entries[name]["runs"]),
        )
        for name, of in group["ended_early"].items()
    ]


def _unproven(group: SummaryPart, others: Sequence[str]) -> str:
    """Return which faster rules are not clearly ahead of a control; "" if there are none."""
    behind = {
        name: controls
        for name in others
        if word_of(group, name)[1] in ("faster", "more")
        and (controls := group["rewards"][name].get("unbeaten_controls"))
    }
    controls = [name for name in group["controls"] if any(name in of for of in behind.values())]
    return sentences.unproven([*behind], controls) if behind else ""


def _reached(group: SummaryPart) -> str:
    """Return which rewards ended at or above best-of-n and which below it; "" if none is below.

    Those whose interval is. Of one whose interval holds the goal nothing is said, and nothing of
    fewer than `RELIABLE_SEEDS` runs, whose interval is too narrow.
    """
    if (ends := group["score_range"]) is None or ends["noise"]:
        return ""
    shares = {
        name: entry["figures"]["normalised_score"]["final"]
        for name, entry in group["rewards"].items()
        if "normalised_score" in entry["figures"]
    }
    told = [name for name in shares if group["rewards"][name]["runs"] >= RELIABLE_SEEDS]
    over = [name for name in told if min(shares[name]["mean"], shares[name]["low"]) >= 1.0]
    below = [name for name in told if max(shares[name]["mean"], shares[name]["high"]) < 1.0]
    if not below:
        return ""
    return sentences.reached(
        over,
        below,
        n=ends["n"],
        goal=ends["goal"],
        word=measure_of(ends["measure"], group["by_gold"]).word,
        none=kind_of(group) if len(below) == len(shares) > 1 else None,
    )


def drift_of(group: SummaryPart, name: str) -> Drift:
    """Return whether a reward's lead on the baseline is one of drift, its KL over the run.

    Returns:
        "less": it clearly spends less KL, and neither its score over the run nor that at equal KL
        is clearly above, so that a lead in score minus the KL penalty is KL that it did not spend.
        "more": its score over the run is clearly above, it spends more KL, clearly or on every
        seed, and the upper end of its difference at equal KL, on `RELIABLE_SEEDS` pairs, is below
        `DRIFT_SHARE` of that over the run: most of the lead is KL that it spent sooner.
        "unknown": likewise, but how it stands at equal KL is not shown, or not known. An interval
        that holds 0 shows nothing. "" elsewhere, also where its score at equal KL is clearly above.
    """
    equal = difference_of(group, name, "score", "at_kl")
    area = difference_of(group, name, "score", "auc")
    kl = difference_of(group, name, "kl", "auc")
    if clear(kl) < 0 and clear(area) <= 0 and clear(equal) <= 0:
        return "less"
    spends_more = kl and (clear(kl) > 0 or kl["wins"] == kl["pairs"])
    if not area or clear(area) <= 0 or not spends_more or clear(equal) > 0:
        return ""
    if equal is None or equal["pairs"] < RELIABLE_SEEDS:
        return "unknown"
    return "more" if equal["high"] < DRIFT_SHARE * area["difference"] else "unknown"


def _difference(group: SummaryPart, name: str) -> str:
    """Return a reward's difference to the baseline over the run, and whether it is clear.

    Of runs some of which ended early there is no verdict.
    """
    area, baseline = difference_of(group, name, "score", "auc"), group["baseline"]
    arm = sentences.named([name], group["controls"])
    if not area:
        return sentences.unpaired(arm, baseline)
    about = (arm, baseline, measure_of("score", group["by_gold"]).word)
    if carried := group["rewards"][name]["versus_baseline"].get("carried"):
        return sentences.carried_forward(*about, area, carried, unit_of(group))
    return sentences.over_the_run(*about, area, *word_of(group, name))


def _about_runs(group: SummaryPart, others: Sequence[str]) -> Iterator[str]:
    """Yield which runs the figures are of, and over which steps."""
    kind, unit = kind_of(group), unit_of(group)
    if group["wanted_baseline"] != group["baseline"]:
        yield sentences.another_baseline(group["wanted_baseline"], group["baseline"])
    runs = {name: entry["runs"] for name, entry in group["rewards"].items()}
    if few := {name: count for name, count in runs.items() if 1 < count < RELIABLE_SEEDS}:
        are_all = len(few) == len(runs) and len({*few.values()}) == 1
        yield sentences.few_seeds(few, kind if are_all else None)  # one seed has no interval
    if group["failed_seeds"]:
        yield sentences.failed(
            group["failed"],
            group["failed_seeds"],
            group["failure"],
            kind,
            can_retry=group["can_retry"],
        )
    if group["missing_seeds"]:
        yield sentences.unfinished(group["missing_seeds"])
    if group["unscored"]:
        yield sentences.unscored(group["unscored"])
    if group["late"]:
        yield sentences.begins_late(group["late"], unit)
    if group["ended_early"]:
        yield sentences.ended_early(_early(group), unit)
    cut_at, longest = group["cut_at"], group["longest"]
    near = NEAR_END * longest if group["axis"] == "tokens" else 0.0
    if cut_at is not None and longest - cut_at > near:
        yield sentences.unlike_lengths(cut_at, group["shortest"], longest, unit)
    unlike = [name for name in others if group["rewards"][name]["versus_baseline"]["unlike_steps"]]
    if unlike:
        yield sentences.unlike_steps(unlike, group["baseline"], unit)
    yield from _unlike_tokens(group)
    yield from _unshared_seeds(group, others)


def _unlike_tokens(group: SummaryPart) -> Iterator[str]:
    """Yield how many tokens the rewards sampled, where one did `MORE_TOKENS` as many as another."""
    sampled = group["tokens"].values()
    if sampled and max(sampled) > MORE_TOKENS * min(sampled):
        yield sentences.unlike_tokens(group["tokens"])


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
            unlike.append((name, int(area["pairs"]), len(own)))
    if unlike:
        yield sentences.unshared_seeds(group["baseline"], len(base), unlike)


def _about_measures(group: SummaryPart) -> Iterator[str]:
    """Yield what has no best of n or was not measured, and which runs collapsed."""
    rows, ends = group["reference"]["best_of_n"] if group["reference"] else [], group["score_range"]
    if rows and rows[-1]["score"] == rows[0]["score"]:
        yield sentences.NO_BEST_OF_N
    elif ends and ends["noise"]:
        yield sentences.not_normalised(ends["noise"])
    lacking: dict[tuple[str, ...], list[str]] = {}
    for name, rewards in group["lost"].items():
        lacking.setdefault(tuple(rewards), []).append(name)
    for rewards, measures in lacking.items():
        yield sentences.left_out(measures, rewards)
    rates = {name: entry["collapse_rate"] for name, entry in group["rewards"].items()}
    if collapsed := {name: rate for name, rate in rates.items() if rate > 0}:
        yield sentences.collapsed(collapsed)


# --- alarms ---------------------------------------------------------------------------------------


def _alarms(group: SummaryPart) -> Iterator[str]:
    """Yield each sign of over-optimisation once, with the rewards that show it.

    They stand before all cautions: a gamed score puts every other sentence in doubt.
    """
    shown: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for name, entry in group["rewards"].items():
        for alarm in entry["alarms"]:
            arms = shown.setdefault((alarm["sign"], alarm["remedy"]), [])
            arms.append((name, alarm["detail"]))
    for (sign, remedy), arms in shown.items():
        yield sentences.alarm(sign, remedy, arms)


def find_alarms(
    curves: Mapping[str, Array], steps: ArrayLike, *, axis: str = "update", by_gold: bool = False
) -> list[Alarm]:
    """Return the signs of over-optimisation in one reward's mean curves.

    Args:
        curves: Per measurement (time,), the first value the reference policy's; one with a missing
            value gives no alarm.
        steps: (time,) updates made, or tokens read, at each evaluation.
        axis: "tokens" if ``steps`` are tokens.
        by_gold: Whether ``score`` is the gold score, which no training maximised.

    Example:
        >>> curves = {"score": np.arange(6.0), "gold_score": np.array([0, 1, 2, 1.5, 1, 0.5])}
        >>> str(find_alarms(curves, [0, 10, 20, 30, 40, 50])[0])
        'the gold score fell while the score rose (from update 20 on: gold 2 to 0.5, score 2 to 5)'
    """
    at = np.asarray(steps, dtype=np.float64)
    curves = {name: curve for name, curve in curves.items() if np.isfinite(curve).all()}
    return [
        *_parted(curves, at, axis),
        *_of_texts(curves),
        *(_leap(curves, at) if axis != "tokens" else ()),
        *(_net_loss(curves, by_gold) if at[0] == 0 else ()),  # else the start is not known
    ]


def _parted(curves: Mapping[str, Array], steps: Array, axis: str) -> Iterator[Alarm]:
    both = [curves[name] for name in ("score", "gold_score") if name in curves]
    if len(both) == 2 and (at := parting(*both)):
        gold, score = (at.gold_best, at.gold_last), (at.score_then, at.score_last)
        yield sentences.gold_fell(steps[at.best_at], axis, gold, score)


def _of_texts(curves: Mapping[str, Array]) -> Iterator[Alarm]:
    limits: tuple[tuple[str, float, Literal["copied", "repeated"]], ...] = (
        ("copy_rate", COPY_RISE, "copied"),
        ("repetition", REPETITION_RISE, "repeated"),
    )
    for name, limit, what in limits:
        if name in curves:
            first, last = curves[name][0], final_mean(curves[name])
            if last - first > limit:
                yield sentences.of_trigrams(what, first, last)
    if (lengths := curves.get("length")) is not None:
        first, last = lengths[0], final_mean(lengths)
        if abs(last - first) > LENGTH_CHANGE * first:
            yield sentences.length_changed(first, last)


def _leap(curves: Mapping[str, Array], updates: Array) -> Iterator[Alarm]:
    """Yield the alarm of the longest leap in one update, if it is beyond the limits.

    nats_per_update > max(MAX_LEAP, MAX_LEAP_SHARE * kl at the end)

    A single evaluation shows none.
    """
    kl = curves.get("kl", np.empty(0))
    if len(kl) < 2:
        return
    crossed = nats_per_update(updates, kl)
    i, at_end = int(np.argmax(crossed)), final_mean(kl)
    if crossed[i] > max(MAX_LEAP, MAX_LEAP_SHARE * at_end):
        yield sentences.leapt(crossed[i], updates[i], updates[i + 1], at_end)


def _net_loss(curves: Mapping[str, Array], by_gold: bool) -> Iterator[Alarm]:
    """Yield the alarm of a training that ended below its start by what it maximised.

    Of a flat curve both its `levels` and its own end, which is printed, must be below.
    """
    net = curves.get("net_score", np.empty(0))
    if len(net) < FEWEST:
        return
    held, at_end = levels(net), final_mean(net)
    if held[0] - final_mean(held) > NOISES * noise(net) and at_end < net[0]:
        yield sentences.lost_by_its_objective(net[0], at_end, by_gold=by_gold)


def short_of_best(ended: float, rows: Sequence[Mapping[str, float]]) -> Alarm | None:
    """Return the alarm of a training that ended below the best of a few untrained responses.

    By score minus the KL penalty where that has a price: beside the score that is printed a number
    with the penalty would contradict it.

    Example:
        >>> short_of_best(0.5, [{"n": 4, "score": 1.0}]).detail
        'score 0.5 against 1'
    """
    row = next((row for row in rows if row["n"] == FEW), None)
    measure = "net_score" if row and "net_score" in row else "score"
    if row is None or ended >= row[measure]:
        return None
    return sentences.below_best(FEW, measure, ended, row[measure])
