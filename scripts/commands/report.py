"""``tokengym report``: the same report, from runs or curves made elsewhere."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from tokengym.scripts.commands.options import takes_settings

if TYPE_CHECKING:
    from tokengym.evaluation.report.figures import Paper


def paper_settings() -> dict[str, Any]:
    """Return the default settings: no figure and no table."""
    from tokengym.evaluation.report.figures import Paper

    return {"paper": Paper()}


@takes_settings(paper_settings)
def report(
    runs: Annotated[
        tuple[Path, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="[RUN ...]"),
    ] = (),
    out: Path | None = None,
    curves: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE ...")] = (),
    baseline: str | None = None,
    group_by: Annotated[tuple[str, ...], tyro.conf.arg(metavar="COLUMN ...")] = (),
    score: str | None = None,
    level: float | None = None,
    kl_coef: float | None = None,
    axis: Literal["step", "tokens"] | None = None,
    *,
    paper: "Paper",
) -> None:
    """Write a report of comparisons made apart, or of learning curves made elsewhere.

    For example:
      tokengym report machine-a/runs machine-b/runs --out merged
      tokengym report --curves published.csv --out published
      tokengym report --curves runs/stock/trainer_state.json runs/abc/trainer_state.json
      tokengym report runs/demo --figure fig.pdf --measure score gold_score --columns 2
      tokengym report runs/demo --table latex

    Args:
        runs: Folders that tokengym compare or train wrote; runs are grouped by the settings that
            differ. Files are read as --curves.
        out: Folder of the results (default: that of a single run or comparison, else report; none
            beside --figure or --table).
        curves: CSVs with the columns credit, seed, step, score. Other known measurements (kl,
            gold_score, length, ...) are drawn too, runs are grouped by any other column. Or
            trainer_state.json files of TRL, each a run named after its folder.
        baseline: Reward that the others are compared with (default: the first; sparse, if curves
            have it).
        group_by: Columns to group curves by, if not all of those.
        score: Column of curves with the score (default: score, or the one that is known of the tool
            that logged them).
        level: Confidence level of the intervals (default: that of the report there, else of the
            runs; of curves 0.95).
        kl_coef: Price of a nat of KL in curves, for the score minus its penalty.
        axis: What runs of curves are compared at equal amounts of: step (updates) or tokens
            (default: that of the summary.json beside the curves; step where there is none).
        paper: Figure and table for a paper.
    """
    from tokengym.evaluation.runs.elsewhere import CurveSettings, report_curves
    from tokengym.evaluation.runs.results import merge_comparisons
    from tokengym.scripts.commands.show import say, show_summary, terminal

    if runs and not curves and all(run.is_file() for run in runs):
        runs, curves = (), runs
    if bool(runs) == bool(curves):
        raise ValueError("report takes folders of runs or --curves FILE.csv, one of the two")
    of_curves: dict[str, Any] = {"group_by": group_by or None, "score": score}
    of_curves |= {"kl_coef": kl_coef, "axis": axis}
    given = {name: value for name, value in of_curves.items() if value is not None}
    for name in given if runs else ():
        raise ValueError(
            f"--{name.replace('_', '-')} has no effect on runs, whose settings are stored; "
            "leave it out, or name their files: --curves RUN/curves.csv"
        )
    if out is None and paper.figure is paper.table is None:
        out = runs[0] if len(runs) == 1 else Path("report")
    if curves:
        given |= {} if level is None else {"level": level}
        how = CurveSettings(baseline=baseline, **given)
        summary = report_curves(curves, out, how, paper=paper)
    else:
        summary = merge_comparisons(runs, out, baseline=baseline, level=level, paper=paper)
    if out is not None and paper.table is None:
        show_summary(terminal(), summary, out)
    elif paper.figure is not None:
        say(terminal(stderr=True), str(paper.figure))
