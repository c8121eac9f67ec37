"""A comparison's results as one object: frames of pandas, pictures, and words for a notebook.

Nothing here trains, and nothing runs code of the user's: what a folder holds is read.
"""

import base64
import html
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokengym.base.files import read_json
from tokengym.base.text import printable
from tokengym.evaluation.measure.measures import AXES, FORMER, Axis, measures_of
from tokengym.evaluation.report.curves import SPENT, columns_of, on_axis
from tokengym.evaluation.report.curves import read_curves as read_stored
from tokengym.evaluation.report.facts import Arm, Errors, Group, Summary
from tokengym.evaluation.report.figures import STYLE, plain, plot_curves
from tokengym.evaluation.report.reading import PARTS, Source, run_name
from tokengym.evaluation.report.summary import summarize
from tokengym.evaluation.report.tables import group_table, short_table
from tokengym.evaluation.runs.elsewhere import CurveSettings, Given, gather_curves
from tokengym.evaluation.runs.files import COUNTS, CURVES, curves_hash
from tokengym.evaluation.runs.folder import no_runs, stored_runs
from tokengym.evaluation.runs.results import read_comparison
from tokengym.evaluation.runs.run import Run
from tokengym.evaluation.statistics import DEFAULT_LEVEL
from tokengym.evaluation.statistics.curve import Curve

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

TEXTS = ("prompt", "response", "score", "gold_score", "tokens", "token_rewards")
"""Columns of `Result.samples` after those that say which run and response it is."""
UNSHOWN = ("prompt_ids", "response_ids")
DPI = 110


class Result(Mapping[str, Any]):
    """What a comparison found: curves, figures and differences, responses, pictures and words.

    As a mapping it is the summary, as summary.json holds it.

    Args:
        found: The summary, whose attributes have its parts.
        curves: The curves of all runs, by their steps.
        folder: The comparison's folder, which has its responses; None for curves alone.
    """

    def __init__(self, found: Summary, curves: Sequence[Curve], folder: Path | None = None) -> None:
        self.found, self._curves, self.folder = found, list(curves), folder

    @cached_property
    def _json(self) -> dict[str, Any]:
        return self.found.to_json()

    def __getitem__(self, name: str) -> Any:
        return self._json[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._json)

    def __len__(self) -> int:
        return len(self._json)

    # --- frames -----------------------------------------------------------------------------------

    @cached_property
    def curves(self) -> "pd.DataFrame":
        """All measurements, a row for each evaluation of each run.

        ``credit`` is the arm's name in the report, ``reward`` and ``agent`` are the words that it
        trained with. A measurement that no run has is left out.
        """
        import pandas as pd

        parts = []
        for curve in self._curves:
            named = {**self._named(curve.credit), "seed": curve.seed, **columns_of(curve.group)}
            parts.append(pd.DataFrame({**named, "step": curve.steps, **curve.values}))
        table = pd.concat(parts, ignore_index=True)
        measured = [name for name in (*SPENT, *measures_of(False)) if name in table]
        table = table[[*(name for name in table if name not in measured), *measured]]
        table = table.drop(columns=[name for name in measured if table[name].isna().all()])
        counts = [name for name in COUNTS if name in table and not (table[name] % 1).any()]
        whole = {name: "int64" for name in counts if table[name].notna().all()}
        return table.astype(whole)

    @cached_property
    def summary(self) -> "pd.DataFrame":
        """The figures of the report's table, a row for each arm, the baseline first.

        Of a measurement over the run (``score_auc``), at the end (``score_final``) or at the KL
        where the baseline ends (``score_at_kl``) there are its mean with the ends of
        its interval (``score_auc_low``, ``score_auc_high``) and the mean difference to the baseline
        on the same seeds: ``score_auc_difference``, the ends of its interval
        ``score_auc_difference_low`` and ``..._high``, and its p-value ``score_auc_p``, corrected by
        Holm's method as the interval is. ``score_auc_clear`` is 1 or -1 where the report calls it
        clear, else 0. Of one seed, and of one pair, the ends and the p-value are missing.
        ``score_auc_measuring`` and ``score_auc_difference_measuring`` are the
        standard errors of measuring alone, where each response was kept. What each measurement is
        of, and how sure it is, stands under ``measurements`` of the summary as a mapping.
        """
        import pandas as pd

        rows = []
        for group in self.found.groups:
            for name, arm in group.rewards.items():
                row = {**self._named(name), **columns_of(group.key), "seeds": arm.runs}
                for measure, kind in _shown(group):
                    row |= _figures(group, arm, measure, kind)
                rows.append(row)
        return pd.DataFrame(rows).set_index("credit")

    @cached_property
    def samples(self) -> "pd.DataFrame":
        """Responses kept at each run's first and last evaluation, with their token rewards.

        ``tokens`` and ``token_rewards`` are lists of one length. Empty for curves alone.
        """
        import pandas as pd

        rows = []
        for run in self._runs:
            rows += [row | run.named for row in run.samples]
        first = [*PARTS, "seed", "step", "sample", *TEXTS]
        known = dict.fromkeys(name for row in rows for name in row)
        others = [name for name in known if name not in (*first, *UNSHOWN)]
        return pd.DataFrame(rows, columns=[*first, *others])

    # --- pictures and words -----------------------------------------------------------------------

    def plot(
        self,
        y: str = "score",
        x: str | None = None,
        ax: "Axes | None" = None,
        intervals: bool = True,
        *,
        against: str | None = None,
    ) -> "Axes":
        """Draw a measurement of every arm, in the report's colours.

        Args:
            y: The measurement, a column of `curves`, or ``net_score``.
            x: What it is drawn over: "tokens", "step", "episodes" or "wall_s"; None takes tokens
                where all runs have them, else steps.
            ax: Axes to draw into, beside what is there; None makes a figure.
            intervals: Whether to draw intervals over seeds.
            against: "kl" draws the path over the KL in place of ``x``.

        Returns:
            The axes.

        Raises:
            ValueError: if it was not measured.
        """
        import matplotlib as mpl
        import matplotlib.pyplot as plt

        if against not in (None, "kl") or (against and x) or x == "kl":
            raise ValueError(
                f"against must be 'kl', and x left out, got against={against!r}, x={x!r}; x alone "
                f"is one of {', '.join(AXES)}"
            )
        if x is None and against is None and all(curve.has("tokens") for curve in self._curves):
            x = "tokens"
        if ax is not None:
            return self._draw(ax, y, against or x, intervals)
        with mpl.rc_context(STYLE):
            _, axes = plt.subplots(figsize=(6.4, 4.0), layout="constrained")
            return self._draw(axes, y, against or x, intervals)

    def _draw(self, ax: "Axes", y: str, x: str | None, intervals: bool) -> "Axes":
        """Draw every setting into axes, which may have the lines of other results."""
        handles: list[Any] = []
        labels: list[str] = []
        limits = ax.get_xlim() if ax.lines else None
        curves, legend = on_axis(self._curves, self.found.axis), ax.get_legend()
        if legend is not None:
            handles += legend.legend_handles
            labels += [text.get_text() for text in legend.get_texts()]
        for number, group in enumerate(self.found.groups):
            how: dict[str, Any] = {"group": number, "intervals": intervals, "taken": len(handles)}
            plot_curves(ax, self.found, curves, y=y, x=x, **how)
            drawn = ax.get_legend()
            assert drawn is not None
            handles += drawn.legend_handles
            end = f" ({plain(group.label)})" if group.label else ""
            labels += [f"{text.get_text()}{end}" for text in drawn.get_texts()]
        behind: dict[str, Any] = {"facecolor": ax.get_facecolor(), "edgecolor": "none"}
        ax.legend(handles, labels, frameon=True, framealpha=0.85, **behind)
        if limits is not None:
            left, right = ax.get_xlim()
            ax.set_xlim(min(left, limits[0]), max(right, limits[1]))
        return ax

    def __repr__(self) -> str:
        lines: list[str] = []
        for group in self.found.groups:
            lines += [_headline(group), *group.verdict.notes, *group.verdict.differences, ""]
            lines += [group_table(group, self.found.level, "Markdown"), ""]
        lines += [str(page)] if (page := self._page) else []
        return printable("\n".join(lines)).rstrip()

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the headline, a picture and the table."""
        parts: list[str] = []
        for group in self.found.groups:
            picture = "" if parts else self._picture()
            parts.append(f"<p><b>{_safe(_headline(group))}</b></p>{picture}")
            said = (*group.verdict.notes, *group.verdict.differences)
            parts.append("".join(f"<p>{_safe(text)}</p>" for text in said) + _html_table(group))
        parts += [f"<p>{_safe(str(page))}</p>"] if (page := self._page) else []
        return f"<div>{''.join(parts)}</div>"

    def _picture(self) -> str:
        """Return the picture of the score as an image in HTML."""
        import matplotlib as mpl
        from matplotlib.figure import Figure

        # Not pyplot, whose figures a notebook shows by themselves.
        with mpl.rc_context(STYLE):
            figure = Figure(figsize=(6.4, 4.0), layout="constrained")
            self._draw(figure.add_subplot(), "score", None, intervals=True)
            figure.savefig(buffer := io.BytesIO(), format="png", dpi=DPI)
        data = base64.b64encode(buffer.getvalue()).decode()
        return f'<img alt="Score of each arm" src="data:image/png;base64,{data}">'

    @property
    def _page(self) -> Path | None:
        """The report beside the results, if there is one."""
        page = None if self.folder is None else self.folder / "report.html"
        return page if page is not None and page.exists() else None

    # --- what an arm was made of ------------------------------------------------------------------

    @cached_property
    def _runs(self) -> list[Run]:
        return [] if self.folder is None else stored_runs(self.folder)

    def _named(self, arm: str) -> dict[str, str | None]:
        """Return an arm's name with the words it was made of, as far as they are known."""
        for run in self._runs:
            if run.arm == arm:
                return run.named
        return {"credit": arm, "reward": None, "agent": None}


def _shown(group: Group) -> Iterator[tuple[str, str]]:
    """Yield the measurements and numbers of a report's table and of its charts of differences."""
    for name, measure in group.table.items():
        for kind in dict.fromkeys((*measure.columns, *measure.differences, "at_kl")):
            if any(arm.figure(name, kind) for arm in group.rewards.values()):
                yield name, kind


def _figures(group: Group, arm: Arm, measure: str, kind: str) -> dict[str, Any]:
    """Return one number of an arm with its interval, and its difference to the baseline."""
    column, known = f"{measure}_{kind}", arm.figure(measure, kind)
    ends = known if arm.runs > 1 else None  # one seed has no interval
    row: dict[str, Any] = {
        column: known and known.mean,
        f"{column}_low": ends and ends.low,
        f"{column}_high": ends and ends.high,
        **_measuring(arm.measuring, measure, kind, column),
    }
    if any(one.difference(measure, kind) for one in group.rewards.values()):
        gap, versus = arm.difference(measure, kind), arm.versus_baseline
        sure = gap if gap and gap.pairs > 1 else None
        row |= {
            f"{column}_difference": gap and gap.difference,
            f"{column}_difference_low": sure and sure.low,
            f"{column}_difference_high": sure and sure.high,
            f"{column}_p": sure and sure.p_adjusted,
            f"{column}_clear": gap and gap.clear,
        }
        row |= _measuring(versus.measuring if versus else {}, measure, kind, f"{column}_difference")
    return row


def _measuring(errors: Errors, measure: str, kind: str, column: str) -> dict[str, float]:
    """Return the standard error of measuring of a number; {} where it is not known."""
    size = errors.get(measure, {}).get(kind)
    return {} if size is None else {f"{column}_measuring": size}


def _headline(group: Group) -> str:
    return f"{group.label}: {group.verdict.headline}" if group.label else group.verdict.headline


def _safe(text: str) -> str:
    return html.escape(printable(text))


def _html_table(group: Group) -> str:
    """Return the table that terminals and papers show."""
    heads, rewards = short_table(group)
    first = "".join(f"<th>{_safe(' '.join(head))}</th>" for head in heads)
    rows = [f"<tr><th>{group.kind.capitalize()}</th>{first}</tr>"]
    for name, row in rewards.items():
        cells = [
            f"<td><b>{_safe(cell.value)}</b> {_safe(cell.mark)}"
            f"<br><small>{_safe(' '.join(filter(None, (cell.below, cell.error))))}</small></td>"
            for cell in row
        ]
        rows.append(f"<tr><th>{_safe(name)}</th>{''.join(cells)}</tr>")
    return f"<table>{''.join(rows)}</table>"


# --- folders --------------------------------------------------------------------------------------


def read_result(folder: Path | str) -> Result:
    """Read what a comparison, or a training, has left in its folder; nothing is run.

    Where runs have ended since the summary was written, or none is there yet, it is made of the
    runs that have finished.

    Args:
        folder: The folder that `compare`, ``tokengym compare``, ``train`` or ``report`` wrote.

    Raises:
        ValueError: if no run there has finished, or a file is damaged.
    """
    folder = Path(folder)
    runs = stored_runs(folder)
    finished = [run for run in runs if run.is_finished]  # which looks at all of its files
    table, file = folder / CURVES, folder / "summary.json"
    is_written = table.exists() and file.exists()
    if is_written:
        curves, summary = read_stored(table), read_json(file)
        known = {(curve.credit, curve.seed) for curve in curves}
        here = {(run.arm, run.seed) for run in finished}
        is_whole = isinstance(summary, dict) and summary.get("curves_hash") == curves_hash(table)
        # A report of several comparisons has runs of other folders too.
        if is_whole and (here <= known if "source" in summary else here in (known, set())):
            return Result(_of_stored(summary), curves, folder)
    if not finished:
        if is_written:
            raise ValueError(
                f"{file} is not the summary of {table}; make both again with tokengym report"
            )
        fault = f"no run of {folder} has finished" if runs else no_runs(folder)
        raise ValueError(f"{fault}; name a folder that tokengym compare, train or report wrote")
    return Result(*read_comparison(folder), folder)


def _of_stored(record: dict[str, Any]) -> Summary:
    """Return the summary of a summary.json, by today's names of measurements."""
    try:
        for group in record["groups"]:
            for arm in group["rewards"].values():
                for table in (arm["figures"], arm.get("measuring", {})):
                    for name in table.keys() & FORMER:
                        table[FORMER[name]] = table.pop(name)
        return Summary.of_json(record)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"summary.json is damaged or of another version ({error!r}); make it again with "
            "tokengym report"
        ) from None


# --- curves alone ---------------------------------------------------------------------------------


def read_curves(
    source: Source | Result | Sequence[Any] | Mapping[str, Any],
    *,
    baseline: str | None = None,
    axis: Axis | None = None,
    group_by: Sequence[str] | None = None,
    score: str | None = None,
    level: float = DEFAULT_LEVEL,
    kl_coef: float | None = None,
) -> Result:
    """Read learning curves made here or by other tools, by those tools' own column names.

    Known are our own curves.csv and `Result.curves`, the ``log_history`` of transformers and TRL
    (or trainer_state.json), Stable-Baselines3's progress.csv, monitor.csv and evaluations.npz (a
    file or a run's folder, also of rl-zoo3), and Weights & Biases's exported charts and
    ``run.history()``.

    Args:
        source: A file, a folder, a pandas DataFrame, rows, or a `Result`. Several are shown
            together: a list of them, or a mapping from names to them. The names are those of other
            tools' runs, with a seed at the end where there are several: ``abc-seed-1``. Or a name
            has a list of runs, whose seeds are those of their folders, else 0, 1, 2 in order.
        baseline: Arm that the others are compared with; None takes sparse if present, else the
            first.
        axis: What runs are compared at equal amounts of, "step" or "tokens"; None takes that of a
            `Result` or of the summary.json beside a file, and else decides.
        group_by: Columns of our own tables to group by; None takes all that are no measurement.
        score: Column with the score; None takes score, or the one that is known of other tools.
        level: Confidence level of the intervals.
        kl_coef: Price of a nat of KL, for the score minus its penalty.

    Raises:
        ValueError: if a source cannot be read, or runs are measured by different scorers, or in
            different columns, and can be compared by a common one.
        TypeError: if it is none of these.
    """
    curves, settings, about = gather_curves(
        [_given(one, name) for one, name in _sources(source)],
        CurveSettings(
            baseline=baseline,
            axis=axis,
            group_by=group_by,
            score=score,
            level=level,
            kl_coef=kl_coef,
        ),
    )
    found = summarize(on_axis(curves, settings.axis), settings)
    return Result(replace(found, about=about), curves)


def _sources(source: Any) -> list[tuple[Any, str | None]]:
    """Return one source or several, each with the name that it was given."""
    if isinstance(source, Mapping) and not isinstance(source, Result):
        return [pair for name, one in source.items() for pair in _seeds(str(name), one)]
    return [(one, None) for one in source] if _are_several(source) else [(source, None)]


def _are_several(source: Any) -> bool:
    """Return whether a source is a list of sources, and not the rows of one."""
    is_list = isinstance(source, Sequence) and not isinstance(source, str)
    return is_list and not all(
        isinstance(one, Mapping) and not isinstance(one, Result) for one in source
    )


def _seeds(name: str, source: Any) -> list[tuple[Any, str]]:
    """Return the runs of one arm, each with its name.

    Several have the seeds of their folders, or where these are alike 0, 1, 2 in order.
    """
    if not _are_several(source):
        return [(source, name)]
    files = [Given(Path(one)).file for one in source if isinstance(one, str | Path)]
    told = {run_name(file)[1] for file in files if file is not None}
    if len(told) == len(source):
        return [(one, name) for one in source]
    return [(one, f"{name}-seed-{seed}") for seed, one in enumerate(source)]


def _given(source: Any, name: str | None) -> Given:
    if isinstance(source, Result):
        return Given(source.curves, name, source, source.folder)
    return Given(Path(source) if isinstance(source, str) else source, name)
