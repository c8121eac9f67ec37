"""Tables and pictures of the pages that tell of one comparison, from its published curves.

python -m studies.comparisons [--docs docs/results]

The runs are those of the commands that each page names: a sweep of the learning rate on sparse, and
the comparison at the best one.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from studies.cells import DOCS, Docs, command_line
from studies.grid_page import panel_of
from studies.grid_tables import (
    DIFFERENCES,
    differences_table,
    paired_rules,
    per_run,
)
from studies.tables import fill, iqm_with_interval, markdown_table, mean
from tokengym.evaluation.report.curves import Curve, read_curves
from tokengym.evaluation.report.figures import save_figure
from tokengym.evaluation.report.summary import SummarySettings, summarize
from tokengym.evaluation.report.verdict import number


@dataclass(frozen=True, kw_only=True)
class Page:
    """A comparison that a page tells of."""

    page: str
    """File name of the page."""
    folder: str
    """Folder of the published curves: curves.csv, and sweep.csv if a rate was chosen."""
    kl_coef: float = 0.05
    """Price of a nat of KL."""
    by_gold: bool = False
    """Whether the score is the gold score, as where the rewards have different scorers."""
    has_differences: bool = True
    """Whether its differences are a table of their own, not one that the page's study fills."""


PAGES = {
    "exact": Page(page="default_setting.md", folder="default_setting/exact"),
    "imdb": Page(page="imdb.md", folder="imdb", has_differences=False),
    "imdb-12": Page(page="imdb.md", folder="imdb/12", has_differences=False),
    "imdb-48": Page(page="imdb.md", folder="imdb/48", has_differences=False),
    "rewards": Page(page="rewards.md", folder="rewards", kl_coef=0.02, by_gold=True),
}
"""Name of the tables -> where they stand and what they are made from."""
FIGURES = {
    "score over the run": ("score", "auc"),
    "final score": ("score", "final"),
    "final gold score": ("gold_score", "final"),
    "final KL": ("kl", "final"),
    "`score - c KL` over the run": ("net_score", "auc"),
}
BY_GOLD = {
    "gold score over the run": ("score", "auc"),
    "final gold score": ("score", "final"),
    "final KL": ("kl", "final"),
    "gold score - c KL over the run": ("net_score", "auc"),
}
"""Columns where the score is the gold score."""


def publish(docs: Docs = DOCS) -> None:
    """Fill each page's tables and draw its curves."""
    for name, page in PAGES.items():
        folder = docs / page.folder
        curves = read_curves(folder / "curves.csv", group_by=())
        panel = panel_of(curves, page.kl_coef)
        figures = BY_GOLD if page.by_gold else FIGURES
        rules = [
            [rule, *(iqm_with_interval(per_run(panel, runs, *kind)) for kind in figures.values())]
            for rule, runs in panel.rewards.items()
        ]
        gains = BY_GOLD if page.by_gold else DIFFERENCES
        tables = {f"{name}-rules": markdown_table(["reward", *figures], rules)}
        if page.has_differences:
            tables[f"{name}-differences"] = differences_table(paired_rules(panel), gains)
        if (folder / "sweep.csv").exists():
            tables[f"{name}-sweep"] = sweep_table(folder / "sweep.csv")
        fill(docs / page.page, tables)
        summary = summarize(curves, SummarySettings(baseline="sparse", by_gold=page.by_gold))
        save_figure(folder / "curves.png", summary, curves)


def sweep_table(path: Path) -> str:
    """Return what each learning rate of sparse comes to, means over the seeds."""
    groups: dict[str, list[Curve]] = {}
    for curve in read_curves(path, group_by=["learning_rate"]):
        groups.setdefault(curve.group[0][1], []).append(replace(curve, group=()))
    kinds = (("net_score", "auc"), ("score", "auc"), ("score", "final"), ("kl", "final"))
    rows = []
    for rate, curves in groups.items():
        panel = panel_of(curves)
        (runs,) = panel.rewards.values()
        rows.append([rate, *(number(mean(per_run(panel, runs, *kind))) for kind in kinds)])
    head = ["learning rate", "area under `score - c KL` (the criterion)", "area under score"]
    return markdown_table([*head, "final score", "final KL"], rows)


if __name__ == "__main__":
    command_line(__doc__, publish)
