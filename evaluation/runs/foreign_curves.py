"""Learning curves that were made elsewhere: how they are read, judged and compared."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np

from tokengym.base.files import read_json
from tokengym.evaluation.measure.judges import JudgedRuns, settle_judges
from tokengym.evaluation.measure.measures import Axis
from tokengym.evaluation.report.curves import columns_of, counts_tokens, on_axis, read_curves
from tokengym.evaluation.report.figures import Paper
from tokengym.evaluation.report.reading import Source
from tokengym.evaluation.report.summary import SummarySettings
from tokengym.evaluation.runs.results import CURVES, write_results
from tokengym.evaluation.statistics import Curve


def report_curves(
    path: Path | Sequence[Path],
    out: Path | None,
    *,
    baseline: str | None = None,
    group_by: Sequence[str] | None = None,
    level: float = 0.95,
    kl_coef: float | None = None,
    axis: Axis | None = None,
    score: str | None = None,
    paper: Paper | None = None,
) -> dict[str, Any]:
    """Write the report of learning curves made elsewhere, several of which are shown together.

    ``out`` and ``paper`` are `write_results`'s, the rest is `gather_curves`'s, as are the errors.
    """
    paths = [path] if isinstance(path, Path) else list(path)
    curves, settings = gather_curves(
        [(one, None) for one in paths],
        baseline=baseline,
        group_by=group_by,
        level=level,
        kl_coef=kl_coef,
        axis=axis,
        score=score,
    )
    about = {"source": settings.source}
    is_source = out is not None and any(one.resolve() == (out / CURVES).resolve() for one in paths)
    return write_results(
        out,
        on_axis(curves, settings.axis),
        settings,
        about=about,
        paper=paper,
        rows=None if is_source else [row for curve in curves for row in _rows(curve)],
    )


def _rows(curve: Curve) -> Iterator[dict[str, Any]]:
    """Yield a curve's rows of curves.csv; what was not measured is left empty."""
    named = {"credit": curve.credit, "seed": curve.seed} | columns_of(curve.group)
    for index, step in enumerate(curve.steps):
        values = {name: float(column[index]) for name, column in curve.values.items()}
        known = {name: value for name, value in values.items() if math.isfinite(value)}
        yield {**known, **named, "step": float(step)}


def gather_curves(
    sources: Sequence[tuple[Source, str | None]],
    *,
    baseline: str | None = None,
    group_by: Sequence[str] | None = None,
    level: float = 0.95,
    kl_coef: float | None = None,
    axis: Axis | None = None,
    score: str | None = None,
) -> tuple[list[Curve], SummarySettings]:
    """Read learning curves that were made elsewhere, and decide how they are compared.

    Each source has a name for its runs, or None, which takes that of their folder; the rest is of
    `tokengym.read_curves`. An axis of None is that of the summary.json beside the curves, as of
    learners, tokens for runs that count nothing else, as those of Stable-Baselines3, and updates
    where there is neither.

    Raises:
        ValueError: if a source cannot be read, lacks tokens to compare at, the baseline is
            unknown, or the summaries beside several files name different scorers and not all runs
            have one gold score.
    """
    if kl_coef is not None and not 0.0 <= kl_coef < math.inf:
        raise ValueError(f"kl_coef must be a finite number >= 0, got {kl_coef:g}")
    if axis not in (None, *get_args(Axis)):
        raise ValueError(f"axis must be {' or '.join(map(repr, get_args(Axis)))}, got {axis!r}")
    read = [
        (one, read_curves(one, group_by=group_by, name=name, score=score)) for one, name in sources
    ]
    curves = [curve for _, found in read for curve in found]
    files = {one: found for one, found in read if isinstance(one, Path)}
    beside = {one: _summary_beside(one) for one in files}
    judged = [
        JudgedRuns(
            folder=one.absolute().parent,
            group=(),
            has_rivals=beside[one].get("by_gold") is True,
            curves=found,
            measured_by=[words],
        )
        for one, found in files.items()
        if (words := beside[one].get("measured_by")) and isinstance(words, str)
    ]  # curves made elsewhere do not tell
    curves, caution = settle_judges(judged, curves)
    # An agent that cannot tell its KL takes no price from the others.
    known = [curve for curve in curves if np.isfinite(curve.values.get("kl", np.nan)).any()]
    for curve in known or curves if kl_coef is not None else ():
        if not curve.invalid() and (step := curve.nan_step("kl")) is not None:
            raise ValueError(
                f"kl_coef={kl_coef:g} prices the KL, which {curve.credit}, seed {curve.seed} has "
                f"not at step {step:g}; fill in the column kl, or leave kl_coef out"
            )
    if baseline is None and any(curve.credit == "sparse" for curve in curves):
        baseline = "sparse"
    if axis is None:
        by_tokens = any(summary.get("axis") == "tokens" for summary in beside.values())
        by_tokens = by_tokens or any(map(counts_tokens, curves))
        axis = "tokens" if by_tokens else "step"
    settings = SummarySettings(
        kl_coef=kl_coef,
        level=level,
        baseline=baseline,
        axis=axis,
        cautions=[] if caution is None else [caution],
        by_gold=caution is not None,
        source=", ".join(dict.fromkeys(one.name for one in files)) or "curves",
    )
    return curves, settings


def _summary_beside(path: Path) -> dict[str, Any]:
    """Return the summary beside a file of curves, {} if there is none."""
    try:
        summary = read_json(path.with_name("summary.json"))
    except (OSError, ValueError):
        return {}
    return summary if isinstance(summary, dict) else {}
