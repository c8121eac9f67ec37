"""Every sentence of the report, as a function of facts.

What is compared, tested and counted is found in `summary`, `verdict` and `tables`; here it is said,
each sentence once, whether a page, a terminal or a paper shows it. The names of measurements and of
the numbers that are taken of them stand in the tables of `evaluation.measure.measures`, the
headings of the page in its template.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from tokengym.base.text import level_percent, listed, number, signed
from tokengym.evaluation.measure.measures import (
    MEASURES,
    NUMBERS,
    OF_MEASURING,
    Measure,
    measure_of,
)
from tokengym.evaluation.measure.references import BEST_OF
from tokengym.evaluation.statistics import MIN_KL, RELIABLE_SEEDS

NOTHING = "\u2013"
"""What stands where there is no value."""
SHOWN = 3
"""Most runs that a caution names."""
Kind = Literal["reward", "learner", "arm"]
"""What is compared, in one word."""
Unit = Literal["updates", "tokens"]
"""Unit of the curves' steps, in the plural."""


def kind_of(group: Mapping[str, Any]) -> Kind:
    """Return what a group compares, in one word."""
    if group["axis"] == "tokens":
        return "learner"
    return "arm" if group.get("of_tools") else "reward"


def unit_of(group: Mapping[str, Any]) -> Unit:
    """Return the unit of the curves' steps, in the plural."""
    return "tokens" if group["axis"] == "tokens" else "updates"


def sentence(text: str) -> str:
    """Return a text with a capital at its beginning."""
    return text[:1].upper() + text[1:]


def plural(count: int, word: str) -> str:
    """Return a word in the number that a count asks for."""
    return word if count == 1 else f"{word}s"


def steps(value: float, unit: Unit) -> str:
    """Return an amount of steps, such as ``1,500 tokens``."""
    return f"{value:,.10g} {unit}"


def at_step(step: float, axis: str) -> str:
    """Return a place on a curve, such as ``update 12``, ``update 0.36`` or ``1,500 tokens``."""
    if axis == "tokens":
        return f"{step:,.0f} tokens"
    return f"update {step:.2g}" if step < 10 else f"update {step:,.0f}"


def named(names: Sequence[str], controls: Sequence[str]) -> str:
    """Return arms as a sentence has them; a control is said to be one."""
    return listed([f"the control {name}" if name in controls else name for name in names])


def ends(difference: Mapping[str, Any]) -> str:
    """Return the ends of an interval."""
    return f"{number(difference['low'])} to {number(difference['high'])}"


# --- headline and notes ---------------------------------------------------------------------------


class Early(NamedTuple):
    """Runs of an arm that ended before its longest."""

    name: str
    ended: int
    runs: int
    """All of the arm's runs."""
    first: float
    """Step at which the first of them ended."""
    collapsed: int
    """Runs of the arm that collapsed, as far as they were measured."""

    def says(self, unit: Unit) -> str:
        """Return how many, of how many, and since when."""
        return (
            f"{self.ended} of {self.runs} runs of {self.name} ended early "
            f"(from {steps(self.first, unit)} on)"
        )


def end_of_headline(absent: Sequence[str]) -> str:
    """Return the end of a headline, which names arms without a finished run."""
    has = "has" if len(absent) == 1 else "have"
    return f"; {listed(absent)} {has} no finished run." if absent else "."


def alone(arm: str, word: str, start: float, final: float) -> str:
    """Return the headline of one arm; ``word`` is that of the score."""
    return f"{arm} went from {word} {number(start)} to {number(final)}"


def faster(
    first: str,
    others: Sequence[str],
    baseline: str,
    *,
    lead: float,
    word: str,
    starts: str,
    drift: str,
    controls: Sequence[str],
) -> str:
    """Return the headline of a comparison in which ``first`` and others learned faster.

    ``starts`` is "higher" or "lower" where its start is, ``drift`` "more" where most of the lead is
    KL, "unknown" where it may be, else "".
    """
    how = {"more": " by more drift", "unknown": " and spent more KL"}.get(drift, "")
    also = f"; so did {named(others, controls)}" if others else ""
    what = "gained over the run" if starts else "over the run"
    return (
        f"{sentence(named([first], controls)) if first in controls else first} "
        f"{phrase(starts, 'faster')} than {baseline}{how}: {signed(lead)} {word} {what}{also}"
    )


def phrase(starts: str, word: str) -> str:
    """Return what is said of an arm beside the baseline, by its start and its runs; "" of nothing.

    Example:
        >>> phrase("", "faster"), phrase("higher", "higher"), phrase("lower", "")
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


def none_faster(
    baseline: str,
    kind: Kind,
    *,
    told: Mapping[str, Sequence[str]],
    drifting: Sequence[str],
    untold: Sequence[str],
    controls: Sequence[str],
) -> str:
    """Return the headline of a comparison in which no arm learned clearly faster.

    ``told`` are arms by the `phrase` that is said of them, ``untold`` those of too few seeds.
    """
    text = f"No {kind} learned clearly faster than {baseline}"
    for said, arms in told.items():
        text = f"{text}; {named(arms, controls)} {said if len(arms) == 1 else _of_many(said)}"
    if drifting and not told:
        text = f"{text}; {named(drifting, controls)} drift{'s' * (len(drifting) == 1)} less"
    return f"{text}{_untold(untold, controls)}"


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


def _untold(arms: Sequence[str], controls: Sequence[str]) -> str:
    return f"; too few seeds to tell of {named(arms, controls)}" if arms else ""


def no_verdict(early: Sequence[Early], unit: Unit) -> str:
    """Return the headline of a comparison in which runs ended early."""
    return f"No verdict: {_early(early, unit)}, perhaps because of what they did"


def _early(early: Sequence[Early], unit: Unit) -> str:
    return listed([one.says(unit) for one in early])


def too_few_seeds(baseline: str, kind: Kind, pairs: Sequence[int]) -> str:
    """Return the headline of a comparison in which no arm has the pairs that tell.

    Args:
        baseline: The baseline.
        kind: What is compared.
        pairs: Seeds that each arm has in common with it.
    """
    most = max(pairs)
    count = f"{most or 'no'} {plural(most or 1, 'seed')} in common"
    at_most = "at most " if most > min(pairs) else ""
    return (
        f"Too few seeds to tell whether a {kind} learned faster than {baseline}: {at_most}{count}, "
        f"and {RELIABLE_SEEDS} are needed"
    )


def unproven(rules: Sequence[str], controls: Sequence[str]) -> str:
    """Return that faster rules are not clearly ahead of controls."""
    what = f"{plural(len(controls), 'control')} {listed(controls)}"
    verb, claim = ("is", "it finds") if len(rules) == 1 else ("are", "they find")
    return (
        f"{listed(rules)} {verb} not clearly ahead of the {what}: no evidence that {claim} "
        "the right tokens."
    )


def reached(
    over: Sequence[str], below: Sequence[str], *, n: int, goal: float, word: str, none: Kind | None
) -> str:
    """Return which arms ended at or above the best of n, and which below it.

    ``none`` is what is compared, where not one of several reached it.
    """
    best = f"the untrained policy's best of {n} ({word} {number(goal)})"
    if over:
        return f"{listed(over)} reached {best}, and {listed(below)} did not."
    return f"No {none} reached {best}." if none else f"{listed(below)} did not reach {best}."


# --- differences from the baseline ----------------------------------------------------------------


def how_sure(difference: Mapping[str, Any]) -> str:
    """Return a paired difference's interval, of the corrected test, and whether it is clear."""
    pairs, p = difference["pairs"], difference["p_adjusted"]
    interval = f"{level_percent(difference['level'])} interval {ends(difference)}"
    if pairs < RELIABLE_SEEDS:
        interval = "no interval" if pairs == 1 else interval
        return f"{interval}; too few seeds to tell ({pairs})"
    corrected = "corrected p < 0.001" if p < 0.001 else f"corrected p = {p:.2g}"
    return f"{interval}; {'clear' if difference['clear'] else 'not clear'}, {corrected}"


def unpaired(arm: str, baseline: str) -> str:
    """Return that an arm and the baseline have no seed in common."""
    return f"{arm}: no seed in common with {baseline}, so nothing is paired"


def over_the_run(
    arm: str, baseline: str, word: str, difference: Mapping[str, Any], starts: str, runs: str
) -> str:
    """Return an arm's difference to the baseline over the run, and the phrase where it is no speed.

    ``starts`` and ``runs`` are those of `phrase`.
    """
    said = "" if not starts and runs in ("faster", "slower", "") else f"; {phrase(starts, runs)}"
    return f"{_size(arm, baseline, word, difference, 'auc')}, {how_sure(difference)}{said}"


def carried_forward(
    arm: str,
    baseline: str,
    word: str,
    difference: Mapping[str, Any],
    carried: Mapping[str, Any],
    unit: Unit,
) -> str:
    """Return a difference of runs some of which ended early, which is none of the run."""
    return (
        f"{_size(arm, baseline, word, difference, 'auc')}, as far as both runs of a pair went; "
        f"{signed(carried['difference'])} ({ends(carried)}) to {steps(carried['to'], unit)}, the "
        "last value of a run that ended early carried forward; no verdict"
    )


def _size(arm: str, baseline: str, word: str, difference: Mapping[str, Any], number_of: str) -> str:
    size, when = signed(difference["difference"]), NUMBERS[number_of].words
    return f"{arm}: {size} {word} {when} against {baseline}"


# --- cautions -------------------------------------------------------------------------------------


def another_baseline(wanted: str, baseline: str) -> str:
    """Return that the baseline that was asked for has no run."""
    return f"{wanted} has no finished run here; {baseline} takes its place as the baseline."


def unlike_scores(columns: Mapping[str, Sequence[str]]) -> str:
    """Return that the scores of arms were logged in different columns."""
    taken = [f"{column} of {listed(arms)}" for column, arms in columns.items()]
    return f"The scores may be different measurements, as their columns are: {'; '.join(taken)}."


def failed_references(error: str) -> str:
    """Return that the responses behind best-of-n failed."""
    return f"No best-of-n: its responses failed ({error})."


def unlike_versions(met: Mapping[str, Sequence[str]]) -> str:
    """Return that runs were made with different versions, by package."""
    mixed = ", ".join(f"{name} {' and '.join(versions)}" for name, versions in met.items())
    return f"The runs were made with different versions: {mixed}."


def measured_by_first(reward: str) -> str:
    """Return that the scorer of the first reward measures rewards with different scorers."""
    return (
        f"The rewards have different scorers, and no gold score judges them: {reward}'s scorer "
        "measures all, which favours the rewards that train by it."
    )


def measured_by_gold(rivals: tuple[tuple[str, str], tuple[str, str]]) -> str:
    """Return that the gold score measures the runs of two folders, each with its judge."""
    (one, judge), (other, other_judge) = rivals
    return (
        f"The runs of {one} were measured by {judge}, those of {other} by {other_judge}: here the "
        "gold score measures all."
    )


def unseen_credit(advantage: str, rewards: Sequence[str]) -> str:
    """Return that an advantage reads whole scores, so that some rewards are ``sparse`` to it."""
    return (
        f"{advantage} sees only the score of a whole response, not the credit of its tokens: where "
        f"the score is the same, the curves of {', '.join(rewards)} must equal sparse's."
    )


def few_seeds(seeds: Mapping[str, int], kind: Kind | None) -> str:
    """Return that intervals are unreliable, of arms with so many seeds.

    ``kind`` is what is compared where these are all arms, with as many seeds each.
    """
    if kind:
        whose = f"per {kind} ({max(seeds.values())})"
    else:
        whose = f"of {listed([f'{arm} ({count})' for arm, count in seeds.items()])}"
    return f"Fewer than {RELIABLE_SEEDS} seeds {whose}: the intervals are unreliable."


def failed(
    count: int, seeds: Mapping[str, Sequence[int]], failure: str, kind: Kind, *, can_retry: bool
) -> str:
    """Return which runs failed, and how the first of them did."""
    first = "" if count == 1 else "The first: "
    remedy = "; --retry-failed repeats what failed" if can_retry else ""
    return (
        f"Not in the figures: {count} failed {plural(count, 'run')} ({_seeds(seeds)}), which may "
        f"favour the {kind}{remedy}. {first}{failure.rstrip('.')}."
    )


def unfinished(seeds: Mapping[str, Sequence[int]]) -> str:
    """Return which runs have not ended."""
    return (
        f"Not in the figures: runs that have not ended ({_seeds(seeds)}); the comparison's own "
        "command resumes."
    )


def unscored(runs: Sequence[Mapping[str, Any]]) -> str:
    """Return how many measurements have no score, and what became of their steps."""
    count = sum(len(run["steps"]) for run in runs)
    shown = [
        f"{run['credit']}, seed {run['seed']}, {plural(len(run['steps']), 'step')} "
        f"{listed([f'{step:.10g}' for step in run['steps']])}"
        for run in runs[:SHOWN]
    ]
    unnamed = len(runs) - SHOWN
    more = [f"{unnamed} more {plural(unnamed, 'run')}"] if unnamed > 0 else []
    is_one = count == 1
    return (
        f"{count} {plural(count, 'measurement')} of the score {'is' if is_one else 'are'} missing "
        f"({'; '.join(shown + more)}); {'that step is' if is_one else 'these steps are'} left out "
        "of every run of the seed, except at a run's start and end."
    )


def _seeds(seeds: Mapping[str, Sequence[int]]) -> str:
    """Return runs in words: each name with its seeds."""
    return "; ".join(f"{name}, {_of_seeds(of)}" for name, of in seeds.items())


def _of_seeds(seeds: Sequence[int]) -> str:
    return f"{plural(len(seeds), 'seed')} {listed([str(seed) for seed in seeds])}"


def begins_late(runs: Sequence[Mapping[str, Any]], unit: Unit) -> str:
    """Return which runs were first evaluated later than others, and what that does to figures.

    Args:
        runs: Of each arm and step at which runs of it begin ``credit``, ``step`` and ``seeds``,
            None where it has no others.
        unit: Unit of the steps.
    """
    begin = []
    for run in runs[:SHOWN]:
        seeds = "" if run["seeds"] is None else f" ({_of_seeds(run['seeds'])})"
        begin.append(f"{run['credit']}{seeds} at {steps(run['step'], unit)}")
    begin += [f"{len(runs) - SHOWN} more"] if len(runs) > SHOWN else []
    return (
        f"First evaluated later than others: {listed(begin)}. What came before is in none of the "
        "figures of these runs, and differences leave it out of the other run of the pair too."
    )


def ended_early(early: Sequence[Early], unit: Unit) -> str:
    """Return which runs ended early, and why nothing is then called clear."""
    collapsed = [f"{one.collapsed} of {one.runs} of {one.name}" for one in early]
    return (
        f"{sentence(_early(early, unit))}: a run may end because it collapsed, so that those which "
        "last are the better ones, and nothing over the run or at the end is called clear. As far "
        f"as they were measured, {listed(collapsed)} collapsed."
    )


def unlike_lengths(first: float, shortest: str, last: float, unit: Unit) -> str:
    """Return between which steps runs end, and of which differences are."""
    return (
        f"Runs end between {first:,.10g} ({shortest}) and {steps(last, unit)}: each difference is "
        f"over the {unit} that both runs of a pair reached."
    )


def unlike_steps(arms: Sequence[str], baseline: str, unit: Unit) -> str:
    """Return that arms were evaluated at other steps than the baseline."""
    were = "was" if len(arms) == 1 else "were"
    return (
        f"{listed(arms)} {were} evaluated at other {unit} than {baseline}: each difference reads "
        "both runs of a pair at steps that are alike, and all else is of each run's own "
        "evaluations, of which fewer give a lower mean over a rise."
    )


def unlike_tokens(tokens: Mapping[str, float]) -> str:
    """Return how many tokens a run of each arm sampled, where they differ much."""
    each = listed([f"{arm} {count:,.0f}" for arm, count in tokens.items()])
    return (
        f"Tokens sampled in a run: {each}. Differences are at equal updates; draw the chart "
        "against tokens to see the arms at equal tokens."
    )


def unshared_seeds(baseline: str, seeds: int, shared: Sequence[tuple[str, int, int]]) -> str:
    """Return that arms were run with seeds that the baseline has not.

    Args:
        baseline: The baseline.
        seeds: Its seeds.
        shared: Of each such arm its name, the seeds that it shares, and all that it has.
    """
    unlike = [f"{common} of the {own} of {arm}" for arm, common, own in shared]
    return (
        f"{baseline} has {seeds} seeds, and shares {listed(unlike)}: differences are over the "
        "seeds that both have, all else is over the seeds of each."
    )


NO_BEST_OF_N = (
    "The scorer gives all of the untrained policy's responses to a prompt the same score: it "
    "cannot rank them, so there is no best of n."
)


def not_normalised(reason: str) -> str:
    """Return that no score is normalised, and why."""
    return f"No normalised score: {reason}."


def left_out(measures: Sequence[str], arms: Sequence[str]) -> str:
    """Return which measurements some arms lack."""
    titles = ", ".join(measure_of(name).title for name in measures)
    return f"{titles}: left out of {', '.join(arms)}, where it was not measured."


def collapsed(rates: Mapping[str, float]) -> str:
    """Return which share of each arm's seeds collapsed."""
    return (
        f"Collapsed: {listed([f'{arm} ({rate:.0%} of its seeds)' for arm, rate in rates.items()])}."
    )


# --- alarms ---------------------------------------------------------------------------------------


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


def alarm(sign: str, remedy: str, arms: Sequence[tuple[str, str]]) -> str:
    """Return one alarm with the arms that raised it, each with its figures."""
    raised = listed([f"{arm} ({detail})" for arm, detail in arms])
    return f"{sentence(sign)}: {raised}.{f' {sentence(remedy)}.' if remedy else ''}"


def gold_fell(
    step: float, axis: str, gold: tuple[float, float], score: tuple[float, float]
) -> Alarm:
    """Return the alarm of a gold score that fell under a rising score: then, and at the end."""
    return Alarm(
        "the gold score fell while the score rose",
        f"from {at_step(step, axis)} on: gold {gold[0]:.3g} to {gold[1]:.3g}, score {score[0]:.3g} "
        f"to {score[1]:.3g}",
    )


def of_trigrams(what: Literal["copied", "repeated"], first: float, last: float) -> Alarm:
    """Return the alarm of trigrams that are copied from the prompt, or repeated."""
    sign = {
        "copied": "more is copied from the prompt",
        "repeated": "responses repeat themselves more",
    }[what]
    return Alarm(sign, f"{first:.0%} of trigrams at first, {last:.0%} at the end")


def length_changed(first: float, last: float) -> Alarm:
    """Return the alarm of responses that became longer or shorter, in tokens."""
    return Alarm("the length changed", f"{first:.3g} to {last:.3g} tokens")


def leapt(nats: float, first: float, last: float, at_end: float) -> Alarm:
    """Return the alarm of an update, between two, that crossed so many nats."""
    return Alarm(
        "one update crossed so much KL that no policy between was measured",
        f"at least {nats:.3g} nats from update {first:.10g} to {last:.10g}, {at_end:.3g} at the "
        "end",
        "lower learning_rate, or set n_warmup_updates",
    )


def lost_by_its_objective(first: float, last: float, *, by_gold: bool) -> Alarm:
    """Return the alarm of a score minus the KL penalty that ended below its start."""
    lost = "" if by_gold else ": training lost by its own objective"
    word = measure_of("net_score", by_gold).word
    return Alarm(f"{word} ended below its start{lost}", f"{first:.3g} to {last:.3g}")


def below_best(n: int, measure: str, ended: float, best: float) -> Alarm:
    """Return the alarm of a training that ended below the best of n untrained responses."""
    return Alarm(
        f"it ended below the best of {n} untrained responses, which cost no training",
        f"{MEASURES[measure].word} {ended:.3g} against {best:.3g}",
        "train longer, or at another learning rate",
    )


# --- tables ---------------------------------------------------------------------------------------

BEFORE_TRAINING = "before training"
RANGE_IS_NOISE = "its range may be noise"
ENDED_EARLY = "runs ended early"
NOT_MOVED = f"KL below {MIN_KL:g} nats"
LEFT_OR_RIGHT = {
    "higher": "Right of 0 is better.",
    "lower": "Left of 0 is better.",
    "": "Neither side of 0 is better in itself.",
}
"""Note of a chart of differences, by which direction of a measurement is better."""


def no_way(baseline: str) -> str:
    """Return why there is no speed: it is read on the baseline's way."""
    return f"{baseline} does not clearly rise"


def not_at_kl(counts: Mapping[str, int]) -> str:
    """Return that the score at equal KL is not known.

    Args:
        counts: All pairs, ``of``, and the ``pairs`` that were there; {} where none was counted.
    """
    there = f", {counts['pairs']} of {counts['of']} pairs were there" if counts else ""
    return f"not known{there}"


def when_at_kl(at: Mapping[str, Any], axis: str, baseline: str) -> str:
    """Return when an arm was at the KL of a comparison, and on how many seeds, as a clause.

    One that passed earlier than the baseline had spent fewer tokens, at a higher learning rate.

    Args:
        at: The ``pairs`` that were there, ``of`` all; the ``step`` of either side; whether the arm
            was there ``earlier``, 1, or later, -1.
        axis: Unit of the steps.
        baseline: The baseline.
    """
    seeds = f", {at['pairs']} of {at['of']} seeds" if at["pairs"] < at["of"] else ""
    order = {1: "earlier", -1: "later"}.get(at["earlier"])
    other = f", {order} than {baseline} ({at_step(at['baseline_step'], axis)})" if order else ""
    return f" after {at_step(at['step'], axis)}{other}{seeds}"


def percents(chance: Mapping[str, Any]) -> str:
    """Return the ends of the interval of a chance."""
    return f"{chance['low']:.0%} to {chance['high']:.0%}"


def at_kl(kl: float | None) -> str:
    """Return at which KL scores are compared, such as ``at 8.00 nats``."""
    return NUMBERS["at_kl"].words if kl is None else f"at {number(kl)} nats"


def score_at_kl(word: str, kl: float | None) -> str:
    """Return the heading of the score at equal KL."""
    return f"{word.capitalize()} {at_kl(kl)}{' of KL' if kl is not None else ''}"


def speed(baseline: str) -> str:
    """Return the heading of the speeds."""
    return f"{sentence(NUMBERS['speed'].words)} ({baseline}: 1)"


def normalised(n: int) -> str:
    """Return the heading of the score normalised by the best of n."""
    return f"Normalised score (1: best of {n}) {NUMBERS['final'].words}"


def chance_to_beat(baseline: str) -> str:
    """Return the heading of the probability of improvement."""
    return f"{sentence(NUMBERS['chance'].words)} {baseline}"


def column(measure: Measure, number_of: str) -> str:
    """Return what the cells of a column mean and how sure they are."""
    of = NUMBERS[number_of]
    return f"{measure.title}. {measure.says} {of.title}: {of.meaning} {of.error}"


def difference_note(difference: Mapping[str, Any], measuring: float | None) -> str:
    """Return what stands below a difference in its chart, with the error of measuring, if known."""
    sure = f"; measuring \u00b1 {number(measuring)}" if measuring else ""
    return f"{difference['wins']} of {difference['pairs']} higher{sure}"


def table_note(
    level: float, runs: Sequence[int], baseline: str, *, noise: str | None, group: str
) -> str:
    """Return what stands below a table for a paper or a terminal, without a full stop.

    Args:
        level: Confidence level.
        runs: Runs of each arm.
        baseline: The baseline.
        noise: Why no score is normalised; None where it is, or nothing is known.
        group: The setting in words; "" where there is one.
    """
    seeds = seed_counts(runs)
    note = (
        f"Mean and {level_percent(level)} t interval over {seeds} "
        f"seed{'' if seeds == '1' else 's'}; ▲ and ▼ mark what is clearly above or below {baseline}"
    )
    if noise:
        note = f"{note}. {not_normalised(noise).removesuffix('.')}"
    return f"{group}. {note}" if group else note


def seed_counts(counts: Sequence[int]) -> str:
    """Return the number of runs per arm, such as ``3 to 10`` where it differs."""
    low, high = min(counts), max(counts)
    return f"{low}" if low == high else f"{low} to {high}"


def best_of_row(n: int) -> str:
    """Return the name of the row, or the line, of a best of n."""
    return f"best of {n}"


def best_of_heading(measure: Measure) -> str:
    """Return a column's heading in the table of what needs no training."""
    return measure.title + (", at most" if measure.name == "kl" else "")


OPTIMUM = "optimum"
OPTIMUM_LINE = f"{OPTIMUM}, at least"
"""Name of the line of a chart at the optimum's lower bound."""


def best_of_line(n: int, measure: str) -> str:
    """Return the name of the line of a chart at a best of n, whose KL is a bound."""
    return best_of_row(n) + (", at most" if measure == "kl" else "")


def at_least(value: float) -> str:
    """Return a lower bound."""
    return f"at least {number(value)}"


def untrained_note(
    samples: int, prompts: int, tokens: int, *, has_optimum: bool, is_priced: bool
) -> str:
    """Return what the table of the untrained policy's responses is of."""
    note = (
        f"{samples} responses of the policy that training starts from to each of {prompts} "
        f"held-out prompts, {tokens:,} tokens in all. Best of n is the best of n fresh responses "
        "by the score: it costs n times the tokens at every use. "
    )
    if has_optimum:
        return note + (
            "The best policy by score minus the KL penalty has at least c log mean exp(score / c) "
            "over these responses, c the price, and at least what any best of n has: the larger is "
            "shown."
        )
    if is_priced:
        return note + (
            "At price 0 the best policy has the highest score there is, which no sample bounds."
        )
    return note


def lacking_scores(count: int) -> str:
    """Return what responses without a score do to the best of n.

    Example:
        >>> lacking_scores(1)[:71]
        '1 response has no score: every prompt keeps as many as nine in ten have'
    """
    return (
        f"{count:,} {plural(count, 'response')} {'has' if count == 1 else 'have'} no score: "
        "every prompt keeps as many as nine in ten have, and a prompt with fewer is left out."
    )


def response_figures(score: float | None, gold_score: float | None) -> str:
    """Return the figures beside a response."""
    gold = [] if gold_score is None else [f"gold {number(gold_score)}"]
    return " · ".join([f"score {number(score)}", *gold])


# --- page -----------------------------------------------------------------------------------------

TITLE = "tokengym: which reward learns faster"
TASK, REWARD, LEARNER = "Task", "Reward", "Learner"
BASELINE, CONTROL = "baseline", "control"
LEARNING_CURVES = "learning curves"
"""What a report is of whose curves' source is not known."""
BEST_OF_N = (
    f"Best of {BEST_OF}",
    f"The best of {BEST_OF} responses that the untrained policy writes to a prompt: it needs no "
    "training, so a trained policy should beat it.",
)
OF_PRICED = (
    " A chart of the score shows its score; the headline and the normalised score take off the "
    "price of its KL, as of a policy's."
)
"""What is said besides where the KL has a price, so that "best of 16" is two levels."""


def best_of_n(groups: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """Return the term of the untrained policy's best responses, and what it is in these groups."""
    term, text = BEST_OF_N
    ranges = [group["score_range"] for group in groups if group["score_range"]]
    is_priced = any(ends["measure"] == "net_score" for ends in ranges)
    return term, text + OF_PRICED * is_priced


def subtitle(
    source: str, arms: int, kind: Kind, runs: int, longest: float, unit: Unit, *, are_alike: bool
) -> str:
    """Return what a report is of, how many runs, and how long they are, or the longest of them."""
    counted = " · ".join(f"{n} {word}{'s' * (n > 1)}" for n, word in ((arms, kind), (runs, "run")))
    length = steps(longest, unit)
    if not are_alike:
        return f"{source} · {counted} · up to {length}"
    return f"{source} · {counted} · {length}{' each' * (runs > 1)}"


def curves_note(level: float) -> str:
    """Return what the lines and bands of a chart are."""
    return (
        f"Mean over seeds; the band is its {level_percent(level)} t interval. "
        "Point at a chart to read values; press a name to hide it."
    )


def figures_note(level: float) -> str:
    """Return what the cells of the table of figures are."""
    return (
        f"Mean over seeds, below it its {level_percent(level)} interval; \u00b1 is "
        "the part of measuring, a standard error over prompts and draws that more responses lower. "
        "Point at a number, or a heading, for what it means and how sure it is."
    )


def runs_note(kind: Kind, counts: Sequence[int]) -> str:
    """Return how many seeds there are."""
    return f"Seeds per {kind}: {seed_counts(counts)}."


def against(title: str, other: str) -> str:
    """Return the title of a chart of one measurement over another."""
    return f"{title} against {other}"


FRONTIERS = (
    ("kl", "score", "Higher at the same KL is better."),
    ("kl", "gold_score", "A fall means that the score is gamed."),
    ("score", "gold_score", "The two should rise together."),
)
"""Charts of one measurement over another: that of the width, that of the height, and a note."""
BEST_OF_ANY = "best of n"
SETTINGS, VERSIONS, MADE_ON = "Settings", "Versions", "Made on"
MEASURED_BY = "Measured by"


def held_out(name: str) -> str:
    """Return the name of a line of held-out data."""
    return f"{name}, held out"


def terms(*, at_kl: bool = True) -> list[tuple[str, str]]:
    """Return the terms that reports explain, with their sentences.

    ``at_kl`` is whether runs are compared at equal KL.
    """
    ranked = ", ".join(m.word for m in MEASURES.values() if m.ranked)
    return [
        *((n.title, n.meaning) for n in NUMBERS.values() if at_kl or n.name != "at_kl"),
        ("Error of measuring", OF_MEASURING),
        (
            "Interval",
            "Student's t interval over seeds. Of normal scores a 95% interval holds the mean in 95 "
            "of 100 experiments; of differences of which one side fails in a run of five, in 82.",
        ),
        ("Ranked", f"Rewards are ranked only by {ranked}."),
    ]


def anchor(values: Mapping[str, float]) -> tuple[str, str]:
    """Return the term of the reference policy's figures, and what they are."""
    shown = ", ".join(f"{measure_of(name).title} {number(value)}" for name, value in values.items())
    return "Fixed anchor", f"The reference policy, before training: {shown}."


def all_terms(page: str) -> tuple[str, str]:
    """Return the term that leads to all others."""
    return "All terms", f"The glossary of the documentation, docs/{page}."
