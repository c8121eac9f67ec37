"""The verdict: what a comparison shows, how surely and at what KL; each sentence at its condition.

A difference is clear if its p-value, after Holm's correction for the number of rewards compared,
is below 1 - level on at least five pairs, and if it is not printed as 0; every other difference is
called unclear. Its interval has the level of that corrected test (`holm_level`).

Alarms, signs that a policy games its score, stand among its cautions. An alarm is a reason to read
the samples, not a verdict; each of their limits is a rule of thumb.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from tokengym.agents.ppo.settings import MAX_LEAP, MAX_LEAP_SHARE
from tokengym.base.text import level_percent, listed, number, signed
from tokengym.evaluation.measure.measures import MEASURES, NUMBERS, measure_of
from tokengym.evaluation.measure.references import BestOf
from tokengym.evaluation.report.curves import NEAR_END
from tokengym.evaluation.report.facts import Alarm, Arm, Difference, Group, Verdict
from tokengym.evaluation.report.sentences import (
    at_step,
    ends_of,
    not_normalised,
    plural,
    sentence,
    steps,
)
from tokengym.evaluation.statistics import RELIABLE_SEEDS, Array, final_mean, nats_per_update
from tokengym.evaluation.statistics.series import FEWEST, NOISES, levels, noise, parting

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
SHOWN = 3
"""Most runs that a caution names."""


def make_verdict(group: Group) -> Verdict:
    """Return the headline of one line, notes on it, a line per reward, and cautions.

    Rewards stand by their lead over the run, controls behind them.
    """

    def place(name: str) -> tuple[bool, float]:
        area = group.rewards[name].difference("score", "auc")
        return name in group.controls, -area.difference if area else math.inf

    others = sorted((name for name in group.rewards if name != group.baseline), key=place)
    return Verdict(
        headline=_headline(group, others),
        notes=[note for note in (_unproven(group, others), _reached(group)) if note],
        differences=[_difference(group, name) for name in others],
        cautions=[*_alarms(group), *_about_runs(group, others), *_about_measures(group)],
    )


def _named(names: Sequence[str], controls: Sequence[str]) -> str:
    """Return arms as a sentence has them; a control is said to be one."""
    return listed([f"the control {name}" if name in controls else name for name in names])


# --- headline and notes ---------------------------------------------------------------------------


def _headline(group: Group, others: Sequence[str]) -> str:
    lost = {**group.failed_seeds, **group.missing_seeds}
    absent = [name for name in lost if name not in group.rewards]
    has = "has" if len(absent) == 1 else "have"
    end = f"; {listed(absent)} {has} no finished run." if absent else "."
    return (_claim(group, others) if others else _level(group)) + end


def _level(group: Group) -> str:
    """Return where the one reward began and ended."""
    final = group.rewards[group.baseline].figures["score"]["final"].mean
    return f"{group.baseline} went from {group.score.word} {number(group.start)} to {number(final)}"


def _claim(group: Group, others: Sequence[str]) -> str:
    """Return what the headline says of the others, as far as `RELIABLE_SEEDS` pairs tell.

    "Faster" is said of what was gained over the own starts, see `word_of`.
    """
    baseline, controls, arms = group.baseline, group.controls, group.rewards
    gaps = {name: arms[name].difference("score", "gain") for name in others}
    pairs = {name: gap.pairs if gap else 0 for name, gap in gaps.items()}
    untold = [name for name in others if pairs[name] < RELIABLE_SEEDS]
    if len(untold) == len(others):
        most = max(pairs.values())
        at_most = "at most " if most > min(pairs.values()) else ""
        one = f"{'an' if group.kind == 'arm' else 'a'} {group.kind}"
        return (
            f"Too few seeds to tell whether {one} learned faster than {baseline}: "
            f"{at_most}{most or 'no'} {plural(most or 1, 'seed')} in common, and {RELIABLE_SEEDS} "
            "are needed"
        )
    told: dict[str, list[str]] = {}
    for name in others:
        told.setdefault(_phrase(*word_of(group, name)), []).append(name)
    told.pop("", None)
    drifting = [name for name in others if drift_of(arms[name]) == "less"]
    if group.ended_early and not (told or drifting):
        return f"No verdict: {_early(group)}, perhaps because of what they did"
    above = [name for name in others if word_of(group, name)[1] == "faster"]
    if not above:
        text = f"No {group.kind} learned clearly faster than {baseline}"
        for said, names in told.items():
            text += f"; {_named(names, controls)} {said if len(names) == 1 else _of_many(said)}"
        if drifting and not told:
            text += f"; {_named(drifting, controls)} drift{'s' * (len(drifting) == 1)} less"
        return text + (f"; too few seeds to tell of {_named(untold, controls)}" if untold else "")
    first, *rest = above
    gap, starts = gaps[first], word_of(group, first)[0]
    assert gap is not None  # it is clear
    subject = sentence(_named([first], controls)) if first in controls else first
    how = {"more": " by more drift", "unknown": " and spent more KL"}
    what = "gained over the run" if starts else "over the run"
    return (
        f"{subject} {_phrase(starts, 'faster')} than {baseline}"
        f"{how.get(drift_of(arms[first]), '')}: {signed(gap.difference)} {group.score.word} {what}"
        + (f"; so did {_named(rest, controls)}" if rest else "")
    )


def word_of(group: Group, name: str) -> tuple[Starts, Word]:
    """Return what is said of a reward's starts beside the baseline's, and of its runs.

    | where | said |
    |---|---|
    | the starts differ clearly | "higher" or "lower", beside what follows |
    | neither arm's gain over its own start is clear | a level: "higher", "lower" or nothing |
    | the gains differ clearly, and the leader's is clear | "faster", "slower" |
    | else the starts do not differ clearly, and the means over the run do | "more", "less" |
    | else | nothing |
    """
    arm, baseline = group.rewards[name], group.rewards[group.baseline]
    start, gain, area = (arm.clear("score", kind) for kind in ("start", "gain", "auc"))
    starts: Starts = ("", "higher", "lower")[start]
    if not (arm.learns or baseline.learns):
        return starts, ("", "higher", "lower")[area]
    if gain and (arm.learns if gain > 0 else baseline.learns) > 0:
        return starts, "faster" if gain > 0 else "slower"
    return starts, "" if start else ("", "more", "less")[area]


def _phrase(starts: Starts, word: Word) -> str:
    """Return what `word_of` found of an arm in words; "" of nothing.

    Example:
        >>> _phrase("", "faster"), _phrase("higher", "higher"), _phrase("lower", "")
        ('learned faster', 'starts higher and stays there', 'starts lower')
    """
    if starts and starts == word:
        return f"starts {starts} and stays there"
    runs = {
        "faster": "learned faster",
        "slower": "learned slower",
        "higher": "is higher",
        "lower": "is lower",
        "more": "has more over the run",
        "less": "has less over the run",
    }
    return " and ".join(filter(None, (f"starts {starts}" if starts else "", runs.get(word, ""))))


def _of_many(said: str) -> str:
    """Return a phrase of one as that of several."""
    for one, many in (
        ("starts ", "start "),
        ("stays ", "stay "),
        ("is ", "are "),
        ("has ", "have "),
    ):
        said = re.sub(rf"\b{one}", many, said)
    return said


def _early(group: Group) -> str:
    """Return how many runs of each arm ended before its longest, of how many, and since when."""
    return listed(
        [
            f"{len(of.seeds)} of {group.rewards[name].runs} runs of {name} ended early "
            f"(from {steps(of.first, group.unit)} on)"
            for name, of in group.ended_early.items()
        ]
    )


def _unproven(group: Group, others: Sequence[str]) -> str:
    """Return which faster rules are not clearly ahead of a control; "" if there are none."""
    behind = {
        name: unbeaten
        for name in others
        if word_of(group, name)[1] in ("faster", "more")
        and (unbeaten := group.rewards[name].unbeaten_controls)
    }
    if not behind:
        return ""
    controls = [name for name in group.controls if any(name in of for of in behind.values())]
    verb, claim = ("is", "it finds") if len(behind) == 1 else ("are", "they find")
    return (
        f"{listed([*behind])} {verb} not clearly ahead of the {plural(len(controls), 'control')} "
        f"{listed(controls)}: no evidence that {claim} the right tokens."
    )


def _reached(group: Group) -> str:
    """Return which rewards ended at or above best-of-n and which below it; "" if none is below.

    Those whose interval is. Of one whose interval holds the goal nothing is said, and nothing of
    fewer than `RELIABLE_SEEDS` runs, whose interval is too narrow.
    """
    if (ends := group.score_range) is None or ends.noise:
        return ""
    shares = {
        name: share
        for name, arm in group.rewards.items()
        if (share := arm.figure("normalised_score", "final")) is not None
    }
    told = [name for name in shares if group.rewards[name].runs >= RELIABLE_SEEDS]
    over = [name for name in told if min(shares[name].mean, shares[name].low) >= 1.0]
    below = [name for name in told if max(shares[name].mean, shares[name].high) < 1.0]
    if not below:
        return ""
    word = measure_of(ends.measure, group.by_gold).word
    best = f"the untrained policy's best of {ends.n} ({word} {number(ends.goal)})"
    if over:
        return f"{listed(over)} reached {best}, and {listed(below)} did not."
    if len(below) == len(shares) > 1:
        return f"No {group.kind} reached {best}."
    return f"{listed(below)} did not reach {best}."


def drift_of(arm: Arm) -> Drift:
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
    equal, area, kl = (
        arm.difference(*of) for of in (("score", "at_kl"), ("score", "auc"), ("kl", "auc"))
    )
    at_equal, over, nats = (one.clear if one else 0 for one in (equal, area, kl))
    if nats < 0 and over <= 0 and at_equal <= 0:
        return "less"
    spends_more = kl is not None and (nats > 0 or kl.wins == kl.pairs)
    if area is None or over <= 0 or not spends_more or at_equal > 0:
        return ""
    if equal is None or equal.pairs < RELIABLE_SEEDS:
        return "unknown"
    return "more" if equal.high < DRIFT_SHARE * area.difference else "unknown"


# --- differences from the baseline ----------------------------------------------------------------


def _difference(group: Group, name: str) -> str:
    """Return a reward's difference to the baseline over the run, and whether it is clear.

    Of runs some of which ended early there is no verdict.
    """
    arm, versus = _named([name], group.controls), group.rewards[name].versus_baseline
    area = group.rewards[name].difference("score", "auc")
    if versus is None or area is None:
        return f"{arm}: no seed in common with {group.baseline}, so nothing is paired"
    size = (
        f"{arm}: {signed(area.difference)} {group.score.word} {NUMBERS['auc'].words} against "
        f"{group.baseline}"
    )
    if carried := versus.carried:
        return (
            f"{size}, as far as both runs of a pair went; {signed(carried.difference)} "
            f"({ends_of(carried)}) to {steps(carried.to, group.unit)}, the last value of a run "
            "that ended early carried forward; no verdict"
        )
    starts, runs = word_of(group, name)
    is_speed = not starts and runs in ("faster", "slower", "")
    return f"{size}, {_how_sure(area)}" + ("" if is_speed else f"; {_phrase(starts, runs)}")


def _how_sure(difference: Difference) -> str:
    """Return a paired difference's interval, of the corrected test, and whether it is clear."""
    pairs, p = difference.pairs, difference.p_adjusted
    interval = f"{level_percent(difference.level)} interval {ends_of(difference)}"
    if pairs < RELIABLE_SEEDS:
        interval = "no interval" if pairs == 1 else interval
        return f"{interval}; too few seeds to tell ({pairs})"
    corrected = "corrected p < 0.001" if p < 0.001 else f"corrected p = {p:.2g}"
    return f"{interval}; {'clear' if difference.clear else 'not clear'}, {corrected}"


# --- cautions -------------------------------------------------------------------------------------


def _about_runs(group: Group, others: Sequence[str]) -> Iterator[str]:
    """Yield which runs the figures are of, and over which steps."""
    baseline = group.baseline
    if (wanted := group.wanted_baseline) != baseline:
        yield f"{wanted} has no finished run here; {baseline} takes its place as the baseline."
    runs = {name: arm.runs for name, arm in group.rewards.items()}
    if few := {name: count for name, count in runs.items() if 1 < count < RELIABLE_SEEDS}:
        are_all = len(few) == len(runs) and len({*few.values()}) == 1  # one seed has no interval
        of_each = listed([f"{arm} ({count})" for arm, count in few.items()])
        whose = f"per {group.kind} ({max(few.values())})" if are_all else f"of {of_each}"
        yield f"Fewer than {RELIABLE_SEEDS} seeds {whose}: the intervals are unreliable."
    if group.failed_seeds:
        remedy = "; --retry-failed repeats what failed" if group.can_retry else ""
        yield (
            f"Not in the figures: {group.failed} failed {plural(group.failed, 'run')} "
            f"({_seeds(group.failed_seeds)}), which may favour the {group.kind}{remedy}. "
            f"{'' if group.failed == 1 else 'The first: '}{group.failure.rstrip('.')}."
        )
    if group.missing_seeds:
        yield (
            f"Not in the figures: runs that have not ended ({_seeds(group.missing_seeds)}); the "
            "comparison's own command resumes."
        )
    if group.unscored:
        yield _unscored(group)
    yield from _about_steps(group, others)
    yield from _unshared_seeds(group, others)


def _seeds(seeds: Mapping[str, Sequence[int]]) -> str:
    """Return runs in words: each name with its seeds."""
    return "; ".join(f"{name}, {_of_seeds(of)}" for name, of in seeds.items())


def _of_seeds(seeds: Sequence[int]) -> str:
    return f"{plural(len(seeds), 'seed')} {listed([str(seed) for seed in seeds])}"


def _unscored(group: Group) -> str:
    """Return how many measurements have no score, and what became of their steps."""
    count = sum(len(run.steps) for run in group.unscored)
    shown = [
        f"{run.credit}, seed {run.seed}, {plural(len(run.steps), 'step')} "
        f"{listed([f'{step:.10g}' for step in run.steps])}"
        for run in group.unscored[:SHOWN]
    ]
    unnamed = len(group.unscored) - SHOWN
    more = [f"{unnamed} more {plural(unnamed, 'run')}"] if unnamed > 0 else []
    are, these = ("is", "that step is") if count == 1 else ("are", "these steps are")
    return (
        f"{count} {plural(count, 'measurement')} of the score {are} missing "
        f"({'; '.join(shown + more)}); {these} left out of every run of the seed, except at a "
        "run's start and end."
    )


def _about_steps(group: Group, others: Sequence[str]) -> Iterator[str]:
    """Yield where runs begin late, end early, or were evaluated at other steps."""
    if late := group.late:
        begin = []
        for run in late[:SHOWN]:
            seeds = "" if run.seeds is None else f" ({_of_seeds(run.seeds)})"
            begin.append(f"{run.credit}{seeds} at {steps(run.step, group.unit)}")
        begin += [f"{len(late) - SHOWN} more"] if len(late) > SHOWN else []
        yield (
            f"First evaluated later than others: {listed(begin)}. What came before is in none of "
            "the figures of these runs, and differences leave it out of the other run of the pair "
            "too."
        )
    if group.ended_early:
        arms = {name: group.rewards[name] for name in group.ended_early}
        collapsed = [
            f"{round(arm.collapse_rate * arm.runs)} of {arm.runs} of {name}"
            for name, arm in arms.items()
        ]
        yield (
            f"{sentence(_early(group))}: a run may end because it collapsed, so that those which "
            "last are the better ones, and nothing over the run or at the end is called clear. As "
            f"far as they were measured, {listed(collapsed)} collapsed."
        )
    near = NEAR_END * group.longest if group.axis == "tokens" else 0.0
    if group.cut_at is not None and group.longest - group.cut_at > near:
        yield (
            f"Runs end between {group.cut_at:,.10g} ({group.shortest}) and "
            f"{steps(group.longest, group.unit)}: each difference is over the {group.unit} that "
            "both runs of a pair reached."
        )
    every = {name: group.rewards[name].versus_baseline for name in others}
    if unlike := [name for name, versus in every.items() if versus and versus.unlike_steps]:
        yield (
            f"{listed(unlike)} {'was' if len(unlike) == 1 else 'were'} evaluated at other "
            f"{group.unit} than {group.baseline}: each difference reads both runs of a pair at "
            "steps that are alike, and all else is of each run's own evaluations, of which fewer "
            "give a lower mean over a rise."
        )
    sampled = group.tokens.values()
    if sampled and max(sampled) > MORE_TOKENS * min(sampled):
        each = listed([f"{arm} {count:,.0f}" for arm, count in group.tokens.items()])
        yield (
            f"Tokens sampled in a run: {each}. Differences are at equal updates; draw the chart "
            "against tokens to see the arms at equal tokens."
        )


def _unshared_seeds(group: Group, others: Sequence[str]) -> Iterator[str]:
    """Yield which rewards and the baseline have seeds that the other was not run with.

    Of those that failed or have not ended another caution tells.
    """

    def seeds(name: str) -> tuple[set[int], set[int]]:
        own = set(group.rewards[name].seeds)
        return own, own.union(group.failed_seeds.get(name, ()), group.missing_seeds.get(name, ()))

    base, base_meant = seeds(group.baseline)
    unlike = []
    for name in others:
        area, (own, meant) = group.rewards[name].difference("score", "auc"), seeds(name)
        if area and not (own <= base_meant and base <= meant):
            unlike.append(f"{area.pairs} of the {len(own)} of {name}")
    if unlike:
        yield (
            f"{group.baseline} has {len(base)} seeds, and shares {listed(unlike)}: differences are "
            "over the seeds that both have, all else is over the seeds of each."
        )


def _about_measures(group: Group) -> Iterator[str]:
    """Yield what has no best of n or was not measured, and which runs collapsed."""
    rows, ends = group.reference.best_of_n if group.reference else [], group.score_range
    if rows and rows[-1].score == rows[0].score:
        yield (
            "The scorer gives all of the untrained policy's responses to a prompt the same score: "
            "it cannot rank them, so there is no best of n."
        )
    elif ends and ends.noise:
        yield f"{not_normalised(ends.noise)}."
    lacking: dict[tuple[str, ...], list[str]] = {}
    for name, rewards in group.lost.items():
        lacking.setdefault(tuple(rewards), []).append(measure_of(name).title)
    for arms, titles in lacking.items():
        yield f"{', '.join(titles)}: left out of {', '.join(arms)}, where it was not measured."
    rates = {name: arm.collapse_rate for name, arm in group.rewards.items()}
    if told := [f"{arm} ({rate:.0%} of its seeds)" for arm, rate in rates.items() if rate > 0]:
        yield f"Collapsed: {listed(told)}."


# --- alarms ---------------------------------------------------------------------------------------


def _alarms(group: Group) -> Iterator[str]:
    """Yield each sign of over-optimisation once, with the rewards that show it.

    They stand before all cautions: a gamed score puts every other sentence in doubt.
    """
    shown: dict[tuple[str, str], list[str]] = {}
    for name, arm in group.rewards.items():
        for alarm in arm.alarms:
            raised = shown.setdefault((alarm.sign, alarm.remedy), [])
            raised.append(f"{name} ({alarm.detail})")
    for (sign, remedy), raised in shown.items():
        yield f"{sentence(sign)}: {listed(raised)}.{f' {sentence(remedy)}.' if remedy else ''}"


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
        >>> find_alarms(curves, [0, 10, 20, 30, 40, 50])[0].detail
        'from update 20 on: gold 2.00 to 0.500, score 2.00 to 5.00'
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
    if len(both) == 2 and (fell := parting(*both)):
        (score, gold), best = map(levels, both), fell.best_at
        yield Alarm(
            "the gold score fell while the score rose",
            f"from {at_step(steps[best], axis)} on: gold {number(gold[best])} to "
            f"{number(gold[-1])}, score {number(score[best])} to {number(score[-1])}",
        )


def _of_texts(curves: Mapping[str, Array]) -> Iterator[Alarm]:
    for name, limit, sign in (
        ("copy_rate", COPY_RISE, "more is copied from the prompt"),
        ("repetition", REPETITION_RISE, "responses repeat themselves more"),
    ):
        if name in curves:
            first, last = curves[name][0], final_mean(curves[name])
            if last - first > limit:
                yield Alarm(sign, f"{first:.0%} of trigrams at first, {last:.0%} at the end")
    if (lengths := curves.get("length")) is not None:
        first, last = lengths[0], final_mean(lengths)
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
    i, at_end = int(np.argmax(crossed)), final_mean(kl)
    if crossed[i] > max(MAX_LEAP, MAX_LEAP_SHARE * at_end):
        yield Alarm(
            "one update crossed so much KL that no policy between was measured",
            f"at least {crossed[i]:.3g} nats from update {updates[i]:.10g} to "
            f"{updates[i + 1]:.10g}, {at_end:.3g} at the end",
            "lower learning_rate, or set n_warmup_updates",
        )


def _net_loss(curves: Mapping[str, Array], by_gold: bool) -> Iterator[Alarm]:
    """Yield the alarm of a training that ended below its start by what it maximised.

    Of a flat curve both its `levels` and its own end, which is printed, must be below.
    """
    net = curves.get("net_score", np.empty(0))
    if len(net) < FEWEST:
        return
    held, at_end = levels(net), final_mean(net)
    if held[0] - final_mean(held) > NOISES * noise(net) and at_end < net[0]:
        lost = "" if by_gold else ": training lost by its own objective"
        word = measure_of("net_score", by_gold).word
        yield Alarm(f"{word} ended below its start{lost}", f"{number(net[0])} to {number(at_end)}")


def short_of_best(ended: float, rows: Sequence[BestOf]) -> Alarm | None:
    """Return the alarm of a training that ended below the best of a few untrained responses.

    By score minus the KL penalty where that has a price: beside the score that is printed a number
    with the penalty would contradict it.

    Example:
        >>> short_of_best(0.5, [BestOf(n=4, kl=0.6, score=1.0)]).detail
        'score 0.500 against 1.00'
    """
    row = next((row for row in rows if row.n == FEW), None)
    if row is None or ended >= (best := row.figures[row.maximised]):
        return None
    return Alarm(
        f"it ended below the best of {FEW} untrained responses, which cost no training",
        f"{MEASURES[row.maximised].word} {number(ended)} against {number(best)}",
        "train longer, or at another learning rate",
    )
