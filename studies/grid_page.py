"""docs/results/credit_grid.md and its pictures, from the curves that the grid published.

python -m studies.grid_page [--docs docs/results]
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from studies.cells import DOCS, Docs, command_line
from studies.credit_grid import LENGTHS, RULES, SIGNED
from studies.grid_tables import (
    BASELINE,
    FEWEST,
    differences_table,
    paired_rules,
    paired_settings,
    rules_table,
    shares_table,
    steps_table,
)
from studies.paired_runs import PairedRuns, slope_per_doubling
from studies.tables import fill
from tokengym.base.files import read_json
from tokengym.evaluation.report.curves import Curve, Panel, make_panels, read_curves
from tokengym.evaluation.report.figures import COLOURS, STYLE, save_figure, write_picture
from tokengym.evaluation.report.summary import SummarySettings, summarize
from tokengym.evaluation.report.verdict import number
from tokengym.evaluation.statistics import paired_difference

EARLIER = "default_setting/curves.csv"
"""The default setting's own comparison: length 48, seeds 0 to 9."""
AGAIN = "MovieReview-48-again"
"""The cell of 48 tokens run again, its gold score counting grammaticality as well."""
SETTINGS = {
    "no-kl-price": "no price on KL",
    "lambda-1": "lambda 1",
    "rate-1e-4": "learning rate 1e-4",
    "rate-1e-3": "learning rate 1e-3",
    "batch-16": "16 episodes an update",
    "not-centred": "score not centred",
    "running": "centred by a running mean",
    "no-critic": "no critic",
    "misaligned": "reward model misaligned",
    "batch-16-not-centred": "16 episodes, not centred",
    "lambda-1-no-critic": "lambda 1, no critic",
    "lambda-1-rate-1e-3": "lambda 1, learning rate 1e-3",
}
"""Cells of `WHEN`, by name, and what the page calls them."""

DRAWN = {"score over the run": ("score", "auc"), "score - c KL over the run": ("net_score", "auc")}


def main(docs: Docs = DOCS) -> None:
    """Draw the figures and fill the page.

    Args:
        docs: Folder of the study's page.
    """
    curves = {f"{length} tokens": read_cell(docs, f"MovieReview-{length}") for length in LENGTHS}
    again, earlier = read_cell(docs, AGAIN), read_curves(docs / EARLIER, group_by=())
    settings = read_settings(docs, panel_of(curves["32 tokens"]))
    of_lengths = length_tables(curves, earlier)
    fill(
        docs / "credit_grid.md",
        {
            **of_lengths,
            **task_tables(docs),
            **again_tables(panel_of(again)),
            "long": differences_table(
                paired_settings(read_panels(docs, {"150 updates": "MovieReview-32-long"}))
            ),
            "when": differences_table(settings),
        },
    )
    draw_lengths(docs / "grid" / "lengths.png", curves)
    draw_settings(docs / "grid" / "when.png", settings)
    picture = docs.parent / "images" / "curves.png"
    save_figure(picture, summarize(again, SummarySettings(baseline=BASELINE)), again)


def length_tables(
    curves: Mapping[str, Sequence[Curve]], earlier: Sequence[Curve]
) -> dict[str, str]:
    """Return the tables of MovieReview at its lengths.

    Args:
        curves: By length, in words; none where it has not run.
        earlier: Further seeds at 48 tokens.
    """
    lengths = {label: panel_of(runs) for label, runs in curves.items() if runs}
    common = {
        label: replace(panel, rewards={k: v for k, v in panel.rewards.items() if k in RULES})
        for label, panel in lengths.items()
    }
    signs = {
        label: PairedRuns(panel=panel, rule=SIGNED, baseline="abc")
        for label, panel in lengths.items()
    }
    by_length = paired_settings({**lengths, "48 tokens, seeds 0 to 9": panel_of(earlier)})
    return {
        "speed": steps_table(common),
        "net-speed": steps_table(common, "net_score"),
        "gain": differences_table(by_length),
        "slope": slope_sentence(lengths),
        "shares": shares_table(by_length),
        "sign": differences_table({k: pairs for k, pairs in signs.items() if pairs.seeds}),
        "rules-32": differences_table(paired_rules(lengths["32 tokens"])),
        "rules-48": differences_table(paired_rules(panel_of([*curves["48 tokens"], *earlier]))),
        "figures": rules_table(lengths),
    }


def again_tables(panel: Panel) -> dict[str, str]:
    """Return the tables of the cell that was run again."""
    return {
        "again": differences_table(paired_rules(panel)),
        "again-figures": rules_table({"48 tokens": panel}),
    }


def task_tables(docs: Path) -> dict[str, str]:
    """Return the tables of the Oracle."""
    panels = read_panels(docs, {"Oracle": "Oracle"})
    tables = {task: differences_table(paired_rules(panel)) for task, panel in panels.items()}
    return {**tables, "task-figures": rules_table(panels)}


def read_settings(docs: Path, as_it_is: Panel) -> dict[str, PairedRuns]:
    """Return ABC against sparse where one thing is changed of a setting, that setting first."""
    changed = read_panels(docs, {label: f"when-{name}" for name, label in SETTINGS.items()})
    return paired_settings({"as it is": as_it_is, **changed})


def read_cell(docs: Path, name: str) -> list[Curve]:
    """Return the published runs of a cell; none if it has not run."""
    path = docs / "grid" / f"{name}.csv"
    return read_curves(path, group_by=()) if path.exists() else []


def panel_of(curves: Sequence[Curve], kl_coef: float = 0.05) -> Panel:
    """Return runs of one setting on common steps."""
    (panel,) = make_panels(curves, kl_coef=kl_coef)
    return panel


def read_panels(docs: Path, names: Mapping[str, str]) -> dict[str, Panel]:
    """Return the cells that have run, by label, each with the price on KL that it trained with."""
    panels = {}
    for label, name in names.items():
        if curves := read_cell(docs, name):
            kl_coef = read_json(docs / "grid" / f"{name}.json")["training"]["kl_coef"]
            panels[label] = panel_of(curves, kl_coef)
    return panels


def slope_sentence(lengths: Mapping[str, Panel]) -> str:
    """Return how much ABC's gain over sparse grows when the length doubles."""
    pairs = paired_settings(lengths)
    said = []
    for title, (measure, kind) in DRAWN.items():
        gains = {}
        for label, runs in pairs.items():
            rule, sparse = runs.figures(measure, kind)
            gains[float(label.split()[0])] = rule - sparse
        slope, low, high = slope_per_doubling(gains)
        said.append(f"{title} {number(slope)} ({number(low)} to {number(high)})")
    return f"ABC's gain over sparse per doubling of the length: {'; '.join(said)}."


def draw_lengths(path: Path, curves: Mapping[str, Sequence[Curve]]) -> None:
    """Draw the score over the updates, a panel per length, rules with too few runs left out."""
    runs = []
    for label, cell in curves.items():
        done = Counter(run.credit for run in cell)
        group = (("tokens", label.split()[0]),)
        runs += [
            replace(run, group=group, values={"score": run.values["score"]})
            for run in cell
            if run.credit in RULES and done[run.credit] >= FEWEST
        ]
    save_figure(path, summarize(runs, SummarySettings(baseline=BASELINE)), runs)


def draw_settings(path: Path, pairs: Mapping[str, PairedRuns]) -> None:
    """Draw what ABC gains on sparse: a row per setting, hollow where the interval holds 0."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    rows = range(len(pairs))[::-1]
    with mpl.rc_context({**STYLE, "axes.grid.axis": "x"}):
        figure = Figure(figsize=(10, 0.34 * len(pairs) + 1.0), layout="constrained")
        axes = figure.subplots(1, len(DRAWN), sharey=True)
        for axis, (title, (measure, kind)) in zip(axes, DRAWN.items(), strict=True):
            for row, runs in zip(rows, pairs.values(), strict=True):
                gain = paired_difference(*runs.figures(measure, kind))
                inside = COLOURS[1] if gain.low > 0 or gain.high < 0 else "white"
                axis.plot([gain.low, gain.high], [row, row], color=COLOURS[1], linewidth=2)
                axis.plot(gain.difference, row, "o", color=COLOURS[1], markerfacecolor=inside)
            axis.axvline(0.0, color="#9aa1a8", linewidth=1)
            axis.set_title(f"ABC - {BASELINE}, {title}")
        axes[0].set_yticks(list(rows), list(pairs))
        write_picture(path, figure, dpi=130)


if __name__ == "__main__":
    command_line(__doc__, main)
