"""Which explanation of a gain holds over the published cells? Rank correlations; nothing is run.

A rule may gain because its gradient has less noise, because its gradient or its credit points at
what the score is made of, or because its learner's values are better. Each is measured by another
page before training, and the gains by others after it: film reviews of 48 tokens with a value
network and without one, Forks in three settings, and the field's remedies for a weak critic.

    python -m studies.explanations    # fills a table of docs/results/details/remedies.md
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import spearmanr

from studies import forks, forks_critic, ledger_cells, ledger_noise, remedies
from studies.ledger import STUDY as LEDGER
from tokengym.base import read_json
from tokengym.evaluation.report import number
from tokengym.lab.protocol import net_area
from tokengym.lab.study import DOCS, Docs, command_line, read_rows
from tokengym.lab.tables import NONE, fill, grouped, markdown_table, mean

UNTRAINED, LAMBDAS = "untrained", (0.5, 0.95, 1.0)
SETTINGS = ("easy", "middle", "hard")
FEWEST = 5
"""Cells below which no correlation is shown."""
EXPLANATIONS = ("little noise", "direction of the gradient", "tokens found", "values explain")


class Case(NamedTuple):
    """A cell: what it gains on `sparse`, and what is known of it before training."""

    gain: float
    """score - c KL over the run minus that of `sparse`, mean over the runs."""
    known: Mapping[str, float]
    """Explanation -> its measure, the more the better; some may be lacking."""


def page(docs: Docs = DOCS) -> None:
    """Fill the page's table.

    Args:
        docs: Folder of the pages.
    """
    groups = {
        "film reviews, value network": films(docs, "own"),
        "film reviews, no critic": films(docs, "none"),
        "film reviews, value network, lambda 0.95": films(docs, "own", lambdas=(0.95,)),
        "film reviews, no critic, lambda 0.95": films(docs, "none", lambdas=(0.95,)),
        **{f"Forks, {setting}": of_forks(docs, setting) for setting in SETTINGS},
        "remedies, film reviews": of_remedies(docs),
    }
    fill(docs / remedies.STUDY.document, {"explanations": table(groups)})


def table(groups: Mapping[str, Sequence[Case]]) -> str:
    """Return Spearman's correlation of the gain with each explanation, a line for each group."""
    lines = []
    for name, cases in groups.items():
        shown = [correlation(cases, explanation) for explanation in EXPLANATIONS]
        lines.append([name, str(len(cases)), *shown])
    return markdown_table(["cells", "number", *EXPLANATIONS], lines)


def correlation(cases: Sequence[Case], explanation: str) -> str:
    """Return the rank correlation of gain and measure with its p, and of how many cells it is.

    Cells of one task share their runs of `sparse`, and rules come in families: p takes them as
    independent, and is too small.
    """
    pairs = [(case.known[explanation], case.gain) for case in cases if explanation in case.known]
    if len(pairs) < FEWEST or len({measure for measure, _ in pairs}) < 2:
        return NONE
    found = spearmanr(*zip(*pairs, strict=True))
    p = "< 0.001" if found.pvalue < 0.001 else f"= {found.pvalue:.2g}"
    few = "" if len(pairs) == len(cases) else f"; {len(pairs)} cells"
    return f"{number(found.statistic)} (p {p}{few})"


def films(docs: Path, critic: str, *, lambdas: Sequence[float] = LAMBDAS) -> list[Case]:
    """Return the ledger's cells whose gradient was measured, but for the baseline.

    Args:
        docs: Folder of the pages.
        critic: "own" or "none".
        lambdas: Lambdas of the cells.
    """
    runs = LEDGER.published(docs).runs
    of_gradients = gradients(docs / ledger_cells.FOLDER / ledger_noise.NOISE, policy=UNTRAINED)
    base = runs.areas(ledger_cells.make_cell(rule="sparse", critic=critic))
    cases = []
    for (rule, gae_lambda), measured in of_gradients.items():
        cell = ledger_cells.make_cell(rule=rule, gae_lambda=f"{gae_lambda:g}", critic=critic)
        gain = _gain(runs.areas(cell), base)
        if gain is not None and gae_lambda in lambdas and (rule, gae_lambda) != ("sparse", 0.95):
            cases.append(Case(gain, {**measured, **_found(docs, rule, "MovieReview")}))
    return cases


def of_forks(docs: Path, setting: str) -> list[Case]:
    """Return the cells under PPO in a setting of Forks whose gradient was measured."""
    rows = read_rows(docs / forks.FOLDER / forks.CURVES, text=("cell", "credit"))
    of_gradients = gradients(docs / forks.FOLDER / ledger_noise.NOISE, setting=setting)
    areas: dict[str, dict[int, float]] = {}
    for (cell, seed), points in grouped(rows, lambda row: (row["cell"], int(row["seed"]))).items():
        areas.setdefault(cell, {})[seed] = net_area(points, forks_critic.PRICE)
    base = f"{setting}-ppo-sparse"
    cases = []
    for cell, by_seed in areas.items():
        kind = _of_cell(cell.removeprefix(f"{setting}-ppo-"))
        gain = _gain(by_seed, areas[base])
        if gain is not None and kind in of_gradients and cell != base:
            cases.append(Case(gain, {**of_gradients[kind], **_found(docs, kind[0], "Forks")}))
    return cases


def _of_cell(rule: str) -> tuple[str, float] | None:
    """Return the rule and the lambda, as the gradient's table has them, of a cell under PPO."""
    kinds = {
        "abc-signed": ("abc-signed", 0.5),
        "red_delivery=end": ("red:delivery=end", 0.5),
        "red_delivery=end-0.95": ("red:delivery=end", 0.95),
        "decisive": ("decisive", 0.0),
        "mc_k=4": ("mc, k=4", 0.0),
        "answer-gain": ("answer-gain", 0.95),
    }
    return kinds.get(rule.partition("_segments=")[0])


def _gain(areas: Mapping[int, float], base: Mapping[int, float]) -> float | None:
    """Return the mean of what a cell has more than another, paired by seed; None without pairs."""
    shared = areas.keys() & base.keys()
    return mean([areas[seed] - base[seed] for seed in sorted(shared)]) if shared else None


def of_remedies(docs: Path) -> list[Case]:
    """Return the cells of the remedies that have values, over all their tokens but the values'."""
    published = remedies.STUDY.published(docs)
    explained = remedies.explained_of(published)
    gains = remedies.gains(published.runs)
    return [
        Case(mean(list(by_seed.values())), {"values explain": mean(explained[cell])})
        for cell, by_seed in gains.items()
        if explained.get(cell)
    ]


def gradients(file: Path, **where: str) -> dict[tuple[str, float], dict[str, float]]:
    """Return by rule and lambda what was measured of the gradient, the more the better.

    Args:
        file: Published table of bias and noise.
        where: Column -> value of the rows that count.
    """
    rows = read_rows(file, text=("policy", "setting", "rule"))
    found: dict[tuple[str, float], dict[str, float]] = {}
    for row in rows:
        if all(row[name] == value for name, value in where.items()):
            figures = {"little noise": -row["noise"], "direction of the gradient": row["cosine"]}
            known = {name: value for name, value in figures.items() if np.isfinite(value)}
            found[row["rule"], row["gae_lambda"]] = known
    return found


def _found(docs: Path, rule: str, task: str) -> dict[str, float]:
    """Return the agreement of a rule's credit with the truth, by its card; {} without one."""
    file = docs / "cards" / rule.replace(":", "_") / "card.json"
    if not file.exists():
        return {}
    parts = read_json(file)["parts"]
    part = parts["identification"] if task in parts["identification"] else parts["executed"]
    return {"tokens found": part[task]["correlation"]} if task in part else {}


if __name__ == "__main__":
    command_line(__doc__, page)
