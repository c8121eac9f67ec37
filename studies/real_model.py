"""What do rewards do to a real model? SmolLM2-135M-Instruct on film reviews, in 16 tokens.

    python -m studies.real_model run --out runs/real [--until 04:40]
    python -m studies.real_model publish --out runs/real   # fills the page

Best-of-n of the untrained policy comes first, then a sweep of LoRA's learning rate for each rule on
a spare seed, then the rules in turn, seed by seed. A run takes about four CPU minutes; one that is
there is not repeated.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import stdtrit

from tokengym import ComparisonConfig
from tokengym.evaluation.report import number
from tokengym.evaluation.runs import EvaluationSettings, TaskSettings, run_references
from tokengym.lab.protocol import PRICE, SPARE_SEED, net_area
from tokengym.lab.study import (
    NET,
    Cell,
    Drawn,
    Published,
    Row,
    Runs,
    Study,
    single_run,
)
from tokengym.lab.tables import NONE, after_holm, markdown_table, paired, rates_table, student_mean

ENV, BUNDLE = "tokengym/MovieReview-v0", "smollm2-reviews"
UPDATES, ROWS, LENGTH, PROMPTS = 12, 32, 16, 32
LEARNER: dict[str, Any] = {
    "advantage": "loo",
    "group_size": 4,
    "value_network": "trunk",
    "n_epochs": 1,
    "n_minibatches": 4,
    "micro_batch_size": 8,
    "kl_coef": PRICE,
}
"""Four responses to a prompt are each other's baseline, so that no value network is trained."""
RULES = ("sparse", "abc-signed", "random")
PAIRS = (("abc-signed", "sparse"), ("random", "sparse"), ("abc-signed", "random"))
FIGURES = {NET: f"{NET} over the run", "score": "score at the end", "gold_score": "gold at the end"}
LINES = "lines.csv"
LEAD, WITHIN = 0.1, 0.06
"""Difference that is to be seen, and the margin of "level", in score - c KL over the run."""
MEASURED = ((PROMPTS, 1), (PROMPTS, 8), (64, 8))
"""Openings and draws of each in a measurement: the published one first. 64 are held out."""


def config(run: Cell, out: Path) -> ComparisonConfig:
    """Return the comparison that a run is of."""
    del out
    return single_run(
        ENV,
        run.rule,
        bundle=BUNDLE,
        **LEARNER,
        dtype="float32",
        steps=UPDATES,
        batch_size=ROWS,
        max_new_tokens=LENGTH,
        learning_rate=run.rate,
        evaluation=EvaluationSettings(
            every=UPDATES // 3, episodes=PROMPTS, samples=0, reference_samples=16
        ),
        task=TaskSettings(bundle=BUNDLE),
    )


def lines(out: Path) -> list[dict[str, Any]]:
    """Return what the best of n untrained responses has."""
    return best_of_n(config(STUDY.cell(rule=RULES[0], rate=1e-5, seed=0), out), out)


def best_of_n(first: ComparisonConfig, out: Path) -> list[dict[str, Any]]:
    """Return what the best of n untrained responses has.

    Args:
        first: Comparison of any run, whose reference samples these are.
        out: Folder of the study's runs.
    """
    return run_references(first, out / "start").lines(PRICE)["best_of_n"]


def tables(published: Published) -> dict[str, str]:
    """Return the page's tables."""
    runs = published.runs
    return {
        "lines": lines_table(published.drawn[LINES]),
        "rates": rates_table(
            {(f"`{rule}`",): runs.sweeps.get(Cell(rule=rule), {}) for rule in RULES}
        ),
        "means": means_table(runs),
        "pairs": pairs_table(runs),
        "runs": runs_table(runs),
        "power": power_table(runs, published.drawn[LINES]),
    }


def lines_table(lines: Sequence[Row]) -> str:
    """Return the table of best-of-n."""
    names = ("score", "gold_score", "kl", "net_score")
    rows = [[f"{row['n']:.0f}", *(number(row[name]) for name in names)] for row in lines]
    return markdown_table(["n", "score", "gold", "KL at most, nats", NET], rows)


def means_table(runs: Runs) -> str:
    """Return each rule's means over its seeds."""
    rows = []
    for rule in RULES:
        cell = Cell(rule=rule)
        figures = [runs.areas(cell), *(runs.ends(cell, k) for k in (*FIGURES, "kl") if k != NET)]
        means = [student_mean([*f.values()]) if len(f) > 1 else NONE for f in figures]
        rows.append([f"`{rule}`", str(len(figures[0])), *means])
    return markdown_table(["rule", "seeds", *FIGURES.values(), "KL at the end"], rows)


def pairs_table(runs: Runs) -> str:
    """Return the differences of rules, paired by seed; bold where clear after Holm's correction."""
    rows = [[f"`{one}` minus `{other}`"] for one, other in PAIRS]
    for figure in FIGURES:
        pairs = {(a, b): runs.difference(Cell(rule=a), Cell(rule=b), figure) for a, b in PAIRS}
        differences = {pair: gain for pair, gain in pairs.items() if gain is not None}
        if len(differences) < len(PAIRS):
            return "Too few runs yet."
        for row, shown in zip(rows, after_holm(differences).values(), strict=True):
            row.append(shown)
    return markdown_table(["", *FIGURES.values()], rows)


def runs_table(runs: Runs) -> str:
    """Return the table of runs, each with its start and its end."""
    rows = []
    for run in sorted(runs.each, key=lambda run: (run.seed, run.rate, run.rule)):
        start, *_, end = points = runs.each[run]
        moved = [f"{number(start[k])} to {number(end[k])}" for k in ("score", "gold_score")]
        seed = "spare" if run.seed == SPARE_SEED else f"{run.seed:.0f}"
        spent = [number(end["kl"]), number(net_area(points))]
        rows.append([f"`{run.rule}`", f"{run.rate:g}", seed, *moved, *spent])
    head = ["rule", "rate", "seed", "score", "gold", "KL at the end", FIGURES[NET]]
    return markdown_table(head, rows)


def power_table(runs: Runs, lines: Sequence[Row]) -> str:
    """Return how many pairs a difference of 0.1 takes, by the draws that measure a policy.

    The published variance of a pair's difference has two parts: that of runs, and that of the
    single draws which measure them. The second follows from the spread of scores at one opening.
    Measurements of the start are the same for all runs; the others are taken as independent.
    """
    one, other = PAIRS[0]
    pairs = paired(*(runs.areas(Cell(rule=rule)) for rule in (one, other)))
    if len(pairs[0]) < 2 or not lines:
        return "Too few runs yet."
    variance = float(np.var(np.subtract(*pairs), ddof=1))
    spread = spread_of(lines)
    tokens = [row["tokens"] for row in next(iter(runs.runs[Cell(rule=one)].values()))]
    steps = np.diff(tokens) / (tokens[-1] - tokens[0])
    weights = (np.append(steps, 0.0) + np.append(0.0, steps)) / 2  # of the trapezoid rule
    per_draw = 2 * spread**2 * float(np.sum(weights[1:] ** 2))
    rows = []
    for openings, draws in MEASURED:
        left = max(variance - per_draw / PROMPTS, 0.0) + per_draw / (openings * draws)
        figures = [str(pairs_needed(left**0.5, LEAD)), str(pairs_needed(left**0.5, WITHIN, True))]
        rows.append([str(openings), str(draws), number(left**0.5), *figures])
    head = ["openings", "draws of each", "standard deviation of a pair's difference"]
    shown = [f"pairs to see {LEAD:g}", f"pairs to show level within {WITHIN:g}"]
    return markdown_table([*head, *shown], rows)


def spread_of(lines: Sequence[Row]) -> float:
    """Return the standard deviation of scores at one opening, from best-of-1 and best-of-2.

    E[max of 2] - E[one] = sd / sqrt(pi) for normal scores.

    Args:
        lines: Rows of best-of-n.
    """
    scores = {row["n"]: row["score"] for row in lines}
    return float(np.sqrt(np.pi) * (scores[2] - scores[1]))


def pairs_needed(spread: float, difference: float, level: bool = False) -> int:
    """Return the pairs that show a difference 80 times in 100, by Student's t at 5 %.

    Args:
        spread: Standard deviation of a pair's difference.
        difference: What is to be seen, or the margin within which no difference is to be shown.
        level: Whether two one-sided tests are to show that a true 0 is within the margin.

    Example:
        >>> pairs_needed(0.196, 0.1), pairs_needed(0.196, 0.06, level=True)
        (33, 94)
    """
    tail, power = (0.95, 0.9) if level else (0.975, 0.8)
    pairs = 2
    while True:
        quantiles = float(stdtrit(pairs - 1, tail) + stdtrit(pairs - 1, power))
        if pairs >= (quantiles * spread / difference) ** 2:
            return pairs
        pairs += 1


STUDY = Study(
    document="real_model.md",
    folder="real_model",
    axes={"rule": str},
    rounds=lambda: [([Cell(rule=rule) for rule in RULES], range(6))],
    config=config,
    tables=tables,
    drawn=(Drawn(file=LINES, parts={LINES: lines}),),
    holm="table",
)

if __name__ == "__main__":
    STUDY.command_line(__doc__)
