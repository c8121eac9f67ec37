"""Tables of the studies as Markdown, written into their place in a document."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from statistics import NormalDist
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from tokengym.base import write_text
from tokengym.evaluation.report import number, signed
from tokengym.evaluation.statistics import (
    DEFAULT_LEVEL,
    PairedDifference,
    holm,
    paired_difference,
    student_interval,
)

Key = TypeVar("Key")
Item = TypeVar("Item")
Title = TypeVar("Title", bound=Sequence[str])
CLEAR = 1.0 - DEFAULT_LEVEL
"""Corrected p-value below which a difference is clear."""
NONE = "\u2013"
"""Cell of a table where nothing was measured."""
NOT_YET = "Not measured yet."
"""A table without any run."""


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return rows as a Markdown table, or that there are none yet.

    Example:
        >>> print(markdown_table(["rule", "score"], [["abc", "1.2"]]))
        | rule | score |
        |---|---|
        | abc | 1.2 |
        >>> markdown_table(["rule", "score"], [])
        'Not measured yet.'
    """
    if not rows:
        return NOT_YET
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(
        ("|" + "|".join(line) + "|") if line[0] == "---" else f"| {' | '.join(line)} |"
        for line in lines
    )


def critic_text(start: str) -> str:
    """Return what follows an arm's rule where its critic starts from the reward model.

    Args:
        start: Where the critic starts: "own" is the policy's language model.

    Example:
        >>> critic_text("own"), critic_text("reward_model")
        ('', ', critic from the reward model')
    """
    return "" if start == "own" else ", critic from the reward model"


def rates_table(
    sweeps: Mapping[Title, Mapping[float, float]],
    head: Sequence[str] = ("rule",),
    *,
    with_best: bool = False,
) -> str:
    """Return what each rate of the sweeps has reached.

    Args:
        sweeps: First cells of a line -> rate -> what it has reached.
        head: Heads of those cells.
        with_best: Whether the best of a line is bold.

    Example:
        >>> print(rates_table({("abc",): {1e-3: 1.5}, ("red",): {}}))
        | rule | 0.001 |
        |---|---|
        | abc | 1.50 |
        | red | \u2013 |
    """
    rates = sorted({rate for areas in sweeps.values() for rate in areas})
    rows = []
    for title, areas in sweeps.items():
        line = {rate: number(areas[rate]) if rate in areas else NONE for rate in rates}
        if with_best:
            best = max(areas, key=lambda rate: areas[rate])
            line[best] = f"**{line[best]}**"
        rows.append([*title, *line.values()])
    return markdown_table([*head, *(f"{rate:g}" for rate in rates)], rows)


def with_interval(figure: Mapping[str, Any], value: str = "mean") -> str:
    """Return a figure with its interval: ``1.23 (1.10 to 1.31)``."""
    return f"{number(figure[value])} ({number(figure['low'])} to {number(figure['high'])})"


def grouped(rows: Iterable[Item], of: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """Return rows by what a function says of them, in the order of the first of each.

    Example:
        >>> grouped([{"a": 1, "b": 2}, {"a": 1, "b": 3}], lambda row: row["a"])
        {1: [{'a': 1, 'b': 2}, {'a': 1, 'b': 3}]}
    """
    groups: dict[Key, list[Item]] = {}
    for row in rows:
        groups.setdefault(of(row), []).append(row)
    return groups


def paired(one: Mapping[Key, Item], other: Mapping[Key, Item]) -> tuple[list[Item], list[Item]]:
    """Return two figures by seed, or runs, or figures by text, as pairs: of what both have, rising.

    Example:
        >>> paired({0: 1.0, 1: 2.0}, {2: 5.0, 1: 4.0})
        ([2.0], [4.0])
    """
    both: list[Any] = sorted(one.keys() & other.keys())
    return [one[at] for at in both], [other[at] for at in both]


def mean(values: ArrayLike) -> float:
    """Return the mean of a sample as a float."""
    return float(np.mean(np.asarray(values)))


def student_mean(values: ArrayLike) -> str:
    """Return the mean of a sample (n,) with Student's t interval."""
    middle, low, high, _ = (float(value) for value in student_interval(values))
    return with_interval({"mean": middle, "low": low, "high": high})


def paired_text(one: ArrayLike, other: ArrayLike) -> str:
    """Return the mean difference of two paired samples with Student's t interval, uncorrected.

    Example:
        >>> paired_text([2.0, 3.0], [1.0, 2.0])
        '+1.00 (1.00 to 1.00)'
    """
    return difference_text(paired_difference(one, other))


def wilson_interval(
    share: float, count: int, *, level: float = DEFAULT_LEVEL
) -> tuple[float, float]:
    """Return Wilson's score interval of a share.

    (p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)

    Args:
        share: Observed, in [0, 1].
        count: Number of independent observations.
        level: Confidence level, in (0, 1).

    Source: Wilson 1927, Journal of the American Statistical Association 22, 209-212.
    """
    z = NormalDist().inv_cdf(0.5 + level / 2)
    middle = share + z * z / (2 * count)
    reach = z * np.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return float((middle - reach) / scale), float((middle + reach) / scale)


def share_of(count: float, total: float) -> str:
    """Return a share with Wilson's interval."""
    if not total:
        return ""
    low, high = wilson_interval(count / total, int(total))
    return f"{count / total:.1%} ({low:.1%} to {high:.1%})"


def difference(figure: PairedDifference | None) -> str:
    """Return a paired difference with its interval and wins, bold where it leaves out 0."""
    if figure is None:
        return NONE
    is_clear = figure.low > 0 or figure.high < 0
    return f"{difference_text(figure, is_clear)}, {figure.wins}/{figure.pairs}"


def difference_text(figure: PairedDifference, is_clear: bool = False) -> str:
    """Return a paired difference with its interval, bold where it is clear."""
    value = signed(figure.difference)
    ends = f"{number(figure.low)} to {number(figure.high)}"
    return f"{f'**{value}**' if is_clear else value} ({ends})"


_family: ContextVar[dict[tuple[float, float], float] | None] = ContextVar("family", default=None)
"""p-values of what one page tests, each once however many tables show it and from which side."""


def page_wide(make_tables: Callable[[], Mapping[str, str]]) -> Mapping[str, str]:
    """Return the tables of a page, differences corrected over all that the page tests.

    They are made twice: once to learn what is tested, once to say what is clear.

    Args:
        make_tables: Returns the tables by name; `after_holm` makes their differences.
    """
    token = _family.set({})
    try:
        make_tables()
        return make_tables()
    finally:
        _family.reset(token)


def after_holm(
    differences: Mapping[Key, PairedDifference], *, with_wins: bool = True
) -> dict[Key, str]:
    """Return differences as a table shows them, bold where clear after Holm's correction over all.

    All are those of the page that `page_wide` makes, those of the table outside of one.

    Args:
        differences: The differences of a table.
        with_wins: Whether the pairs that are above 0 follow.
    """
    if not differences:
        return {}
    family = _family.get()
    tested = {} if family is None else family
    tested |= {_test_of(figure): figure.p_value for figure in differences.values()}
    corrected = dict(zip(tested, holm([*tested.values()]), strict=True))
    shown = {}
    for key, figure in differences.items():
        text = difference_text(figure, bool(corrected[_test_of(figure)] < CLEAR))
        shown[key] = f"{text}, {figure.wins}/{figure.pairs}" if with_wins else text
    return shown


def _test_of(figure: PairedDifference) -> tuple[float, float]:
    """Return what tells a test from others; a minus b and b minus a are one."""
    return abs(figure.difference), figure.p_value


def fill(document: Path, tables: Mapping[str, str]) -> None:
    """Put tables between the marks ``<!-- name -->`` and ``<!-- end name -->`` of a document.

    Args:
        document: A Markdown file.
        tables: By name.
    """
    text = document.read_text(encoding="utf-8")
    for name, table in tables.items():
        section = re.compile(
            f"(<!-- {re.escape(name)} -->\n).*?(<!-- end {re.escape(name)} -->)", re.S
        )
        match = section.search(text)
        if match is None:
            raise ValueError(
                f"{document} has no place for the table {name!r}; write <!-- {name} --> and "
                f"<!-- end {name} --> on lines of their own"
            )
        start, end = match.end(1), match.start(2)
        text = f"{text[:start]}{table}\n{text[end:]}"
    write_text(document, text)
