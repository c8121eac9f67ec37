"""Tables and pictures of the pages that tell of one comparison, from its published curves.

python -m tokengym.scripts.studies.comparisons [--docs docs/results]

The runs are those of the commands that each page names: a sweep of the learning rate on sparse, and
the comparison at the best one.
"""

from dataclasses import replace
from pathlib import Path

from tokengym.evaluation.report.curves import Curve, read_curves
from tokengym.evaluation.report.figures import save_figure
from tokengym.evaluation.report.results import summarize
from tokengym.evaluation.report.verdict import number
from tokengym.scripts.studies.cells import DOCS, Docs, command_line
from tokengym.scripts.studies.grid_page import panel_of
from tokengym.scripts.studies.grid_tables import differences_table, paired_rules, per_run
from tokengym.scripts.studies.tables import fill, iqm_with_interval, markdown_table, mean

PAGES = {
    "exact": ("default_setting.md", "default_setting/exact"),
    "imdb": ("imdb.md", "imdb"),
}
"""Name of the tables -> the page, and the folder of the published curves."""
FIGURES = {
    "score over the run": ("score", "auc"),
    "final score": ("score", "final"),
    "final gold score": ("gold_score", "final"),
    "final KL": ("kl", "final"),
    "`score - c KL` over the run": ("net_score", "auc"),
}


def publish(docs: Docs = DOCS) -> None:
    """Fill each page's tables and draw its curves."""
    for name, (page, place) in PAGES.items():
        folder = docs / place
        curves = read_curves(folder / "curves.csv", group_by=())
        panel = panel_of(curves)
        rules = [
            [rule, *(iqm_with_interval(per_run(panel, runs, *kind)) for kind in FIGURES.values())]
            for rule, runs in panel.rewards.items()
        ]
        tables = {
            f"{name}-sweep": sweep_table(folder / "sweep.csv"),
            f"{name}-rules": markdown_table(["reward", *FIGURES], rules),
            f"{name}-differences": differences_table(paired_rules(panel)),
        }
        fill(docs / page, tables)
        save_figure(folder / "curves.png", summarize(curves, baseline="sparse"), curves)


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
