"""The tables of docs/results/credit_grid.md: pure functions from panels of runs to Markdown."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from studies.paired_runs import PairedRuns
from studies.tables import (
    difference,
    fields,
    iqm_with_interval,
    markdown_table,
    ratio,
)
from tokengym.evaluation.report.curves import Panel
from tokengym.evaluation.report.summary import FINAL_WINDOW, per_run
from tokengym.evaluation.statistics import Array, final_mean, iqm, steps_to_threshold

BASELINE = "sparse"
SHARES = (0.5, 0.75, 0.9)
"""Shares of sparse's whole gain up to which the steps are counted."""
DIFFERENCES = {
    "score over the run": ("score", "auc"),
    "score - c KL over the run": ("net_score", "auc"),
    "final gold score": ("gold_score", "final"),
    "final KL": ("kl", "final"),
}
"""Column: measurement and kind."""
FIGURES = {
    "score over the run": ("score", "auc"),
    "final score": ("score", "final"),
    "final gold score": ("gold_score", "final"),
    "final KL": ("kl", "final"),
    "score - c KL over the run": ("net_score", "auc"),
}
FEWEST = 3
"""Runs, or pairs, without which a cell is left out of the tables."""
PLANNED = 10
"""Pairs of a cell that is whole."""


def paired_rules(panel: Panel) -> dict[str, PairedRuns]:
    """Return every rule that has enough pairs with sparse."""
    by_rule = {
        rule: PairedRuns(panel=panel, rule=rule, baseline=BASELINE)
        for rule in panel.rewards
        if rule != BASELINE
    }
    return {rule: pairs for rule, pairs in by_rule.items() if len(pairs.seeds) >= FEWEST}


def paired_settings(panels: Mapping[str, Panel], rule: str = "abc") -> dict[str, PairedRuns]:
    """Return one rule's pairs with sparse in every setting where there are enough."""
    by_label = {label: paired_rules(panel).get(rule) for label, panel in panels.items()}
    return {label: pairs for label, pairs in by_label.items() if pairs is not None}


def steps_table(panels: Mapping[str, Panel], measure: str = "score") -> str:
    """Return the steps to sparse's final level as a share of sparse's own: rules by settings."""
    by_rule: dict[str, dict[str, str]] = {}
    for label, panel in panels.items():
        for rule, pairs in paired_rules(panel).items():
            text = ratio(fields(pairs.relative_steps(measure)))
            by_rule.setdefault(rule, {})[label] = text + _fewer(pairs)
    rows = [[rule, *(row.get(label, "") for label in panels)] for rule, row in by_rule.items()]
    return markdown_table(["rule", *panels], rows)


def shares_table(pairs: Mapping[str, PairedRuns]) -> str:
    """Return the steps to shares of sparse's gain in score, as a share of sparse's own steps."""
    rows = [
        [
            label,
            *(share_ratio(runs.panel.steps, *runs.curves("score"), share) for share in SHARES),
        ]
        for label, runs in pairs.items()
    ]
    return markdown_table(["", *(f"{share:.0%} of the gain" for share in SHARES)], rows)


def share_ratio(steps: Array, x: Array, y: Array, share: float, *, resamples: int = 1000) -> str:
    """Return steps(x) / steps(y) to a share of y's gain, with an interval over pairs of seeds.

    level = y_0 + share * (final(y) - y_0), of interquartile mean curves, recomputed in each draw
    """

    def one(rows: NDArray[np.integer]) -> float:
        mean_x, mean_y = iqm(x[rows], 0), iqm(y[rows], 0)
        level = mean_y[0] + share * (final_mean(mean_y, FINAL_WINDOW) - mean_y[0])
        steps_of_x = steps_to_threshold(steps, mean_x, level, interpolate=True)
        return steps_of_x / steps_to_threshold(steps, mean_y, level, interpolate=True)

    rng = np.random.default_rng(0)
    everyone = np.arange(len(x))
    drawn = [one(rng.integers(0, len(x), len(x))) for _ in range(resamples)]
    low, high = np.quantile(drawn, [0.025, 0.975], method="inverted_cdf")
    return ratio({"ratio": one(everyone), "low": float(low), "high": float(high)})


def differences_table(
    pairs: Mapping[str, PairedRuns], columns: Mapping[str, tuple[str, str]] = DIFFERENCES
) -> str:
    """Return what a rule gains on sparse: a row per pairing, its differences and its speed.

    ``columns`` maps a title to a measurement and its kind.
    """
    rows = []
    for label, runs in pairs.items():
        gains = [runs.difference(measure, kind) for measure, kind in columns.values()]
        cells = [difference(fields(gain)) for gain in gains]
        rows.append([label, *cells, ratio(fields(runs.relative_steps("score")))])
    return markdown_table(["", *columns, "relative steps"], rows)


def rules_table(panels: Mapping[str, Panel]) -> str:
    """Return each rule's figures: interquartile means with intervals."""
    rows = []
    for label, panel in panels.items():
        for rule, runs in panel.rewards.items():
            if len(runs.seeds) < FEWEST:
                continue
            row = [label, rule, str(len(runs.seeds))]
            for measure, kind in FIGURES.values():
                if measure not in panel.measures:
                    row.append("\u2013")
                    continue
                row.append(iqm_with_interval(per_run(panel, runs, measure, kind)))
            rows.append(row)
    return markdown_table(["cell", "rule", "seeds", *FIGURES], rows)


def _fewer(pairs: PairedRuns) -> str:
    """Return the number of pairs where it is below what was planned."""
    return "" if len(pairs.seeds) >= PLANNED else f", {len(pairs.seeds)} pairs"
