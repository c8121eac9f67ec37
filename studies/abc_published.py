"""The ABC authors' own published learning curves under this library's statistics.

The curves come with the code of Chan et al. 2024, "Dense Reward for Free in Reinforcement Learning
from Human Feedback" (arXiv:2402.00782); they are not part of this project. As CSV with the columns
credit, min_new_tokens, max_new_tokens, seed, step, score:

    python -m studies.abc_published CURVES.csv ... --docs docs/results
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from numpy.typing import NDArray

from studies.cells import DOCS, Docs, command_line
from studies.paired_runs import Interval, PairedRuns, slope_per_doubling
from studies.tables import (
    difference,
    fields,
    fill,
    markdown_table,
    ratio,
    with_interval,
)
from tokengym.evaluation.report.curves import Curve, Panel, make_panels, read_curves
from tokengym.evaluation.report.figures import save_figure
from tokengym.evaluation.report.summary import FINAL_WINDOW, SummarySettings, summarize
from tokengym.evaluation.report.verdict import number
from tokengym.evaluation.statistics import Array, collapsed, paired_difference
from tokengym.evaluation.statistics.curves import relative_steps

NAME = "abc_published"
LEVEL = 0.95


def read_all(paths: Sequence[Path]) -> list[Curve]:
    """Return the curves of all files, the shortest responses first and sparse first in each."""
    curves = [curve for path in paths for curve in read_curves(path)]
    return sorted(curves, key=lambda c: (_tokens(c.group), c.credit != "sparse"))


def length_tables(summary: Mapping[str, Any]) -> dict[str, str]:
    """Return the tables that have a row per length: scores, speed and collapses."""
    rules = list(summary["groups"][0]["rewards"])
    tables: dict[str, list[list[str]]] = {"over-the-run": [], "speed": [], "collapse": []}
    for group in summary["groups"]:
        label = _label(group["group"])
        entries = [group["rewards"][rule] for rule in rules]
        tables["over-the-run"].append(
            [label, *(with_interval(entry["figures"]["score"]["auc"]) for entry in entries)]
        )
        tables["speed"].append(
            [label, *(ratio(entry["versus_baseline"]["relative_steps"]) for entry in entries[1:])]
        )
        tables["collapse"].append([label, *(f"{entry['collapse_rate']:.0%}" for entry in entries)])
    return {
        "over-the-run": markdown_table(["new tokens", *rules], tables["over-the-run"]),
        "speed": markdown_table(["new tokens", *rules[1:]], tables["speed"]),
        "collapse": markdown_table(["new tokens", *rules], tables["collapse"]),
    }


def gain_table(panels: Sequence[Panel]) -> str:
    """Return ABC's gain over sparse by length, with and without the pairs whose sparse collapsed.

    The second column of each kind says whether ABC is faster where sparse works, or whether what
    grows with length is the number of sparse runs that fall apart.
    """
    rows = []
    for panel in panels:
        pairs = PairedRuns(panel=panel, rule="abc", baseline="sparse")
        abc, sparse = pairs.curves("score")
        abc_area, sparse_area = pairs.figures("score", "auc")
        kept = ~fell_apart(sparse)
        rows.append([_label(dict(panel.group))])
        for chosen in (np.full(len(kept), True), kept):
            gain = paired_difference(abc_area[chosen], sparse_area[chosen], level=LEVEL)
            speed = relative_steps(
                panel.steps, abc[chosen], sparse[chosen], LEVEL, window=FINAL_WINDOW
            )
            rows[-1] += [
                difference(vars(gain)),
                ratio(fields(speed)),
            ]
    header = ["new tokens", "ABC - sparse over the run", "steps, ABC / sparse"]
    return markdown_table(
        [*header, "the same where sparse kept its score", "steps there"],
        rows,
    )


def gain_per_doubling(panels: Sequence[Panel], *, without_collapsed: bool) -> Interval:
    """Return how much ABC's gain over sparse, over the run, grows when the length doubles."""
    gains = {}
    for panel in panels:
        pairs = PairedRuns(panel=panel, rule="abc", baseline="sparse")
        abc, sparse = pairs.figures("score", "auc")
        kept = ~fell_apart(pairs.curves("score")[1]) if without_collapsed else slice(None)
        gains[float(np.mean(_tokens(panel.group)))] = (abc - sparse)[kept]
    return slope_per_doubling(gains)


def fell_apart(scores: Array) -> NDArray[np.bool_]:
    """Return which runs lost half of what they had gained, (runs,) bool; see `collapsed`."""
    anchor = float(scores[:, 0].mean())
    return np.array([collapsed(row, anchor) for row in scores])


def main(files: tyro.conf.Positional[tuple[Path, ...]], docs: Docs = DOCS) -> None:
    """Write the figure and fill the tables of the document.

    Args:
        docs: Folder of the study's page.
        files: Files with the published curves.
    """
    curves = read_all(files)
    summary = summarize(curves, SummarySettings(baseline="sparse", level=LEVEL))
    panels = make_panels(curves)
    save_figure(docs / NAME / "curves.png", summary, curves)
    slopes = [
        f"{what}: {number(slope)} ({number(low)} to {number(high)})"
        for what, (slope, low, high) in (
            ("all pairs", gain_per_doubling(panels, without_collapsed=False)),
            ("where sparse kept its score", gain_per_doubling(panels, without_collapsed=True)),
        )
    ]
    fill(
        docs / f"{NAME}.md",
        {
            **length_tables(summary),
            "gain": gain_table(panels),
            "slope": "Score units per doubling of the length; " + "; ".join(slopes) + ".",
        },
    )


def _tokens(group: Sequence[tuple[str, str]]) -> tuple[int, ...]:
    table = dict(group)
    return int(table["min_new_tokens"]), int(table["max_new_tokens"])


def _label(group: Mapping[str, str]) -> str:
    return f"{group['min_new_tokens']} to {group['max_new_tokens']}"


if __name__ == "__main__":
    command_line(__doc__, main)
