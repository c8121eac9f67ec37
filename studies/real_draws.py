"""Was the spread between the real model's runs that of their measurement? Eight draws an opening.

    python -m studies.real_draws run --out runs/real_draws [--until 04:40]
    python -m studies.real_draws publish --out runs/real_draws   # fills the page

The runs of real_model at their tuned rates, trained the same way from the same seeds. Each
measurement draws eight responses to each of the bundle's 64 held-out openings, in place of one to
each of 32. A run takes about twelve CPU minutes.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from studies import real_model
from studies.real_model import LEAD, PAIRS, RULES, WITHIN, pairs_needed
from tokengym import ComparisonConfig
from tokengym.evaluation.report import number
from tokengym.lab.study import DOCS, Cell, Published, Runs, Study
from tokengym.lab.tables import markdown_table

OPENINGS, DRAWS = 64, 8


def config(run: Cell, out: Path) -> ComparisonConfig:
    """Return the comparison that a run is of: real_model's, with more draws."""
    published = real_model.STUDY.published(DOCS).runs
    rate = published.rate(Cell(rule=run.rule))
    single = real_model.config(run.but(rate=rate), out)
    # The held-out openings go round: as many episodes as draws of all of them.
    return replace(single, evaluation=replace(single.evaluation, episodes=OPENINGS * DRAWS))


def tables(published: Published) -> dict[str, str]:
    """Return the page's tables of these runs."""
    runs = published.runs
    singles = real_model.STUDY.published(published.folder.parent).runs
    return {
        "draws means": real_model.means_table(runs),
        "draws pairs": real_model.pairs_table(runs),
        "draws spread": spread_table(singles, runs),
    }


def spread_table(singles: Runs, many: Runs) -> str:
    """Return the spread of each pair's differences over the seeds that both studies have."""
    rows = []
    for one, other in PAIRS:
        cells = Cell(rule=one), Cell(rule=other)
        both = [[runs.areas(cell) for cell in cells] for runs in (singles, many)]
        seeds = sorted(set.intersection(*(set(areas) for pair in both for areas in pair)))
        if len(seeds) < 2:
            continue
        spreads = [
            float(np.std([of_one[seed] - of_other[seed] for seed in seeds], ddof=1))
            for of_one, of_other in both
        ]
        needed = [pairs_needed(spreads[1], LEAD), pairs_needed(spreads[1], WITHIN, level=True)]
        shown = [f"`{one}` minus `{other}`", str(len(seeds)), *map(number, spreads)]
        rows.append([*shown, *map(str, needed)])
    if not rows:
        return "Too few runs yet."
    head = ["", "seeds", "standard deviation, single draws", f"{DRAWS} draws of {OPENINGS}"]
    return markdown_table(
        [*head, f"pairs to see {LEAD:g}", f"pairs to show level within {WITHIN:g}"], rows
    )


STUDY = Study(
    document="real_model.md",
    folder="real_model",
    axes={"rule": str},
    rounds=lambda: [([Cell(rule=rule) for rule in RULES], range(5))],
    config=config,
    tables=tables,
    first_rate=None,
    runs="draws.csv",
    holm="table",
)

if __name__ == "__main__":
    STUDY.command_line(__doc__)
