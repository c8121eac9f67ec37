"""Geometry of the report's charts: numbers in, SVG coordinates and path strings out.

For readers of the page, whose script shows values under the pointer and hides lines; `figures` has
the images. The template draws what is computed here, so that every text in a chart is escaped by
it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from unicodedata import east_asian_width

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tokengym.evaluation.statistics import Array

LABEL_HEIGHT = 14.0
"""Pixels between the names of two levels."""
REFERENCE = 8
"""Index of the colour of best-of-n, after those of the palette."""
LETTER = 6.4
"""Pixels of a letter in them, on average."""
BOLD_LETTER = 7.8
"""Pixels of a letter of an arm's name, above most."""
ROW_HEIGHT = 56.0
"""Pixels of an interval with its two lines of text."""
MAX_POINTS = 240
"""Points that a drawn line keeps; statistics use all."""
MARGIN_LEFT, MARGIN_RIGHT, MARGIN_TOP, MARGIN_BOTTOM = 52.0, 14.0, 12.0, 42.0


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line of a chart; its arrays are (points,)."""

    name: str
    colour: int
    """Index into the palette."""
    x: Array
    y: Array
    low: Array | None = None
    high: Array | None = None
    """Edges of the band."""
    runs: Array | None = None
    """(runs, points): the single runs, drawn faintly."""
    gaps: NDArray[np.bool_] | None = None
    """(points - 1,): True where a point and the next are joined thinly: nothing lies between."""
    dashed: bool = False
    """Whether the line is of held-out data, beside one of training."""


class Tick(NamedTuple):
    """A mark on an axis, in pixels, and its number."""

    at: float
    text: str


class Level(NamedTuple):
    """A horizontal line across a chart, in pixels, and its name by lines, right of the chart."""

    at: float
    parts: Sequence[str]
    text_at: float
    """Height of the first line, clear of the names above."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One drawn `Series`: path strings, "" of what it has not, and its points in pixels."""

    name: str
    colour: int
    path: str
    band: str
    runs: Sequence[str]
    points: Sequence[tuple[float, float]]
    leaps: str
    """Path of what joins points over a gap, drawn thin."""
    dashed: bool


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A drawn chart: the view box's size and the plotting area's edges, in pixels."""

    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick] = ()
    lines: Sequence[Line] = ()
    levels: Sequence[Level] = ()
    hover: Mapping[str, object] | None = None
    """Data of the lines, for the script that shows values under the pointer."""


class Interval(NamedTuple):
    """One row of an interval chart: a difference in words, its ends, and whether it is clear."""

    name: str
    figure: str
    note: str
    colour: int
    low: float
    mid: float
    high: float
    clear: bool


class Whisker(NamedTuple):
    """One interval of an interval chart, in pixels, and whether its difference is clear."""

    name: str
    whole_name: str
    """The name before it was shortened; "" where it was not."""
    figure: str
    note: str
    colour: int
    y: float
    low: float
    mid: float
    high: float
    clear: bool


def thinned(count: int, most: int = MAX_POINTS) -> NDArray[np.int_]:
    """Return the places of the points that a long line keeps, its ends among them."""
    return np.unique(np.linspace(0, count - 1, most).round().astype(int))


def line_chart(
    series: Sequence[Series],
    *,
    width: float,
    height: float,
    whole_x: bool = False,
    levels: Sequence[tuple[str, float]] = (),
    hovers: bool = False,
) -> Chart:
    """Lay out lines with their bands."""
    everything = [values for s in series for values in (s.y, s.low, s.high) if values is not None]
    everything.append(np.array([value for _, value in levels]))
    x_low, x_high = _span(np.concatenate([s.x for s in series]))
    y_low, y_high = _padded(np.concatenate(everything))
    names = [part for name, _ in levels for part in _parts(name)]
    beside = LETTER * max(map(len, names)) if names else 0.0
    left, right = MARGIN_LEFT, width - MARGIN_RIGHT - beside
    upper, lower = MARGIN_TOP, height - MARGIN_BOTTOM

    def to_x(values: ArrayLike) -> Array:
        return left + (np.asarray(values) - x_low) / (x_high - x_low) * (right - left)

    def to_y(values: ArrayLike) -> Array:
        return lower - (np.asarray(values) - y_low) / (y_high - y_low) * (lower - upper)

    lines = [_drawn(one, to_x, to_y) for one in series]
    return Chart(
        width=width,
        height=height,
        left=left,
        right=right,
        top=upper,
        bottom=lower,
        x_ticks=[
            Tick(float(to_x(v)), short(v))
            for v in ticks(x_low, x_high, int(width / 90))
            if not whole_x or v == int(v)
        ],
        y_ticks=[Tick(float(to_y(v)), short(v)) for v in ticks(y_low, y_high, 5)],
        lines=lines,
        levels=_spread([(name, float(to_y(value))) for name, value in levels]),
        hover={"series": [*map(_hover, series, lines)]} if hovers else None,
    )


def _hover(series: Series, line: Line) -> dict[str, object]:
    """Return the values of a line, with the pixels at which they stand."""

    def rounded(row: Array | None, digits: int = 4) -> list[float] | None:
        return None if row is None else [float(f"{value:.{digits}g}") for value in row]

    x, at = rounded(series.x, 6), [at for at, _ in line.points]
    rows = {"y": series.y, "low": series.low, "high": series.high}
    return {"name": series.name, "x": x, "at": at, **{k: rounded(v) for k, v in rows.items()}}


def _drawn(
    series: Series, to_x: Callable[[ArrayLike], Array], to_y: Callable[[ArrayLike], Array]
) -> Line:
    """Return a line in pixels."""
    x, y, band = to_x(series.x), to_y(series.y), ""
    if series.low is not None and series.high is not None:
        around = np.concatenate([x, x[::-1]])  # along the upper edge and back along the lower
        edges = np.concatenate([to_y(series.high), to_y(series.low)[::-1]])
        band = _path(around, edges) + "Z"
    return Line(
        name=series.name,
        colour=series.colour,
        path=_path(x, y, series.gaps),
        band=band,
        runs=[] if series.runs is None else [_path(x, to_y(run)) for run in series.runs],
        points=[(round(a, 1), round(b, 1)) for a, b in zip(x, y, strict=True)],
        leaps="" if series.gaps is None else _path(x, y, ~series.gaps),
        dashed=series.dashed,
    )


def interval_chart(rows: Sequence[Interval], *, width: float) -> dict[str, Any]:
    """Lay out one interval per row around a line at 0: the chart, its rows, and the line's place.

    A name that leaves no room for its figure is shortened.
    """
    low, high = _padded(np.array([0.0] + [v for row in rows for v in (row.low, row.mid, row.high)]))
    left, right, top = 12.0, width - 12.0, 8.0
    bottom = top + ROW_HEIGHT * len(rows)

    def to_x(value: float) -> float:
        return round(left + (value - low) / (high - low) * (right - left), 1)

    def to_whisker(row: Interval, y: float) -> Whisker:
        letters = int((right - left) / BOLD_LETTER) - len(row.figure) - 2
        name = _shortened(row.name, max(letters, 2))
        whole = "" if name == row.name else row.name
        ends = (to_x(row.low), to_x(row.mid), to_x(row.high))
        return Whisker(name, whole, row.figure, row.note, row.colour, y, *ends, row.clear)

    whiskers = [to_whisker(row, top + ROW_HEIGHT * n + 44.0) for n, row in enumerate(rows)]
    chart = Chart(
        width=width,
        height=bottom + 30.0,
        left=left,
        right=right,
        top=top,
        bottom=bottom,
        x_ticks=[Tick(to_x(v), short(v)) for v in ticks(low, high, 5)],
    )
    return {"chart": chart, "rows": whiskers, "zero": to_x(0.0)}


def _shortened(name: str, letters: int) -> str:
    """Return a name cut to a number of letters; a wide one, as of Chinese, counts as two."""
    widths = np.cumsum([1 + (east_asian_width(letter) in "WF") for letter in name])
    if not name or widths[-1] <= letters:
        return name
    return f"{name[: int((widths < letters).sum())].rstrip()}\u2026"


def ticks(low: float, high: float, max_ticks: int) -> list[float]:
    """Return round numbers between two ends, at most ``max_ticks`` + 1 of them.

    Example:
        >>> ticks(0.0, 30.0, 6)
        [0.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0]
    """
    # The smallest round step (1, 2, 2.5 or 5 times a power of ten) that is not below the ideal one.
    raw = (high - low) / max(max_ticks, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1.0, 2.0, 2.5, 5.0, 10.0) if m * power >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) + 0.0 for i in range(first, last + 1)]


def short(value: float) -> str:
    """Return a number as an axis shows it.

    Example:
        >>> short(92160.0), short(0.25)
        ('92.2k', '0.25')
    """
    size = abs(value)
    if size >= 1e6:
        text = f"{value / 1e6:.3g}M"
    elif size >= 1e4:
        text = f"{value / 1e3:.3g}k"
    else:
        text = f"{value:.4g}"
    return text.replace("-", "\u2212")


def _parts(name: str) -> list[str]:
    """Return the lines of a level's name, such as "optimum," and "at least"."""
    head, comma, tail = name.partition(", ")
    return [f"{head},", tail] if comma else [head]


def _spread(levels: Sequence[tuple[str, float]]) -> list[Level]:
    """Return levels with their names beside them, or below the name above where that is near."""
    spread: list[Level] = []
    lowest = 0.0
    for name, at in sorted(levels, key=lambda level: level[1]):
        parts = _parts(name)
        lowest = max(at + 4.0 - LABEL_HEIGHT * (len(parts) - 1) / 2, lowest + LABEL_HEIGHT)
        spread.append(Level(round(at, 1), parts, round(lowest, 1)))
        lowest += LABEL_HEIGHT * (len(parts) - 1)
    return spread


def _span(values: Array) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _padded(values: Array) -> tuple[float, float]:
    low, high = _span(values)
    return low - 0.04 * (high - low), high + 0.04 * (high - low)


def _path(x: Array, y: Array, gaps: NDArray[np.bool_] | None = None) -> str:
    lifts = np.zeros(len(x), dtype=bool)  # where the pen is lifted before a point
    lifts[0] = True
    if gaps is not None:
        lifts[1:] = gaps
    points = zip(lifts, x, y, strict=True)
    return "".join(f"{'M' if lift else 'L'}{a:.1f},{b:.1f}" for lift, a, b in points)
