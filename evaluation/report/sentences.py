"""Words that more than one place of a report says; any other sentence stands at its condition.

The names of measurements and of the numbers that are taken of them stand in the tables of
`evaluation.measure.measures`, the headings of the page in its template.
"""

from collections.abc import Sequence
from typing import Protocol

from tokengym.base.text import number
from tokengym.evaluation.measure.measures import NUMBERS
from tokengym.evaluation.measure.references import BEST_OF
from tokengym.evaluation.report.facts import Group, Unit

NOTHING = "\u2013"
"""What stands where there is no value."""


class Interval(Protocol):
    """What has the ends of an interval."""

    @property
    def low(self) -> float: ...  # noqa: D102

    @property
    def high(self) -> float: ...  # noqa: D102


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


def ends_of(interval: Interval) -> str:
    """Return the ends of an interval."""
    return f"{number(interval.low)} to {number(interval.high)}"


def at_kl(kl: float | None) -> str:
    """Return at which KL scores are compared, such as ``at 8.00 nats``."""
    return NUMBERS["at_kl"].words if kl is None else f"at {number(kl)} nats"


def not_normalised(reason: str) -> str:
    """Return that no score is normalised, and why, without a full stop."""
    return f"No normalised score: {reason}"


def seed_counts(group: Group) -> str:
    """Return the number of runs per arm, such as ``3 to 10`` where it differs."""
    counts = [arm.runs for arm in group.rewards.values()]
    low, high = min(counts), max(counts)
    return f"{low}" if low == high else f"{low} to {high}"


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


def best_of_n(groups: Sequence[Group]) -> tuple[str, str]:
    """Return the term of the untrained policy's best responses, and what it is in these groups."""
    text = (
        f"The best of {BEST_OF} responses that the untrained policy writes to a prompt: it needs "
        "no training, so a trained policy should beat it."
    )
    ranges = [group.score_range for group in groups if group.score_range]
    if any(ends.measure == "net_score" for ends in ranges):  # "best of 16" is two levels then
        text += (
            " A chart of the score shows its score; the headline and the normalised score take off "
            "the price of its KL, as of a policy's."
        )
    return f"Best of {BEST_OF}", text


def measured_by_gold(rivals: tuple[tuple[str, str], tuple[str, str]]) -> str:
    """Return that the gold score measures the runs of two folders, each with its judge."""
    (one, judge), (other, other_judge) = rivals
    return (
        f"The runs of {one} were measured by {judge}, those of {other} by {other_judge}: here the "
        "gold score measures all."
    )


def against(title: str, other: str) -> str:
    """Return the title of a chart of one measurement over another."""
    return f"{title} against {other}"
