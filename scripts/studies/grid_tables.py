"""The tables of docs/results/credit_grid.md, from the curves that the grid has published.

python -m tokengym.scripts.studies.grid_tables [--docs docs/results]
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokengym.evaluation.curves import read_curves
from tokengym.evaluation.files import read_json
from tokengym.evaluation.panels import Panel, Runs, make_panels
from tokengym.evaluation.speed import relative_steps
from tokengym.evaluation.statistics import (
    Array,
    final_mean,
    interval,
    iqm,
    paired_difference,
    steps_to_threshold,
)
from tokengym.evaluation.summary import FINAL_WINDOW, per_run
from tokengym.scripts.studies.credit_grid import WHEN, cells
from tokengym.scripts.studies.tables import difference, fill, markdown_table, ratio, with_interval

BASELINE = "sparse"
EARLIER = "default_setting/curves.csv"
"""The default setting's own comparison: length 48, seeds 0 to 9, other rules beside."""
SHARES = (0.5, 0.75, 0.9, 1.0)
"""Of sparse's whole gain, up to which the steps are counted."""
FEWEST = 3
"""Pairs without which a cell is left out of the tables."""


def read_cells(docs: Path) -> dict[str, Panel]:
    """Return the published cells by label, the default setting's earlier seeds among them."""
    found: dict[str, Panel] = {}
    for name in cells():
        path = docs / "grid" / f"{name}.csv"
        if path.exists():
            settings = read_json(path.with_suffix(".json"))
            found[name] = _panel(path, settings["training"]["kl_coef"])
    found["MovieReview-48, seeds 0 to 9"] = _panel(docs / EARLIER, 0.05)
    return {name: panel for name, panel in found.items() if BASELINE in panel.rewards}


def speed_table(panels: Mapping[str, Panel]) -> str:
    """Return how many of sparse's steps each rule needs to sparse's final level.

    Once by the score, and once by the score less the KL penalty, which is what the learner
    maximises: a rule that stops at less KL may reach the one and not the other.
    """
    rows = []
    for label, panel in panels.items():
        for rule, pairs in _pairs(panel):
            x, y = pairs("score")
            found = [_speed(panel, pairs, name) for name in ("score", "net_score", "gold_score")]
            level = final_mean(iqm(y, 0), FINAL_WINDOW)
            arrived = [steps_to_threshold(panel.steps, row, level) < np.inf for row in x]
            rows.append([label, rule, str(len(x)), *found, f"{np.mean(arrived):.0%}"])
    header = ["cell", "rule", "pairs", "by score", "by score - c KL", "by gold score"]
    return markdown_table([*header, "seeds that arrive"], rows)


def _speed(panel: Panel, pairs: "Pairs", measure: str) -> str:
    if measure not in panel.measures:
        return "\u2013"
    found = relative_steps(panel.steps, *pairs(measure), window=FINAL_WINDOW)
    return ratio(None if found is None else vars(found))


def shares_table(panels: Mapping[str, Panel]) -> str:
    """Return the steps to shares of sparse's gain in score, as a share of sparse's own steps."""
    rows = []
    for label, panel in panels.items():
        for rule, pairs in _pairs(panel):
            x, y = pairs("score")
            rows.append([label, rule, *(share_ratio(panel.steps, x, y, s) for s in SHARES)])
    return markdown_table(["cell", "rule", *(f"{share:.0%} of the gain" for share in SHARES)], rows)


def share_ratio(steps: Array, x: Array, y: Array, share: float, *, resamples: int = 1000) -> str:
    """Return steps(x) / steps(y) to a share of y's gain, with an interval over pairs of seeds.

    level = y_0 + share * (final(y) - y_0), of interquartile mean curves, taken anew in each draw
    """

    def one(rows: NDArray[np.integer]) -> float:
        mean_x, mean_y = iqm(x[rows], 0), iqm(y[rows], 0)
        level = mean_y[0] + share * (final_mean(mean_y, FINAL_WINDOW) - mean_y[0])
        own = steps_to_threshold(steps, mean_x, level, interpolate=True)
        return own / steps_to_threshold(steps, mean_y, level, interpolate=True)

    rng = np.random.default_rng(0)
    everyone = np.arange(len(x))
    drawn = [one(rng.integers(0, len(x), len(x))) for _ in range(resamples)]
    low, high = np.quantile(drawn, [0.025, 0.975], method="inverted_cdf")
    return ratio({"ratio": one(everyone), "low": float(low), "high": float(high)})


def rules_table(panels: Mapping[str, Panel]) -> str:
    """Return each rule's figures: interquartile means with intervals."""
    wanted = [("score", "auc"), ("score", "final"), ("gold_score", "final"), ("kl", "final")]
    wanted.append(("net_score", "auc"))
    rows = []
    for label, panel in panels.items():
        for rule, runs in panel.rewards.items():
            if len(runs.seeds) < FEWEST:
                continue
            row = [label, rule, str(len(runs.seeds))]
            for measure, kind in wanted:
                if measure not in panel.measures:
                    row.append("\u2013")
                    continue
                values = per_run(panel, runs, measure, kind)
                low, high = interval(values)
                row.append(with_interval({"iqm": iqm(values), "low": low, "high": high}))
            rows.append(row)
    header = ["cell", "rule", "seeds", "score over the run", "final score", "final gold score"]
    return markdown_table([*header, "final KL", "score - c KL over the run"], rows)


def differences_table(panels: Mapping[str, Panel], names: Sequence[tuple[str, str]]) -> str:
    """Return ABC against sparse in each of the named cells: a row per changed setting."""
    wanted = [("score", "auc"), ("net_score", "auc"), ("gold_score", "final"), ("kl", "final")]
    rows = []
    for name, label in names:
        pairs = dict(_pairs(panels[name])).get("abc") if name in panels else None
        if pairs is None:
            continue
        row = [label]
        for measure, kind in wanted:
            known = measure in panels[name].measures
            row.append(
                difference(vars(paired_difference(*pairs(measure, kind))) if known else None)
            )
        found = relative_steps(panels[name].steps, *pairs("score"), window=FINAL_WINDOW)
        rows.append([*row, ratio(None if found is None else vars(found))])
    header = ["setting", "score over the run", "score - c KL over the run", "final gold score"]
    return markdown_table([*header, "final KL", "steps, ABC / sparse"], rows)


def main() -> None:
    """Fill the document."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--docs", type=Path, default=Path("docs/results"))
    arguments = parser.parse_args()
    panels = read_cells(arguments.docs)
    grid = {name: panel for name, panel in panels.items() if not name.startswith("when-")}
    grid = {name: panel for name, panel in grid.items() if "-rate-" not in name}
    when = [("MovieReview-32", "as it is")]
    when += [(f"when-{name}", name.replace("-", " ")) for name in WHEN]
    fill(
        arguments.docs / "credit_grid.md",
        {
            "speed": speed_table(grid),
            "shares": shares_table(grid),
            "rules": rules_table(grid),
            "when": differences_table(panels, when),
        },
    )


Pairs = Callable[..., tuple[Array, Array]]


def _pairs(panel: Panel) -> list[tuple[str, Pairs]]:
    """Return per rule a function of measurement (and kind) giving its and sparse's paired rows."""
    return [
        (rule, _paired(panel, runs))
        for rule, runs in panel.rewards.items()
        if rule != BASELINE and len(set(runs.seeds) & set(panel.rewards[BASELINE].seeds)) >= FEWEST
    ]


def _paired(panel: Panel, runs: Runs) -> Pairs:
    other = panel.rewards[BASELINE]
    seeds = [seed for seed in runs.seeds if seed in other.seeds]

    def pairs(measure: str, kind: str | None = None) -> tuple[Array, Array]:
        both: list[Any] = []
        for side in (runs, other):
            rows = [side.seeds.index(seed) for seed in seeds]
            whole = side.values[measure] if kind is None else per_run(panel, side, measure, kind)
            both.append(whole[rows])
        return both[0], both[1]

    return pairs


def _panel(path: Path, kl_coef: float) -> Panel:
    (panel,) = make_panels(read_curves(path, group_by=()), kl_coef=kl_coef)
    return panel


if __name__ == "__main__":
    main()
