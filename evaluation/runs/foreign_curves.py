"""Learning curves that were made elsewhere: how they are read, judged and compared."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tokengym.base.files import read_json
from tokengym.evaluation.measure.measures import Axis
from tokengym.evaluation.report.curves import counts_tokens, on_axis, read_curves
from tokengym.evaluation.report.figures import Paper
from tokengym.evaluation.report.reading import Source
from tokengym.evaluation.report.summary import SummarySettings
from tokengym.evaluation.runs.judging import (
    JudgedRuns,
    caution,
    check_gold,
    find_dispute,
    measured_by_gold,
)
from tokengym.evaluation.runs.results import write_results
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

    ``path`` is as of `tokengym.evaluation.report.reading`, ``out`` and ``paper`` are
    `write_results`'s, and the rest is `gather_curves`'s, as are the errors.
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
    about = {"source": ", ".join(dict.fromkeys(one.name for one in paths))}
    return write_results(out, on_axis(curves, settings.axis), settings, about=about, paper=paper)


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

    Args:
        sources: Each with a name for its runs, if it is another tool's; None takes that of their
            folder. See `tokengym.evaluation.report.reading`.
        baseline: Credit that the others are compared with; None takes sparse if present, else the
            first.
        group_by: Columns to group by; None takes all that are no known measurement.
        level: Confidence level of the intervals.
        kl_coef: Price of a nat of KL, for the score minus its penalty.
        axis: What runs are compared at equal amounts of, "step" or "tokens"; None takes that of
            the summary.json beside the curves, as of learners, tokens for runs that count nothing
            else, as those of Stable-Baselines3, and updates where there is neither.
        score: Column with the score; None takes score, or the one that is known of other tools.

    Returns:
        The curves by their steps, and what their figures depend on besides.

    Raises:
        ValueError: if a source cannot be read, lacks tokens to compare at, the baseline is
            unknown, or the summaries beside several files name different scorers and not all runs
            have one gold score.
    """
    if kl_coef is not None and not 0.0 <= kl_coef < math.inf:
        raise ValueError(f"kl_coef must be a finite number >= 0, got {kl_coef:g}")
    read = [
        (one, read_curves(one, group_by=group_by, name=name, score=score)) for one, name in sources
    ]
    curves = [curve for _, found in read for curve in found]
    files = {one: found for one, found in read if isinstance(one, Path)}
    judged = [runs for one, found in files.items() if (runs := _judged_beside(one, found))]
    dispute = find_dispute(judged)
    if dispute is not None:
        check_gold(judged, dispute)
        curves = measured_by_gold(curves)
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
        by_tokens = any(map(_is_over_tokens, files)) or any(map(counts_tokens, curves))
        axis = "tokens" if by_tokens else "step"
    settings = SummarySettings(
        kl_coef=kl_coef,
        level=level,
        baseline=baseline,
        axis=axis,
        cautions=[] if dispute is None else [caution(dispute)],
        by_gold=dispute is not None,
    )
    return curves, settings


def _is_over_tokens(path: Path) -> bool:
    """Say whether curves lie beside a summary of runs at equal tokens."""
    return _summary_beside(path).get("axis") == "tokens"


def _judged_beside(path: Path, curves: Sequence[Curve]) -> JudgedRuns | None:
    """Return the curves of a comparison with what measured them, by the summary beside them."""
    summary = _summary_beside(path)
    words = summary.get("measured_by")
    if not words or not isinstance(words, str):
        return None  # curves made elsewhere do not tell
    return JudgedRuns(
        folder=path.absolute().parent,
        group=(),
        has_rivals=summary.get("by_gold") is True,
        curves=list(curves),
        measured_by=[words],
    )


def _summary_beside(path: Path) -> dict[str, Any]:
    """Return the summary beside a file of curves, {} if there is none."""
    try:
        summary = read_json(path.with_name("summary.json"))
    except (OSError, ValueError):
        return {}
    return summary if isinstance(summary, dict) else {}
