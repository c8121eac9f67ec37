"""Learning curves that were made elsewhere: read, compared and reported as our own are."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import numpy as np

from tokengym.base.settings import check_number
from tokengym.base.text import listed
from tokengym.evaluation.measure.judges import (
    JudgedRuns,
    files_of_judge,
    judge_of_all,
    settle_judges,
    words_of,
)
from tokengym.evaluation.measure.measures import Axis
from tokengym.evaluation.report.curves import curves_of, on_axis
from tokengym.evaluation.report.facts import Summary
from tokengym.evaluation.report.figures import Paper
from tokengym.evaluation.report.reading import (
    TRL_KL,
    Source,
    Table,
    by_column,
    files_of,
    read_table,
)
from tokengym.evaluation.report.sentences import measured_by_gold, plural
from tokengym.evaluation.report.summary import SummarySettings
from tokengym.evaluation.runs.files import (
    CURVES,
    axis_of,
    rows_of,
    summary_beside,
    write_results,
)
from tokengym.evaluation.statistics import DEFAULT_LEVEL
from tokengym.evaluation.statistics.curve import Curve, scored_alike


@dataclass(frozen=True, kw_only=True)
class CurveSettings:
    """How learning curves that were made elsewhere are read and compared.

    Raises:
        ValueError: if a value is out of range.
    """

    baseline: str | None = None
    """Arm that the others are compared with; None takes sparse if present, else the first."""
    axis: Axis | None = None
    """What runs are compared at equal amounts of; None takes that of the summary of the curves, as
    of learners, tokens for runs that count nothing else, as those of Stable-Baselines3, and updates
    where there is neither."""
    group_by: Sequence[str] | None = None
    """Columns of our own tables to group by; None takes all that are no measurement."""
    score: str | None = None
    """Column with the score; None takes score, or the one that is known of other tools."""
    level: float = DEFAULT_LEVEL
    """Confidence level of the intervals, in (0, 1)."""
    kl_coef: float | None = None
    """Price of a nat of KL, for the score minus its penalty."""

    def __post_init__(self) -> None:
        if self.kl_coef is not None and not 0.0 <= self.kl_coef < math.inf:
            raise ValueError(f"kl_coef must be a finite number >= 0, got {self.kl_coef:g}")
        if self.axis not in (None, *get_args(Axis)):
            names = " or ".join(map(repr, get_args(Axis)))
            raise ValueError(f"axis must be {names}, got {self.axis!r}")
        check_number(self, "level", above=0.0, below=1.0, hint=f"{DEFAULT_LEVEL} is usual")


@dataclass(frozen=True)
class Given:
    """Learning curves as they were given to be read."""

    source: Source
    name: str | None = None
    """Name of their runs; None takes that of their folder."""
    summary: Mapping[str, Any] | None = None
    """Their summary; None takes the summary.json beside the file that is read, if there is one."""
    folder: Path | None = None
    """Where they are, for messages; None takes that of the file."""

    @property
    def file(self) -> Path | None:
        """The file that is read, that of a folder too; None for a table."""
        return files_of(self.source)[0] if isinstance(self.source, Path) else None

    @cached_property
    def known(self) -> Mapping[str, Any]:
        """Their summary, {} if there is none."""
        if self.summary is not None:
            return self.summary
        return {} if self.file is None else summary_beside(self.file)

    def judged(self, curves: list[Curve], score: str) -> JudgedRuns | None:
        """Return its curves with what measured a column of theirs; None where that is not known."""
        words = self.known.get("measured_by")
        if not isinstance(words, str) or not (words := words_of(score, words)):
            return None
        folder = self.folder or (self.file and self.file.absolute().parent)
        return JudgedRuns(
            folder=folder or Path(self.name or "curves"),
            group=(),
            has_rivals=self.known.get("by_gold") is True,
            curves=curves,
            measured_by=[words],
            files="" if score == "gold_score" else files_of_judge(self.known.get("settings") or {}),
        )


def report_curves(
    path: Path | Sequence[Path],
    out: Path | None,
    how: CurveSettings = CurveSettings(),
    *,
    paper: Paper | None = None,
) -> Summary:
    """Write the report of learning curves made elsewhere, several of which are shown together.

    ``out`` and ``paper`` are `write_results`'s, the rest is `gather_curves`'s, as are the errors.
    """
    sources = [Given(one) for one in ([path] if isinstance(path, Path) else path)]
    curves, settings, about = gather_curves(sources, how)
    files = [one.file.resolve() for one in sources if one.file is not None]
    is_source = out is not None and (out / CURVES).resolve() in files
    if is_source and (len(files) > 1 or how.score not in (None, "score")):
        raise ValueError(
            f"the report of {f'{len(files)} files' if len(files) > 1 else repr(how.score)} cannot "
            f"stand in {out}, whose {CURVES} is read: it has other curves; name another out"
        )
    return write_results(
        out,
        on_axis(curves, settings.axis),
        settings,
        about=about,
        paper=paper,
        rows=None if is_source else rows_of(curves),
    )


def gather_curves(
    sources: Sequence[Given], how: CurveSettings = CurveSettings()
) -> tuple[list[Curve], SummarySettings, dict[str, Any]]:
    """Read learning curves that were made elsewhere, and decide how they are compared.

    Returns:
        The curves, by their steps; what their figures depend on besides; and what a summary says
        ``about`` them: source, scorer, and the columns of their scores with the arms of each.

    Raises:
        ValueError: if a source cannot be read, lacks tokens to compare at, the baseline is
            unknown, the scores are of different columns and all have one in common, or the
            summaries of several sources name different scorers and not all runs have one gold
            score.
    """
    if not sources:
        raise ValueError("there are no curves to read; pass a file, a folder, a frame or rows")
    kl_coef, score = how.kl_coef, how.score or "score"
    tables = [read_table(one.source, score=how.score, name=one.name) for one in sources]
    read = [curves_of(table, group_by=how.group_by) for table in tables]
    known = [one.known for one in sources]
    curves = [curve for found in read for curve in found]
    parts = zip(tables, read, known, strict=True)
    columns = by_column(one for part in parts for one in _scores_of(*part, score))
    judged = [
        runs
        for one, found in zip(sources, read, strict=True)
        if (runs := one.judged(found, score)) is not None
    ]
    all_judged = len(judged) == len(sources)
    curves, rivals = settle_judges(judged, curves)
    cautions = [] if rivals is None else [measured_by_gold(rivals)]
    if len(columns) > 1:
        taken = "; ".join(f"{column} of {listed(arms)}" for column, arms in columns.items())
        said = f"The scores may be different measurements, as their columns are: {taken}."
        cautions.append(said)
    # An agent that cannot tell its KL takes no price from the others.
    priced = [curve for curve in curves if np.isfinite(curve.values.get("kl", np.nan)).any()]
    for curve in scored_alike(priced or curves) if kl_coef is not None else ():
        if (step := curve.nan_step("kl")) is not None:
            raise ValueError(
                f"kl_coef={kl_coef:g} prices the KL, which {curve.credit}, seed {curve.seed} has "
                f"not at step {step:.10g}; fill in the column kl, or leave kl_coef out"
            )
    axes = [summary.get("axis") for summary in known]
    kept: Axis | None = "step" if all(axis == "step" for axis in axes) else None
    names = dict.fromkeys(one.source.name for one in sources if isinstance(one.source, Path))
    files = dict.fromkeys(one.file.name for one in sources if one.file is not None)
    settings = SummarySettings(
        kl_coef=kl_coef,
        level=how.level,
        baseline=how.baseline or ("sparse" if any(c.credit == "sparse" for c in curves) else None),
        axis=axis_of(curves, of_learners="tokens" in axes, given=how.axis or kept),
        cautions=cautions,
        by_gold=rivals is not None or (all_judged and all(runs.by_gold for runs in judged)),
        logged=_logged(tables, known, columns, ", ".join(files) or "curves"),
        of_tools=any(table.of_tools for table in tables) or any(s.get("of_tools") for s in known),
    )
    about = {
        "source": ", ".join(names) or "curves",
        "measured_by": judge_of_all(judged, settled=rivals is not None) if all_judged else "",
        "score_columns": columns,
    }
    return curves, settings, about


def _logged(
    tables: Sequence[Table],
    known: Sequence[Mapping[str, Any]],
    scores: Iterable[str],
    files: str,
) -> dict[str, str]:
    """Return what measurements were read from, see `SummarySettings.logged`.

    Of a table like ours that is the score alone, unless its summary knows more.
    """
    logged = {name: what for summary in known for name, what in summary.get("logged", {}).items()}
    columns: dict[str, dict[str, None]] = {"score": dict.fromkeys(scores)}
    for table in tables:
        for name, column in table.names.items() if table.of_tools else ():
            if name != "score":
                columns.setdefault(name, {})[column] = None
    for name, taken in columns.items():
        word = plural(len(taken), "column")
        logged[name] = f"{word} {listed([*taken])} of {files}"
    if columns.get("kl", {}).keys() & {*TRL_KL}:
        logged["kl"] += ", in TRL a mean over tokens of the training batches"
    return logged


def _scores_of(
    table: Table, curves: Iterable[Curve], known: Mapping[str, Any], score: str
) -> Iterator[tuple[str, Sequence[str]]]:
    """Yield the arms of a table, each with its columns that are a score; see `by_column`.

    A table of ours has one, ``score``, but may be of what other tools logged, as its summary knows.
    """
    yield from table.scores
    logged = known.get("score_columns") if score == "score" else None
    columns = logged if isinstance(logged, Mapping) else {}
    of_arms = {arm: column for column, arms in columns.items() for arm in arms}
    for curve in () if table.scores else curves:
        yield curve.credit, [of_arms.get(curve.credit, score)]
