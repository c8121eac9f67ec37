"""What do rewards do to a real model? SmolLM2-135M-Instruct on film reviews, in 16 tokens.

    python -m tokengym.scripts.studies.real_model run --out runs/real [--until 04:40]
    python -m tokengym.scripts.studies.real_model publish --out runs/real   # fills the page

Best-of-n of the untrained policy comes first, then a sweep of LoRA's learning rate on a spare seed,
then pairs of rules by seed. A run takes about a CPU minute; one that is there is not repeated.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tokengym.envs.bundle import find_bundle
from tokengym.envs.files import write_csv
from tokengym.evaluation.measure.references import reference_lines
from tokengym.evaluation.report.verdict import number
from tokengym.evaluation.runs.config import ComparisonConfig, TaskSettings
from tokengym.evaluation.runs.defaults import EvaluationSettings, training_settings
from tokengym.evaluation.runs.run import run as run_one
from tokengym.evaluation.runs.run import run_references
from tokengym.scripts.studies.cells import DOCS, Docs, Out, command_line, deadline, read_rows
from tokengym.scripts.studies.ledger import MEASURES, PRICE, SPARE_SEED, Row, net_area
from tokengym.scripts.studies.tables import fill, markdown_table

ENV, BUNDLE = "tokengym/MovieReview-v0", "smollm2-reviews"
UPDATES, LENGTH, PROMPTS = 4, 16, 16
RATES = (1e-3, 3e-4, 2e-3)
"""What is needed most comes first."""
RULES = ("sparse", "abc-signed")
SEEDS = range(6)
FOLDER, PAGE, LINES = "real_model", "real_model.md", "lines.csv"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run."""

    rule: str
    """Credit rule."""
    rate: float
    """Learning rate of the adapters."""
    seed: int
    """Seed of the training; `SPARE_SEED` is that of the sweep."""

    def file(self, out: Path) -> Path:
        """Return the file of the run's rows."""
        return out / "runs" / f"{self.rule}_{self.rate:g}_{self.seed}.csv"

    def config(self) -> ComparisonConfig:
        """Return the comparison that it is a run of."""
        return ComparisonConfig(
            env="MovieReview",
            rewards=(self.rule,),
            seeds=1,
            training=training_settings(
                ENV,
                usual=find_bundle(BUNDLE).settings("training"),
                steps=UPDATES,
                max_new_tokens=LENGTH,
                learning_rate=self.rate,
                kl_coef=PRICE,
            ),
            evaluation=EvaluationSettings(
                every=UPDATES // 2, episodes=PROMPTS, samples=0, reference_samples=16
            ),
            task=TaskSettings(bundle=BUNDLE),
        )


def tuned_rate(out: Path) -> float | None:
    """Return the rate with the best score - c KL over the sweep's runs, None before all are there.

    Args:
        out: Folder of the study's runs.
    """
    files = {rate: Cell(rule="sparse", rate=rate, seed=SPARE_SEED).file(out) for rate in RATES}
    if not all(file.exists() for file in files.values()):
        return None
    return max(RATES, key=lambda rate: net_area(read_rows(files[rate], text=["rule"])))


def pending(out: Path) -> Iterator[Cell]:
    """Yield the runs that are missing: the sweep's, then every rule's, seed by seed."""
    cells = [Cell(rule="sparse", rate=rate, seed=SPARE_SEED) for rate in RATES]
    yield from (cell for cell in cells if not cell.file(out).exists())
    rate = tuned_rate(out)
    cells = [Cell(rule=r, rate=rate, seed=s) for s in SEEDS for r in RULES] if rate else []
    yield from (cell for cell in cells if not cell.file(out).exists())


def run(out: Out, until: str | None = None) -> None:
    """Draw the reference samples, and do the runs that are missing, one at a time.

    Args:
        out: Folder of the study's runs.
        until: Time of day, HH:MM, after which no run begins.
    """
    end = deadline(until)
    first = Cell(rule=RULES[0], rate=RATES[0], seed=0)
    if not (out / LINES).exists():
        rows = reference_lines(run_references(first.config(), out / "start"), PRICE)["best_of_n"]
        write_csv(out / LINES, rows, list(rows[0]))
    for cell in pending(out):
        if datetime.now() >= end:
            return
        record = run_one(cell.config(), cell.rule, cell.seed)
        points = [{k: round(point[k], 4) for k in MEASURES} for point in record.curve]
        rows = [{**vars(cell), **point} for point in points]
        write_csv(cell.file(out), rows, list(rows[0]))
        print(f"{datetime.now():%H:%M:%S} {cell} {net_area(rows):.3f}", flush=True)


def publish(out: Out, docs: Docs = DOCS) -> None:
    """Copy the lines and the runs so far beside the page, and fill its tables.

    Args:
        out: Folder of the study's runs.
        docs: Folder of the page.
    """
    lines = read_rows(out / LINES, text=[])
    write_csv(docs / FOLDER / LINES, lines, list(lines[0]))
    files = sorted((out / "runs").glob("*.csv"))
    if files:
        rows = read_rows(*files, text=["rule"])
        write_csv(docs / FOLDER / "runs.csv", rows, list(rows[0]))
    page(docs)


def page(docs: Path) -> None:
    """Fill the page's tables from the published figures."""
    lines = read_rows(docs / FOLDER / LINES, text=[])
    tables = {"lines": lines_table(lines)}
    runs = docs / FOLDER / "runs.csv"
    tables["runs"] = runs_table(read_rows(runs, text=["rule"])) if runs.exists() else "No run yet."
    fill(docs / PAGE, tables)


def lines_table(lines: Sequence[Row]) -> str:
    """Return the table of best-of-n."""
    return markdown_table(
        ["n", "score", "gold", "KL at most, nats", "score - c KL"],
        [
            [
                f"{row['n']:.0f}",
                *(number(row[name]) for name in ("score", "gold_score", "kl", "net_score")),
            ]
            for row in lines
        ],
    )


def runs_table(rows: Sequence[Row]) -> str:
    """Return the table of runs, each with its start and its end."""
    runs: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        runs.setdefault((row["rule"], row["rate"], row["seed"]), []).append(row)
    lines = []
    for (rule, rate, seed), points in sorted(runs.items(), key=lambda item: item[0][::-1]):
        start, end = points[0], points[-1]
        moved = [f"{number(start[k])} to {number(end[k])}" for k in ("score", "gold_score")]
        which = "spare" if seed == SPARE_SEED else f"{seed:.0f}"
        lines.append(
            [f"`{rule}`", f"{rate:g}", which, *moved, number(end["kl"]), number(net_area(points))]
        )
    header = ["rule", "rate", "seed", "score", "gold", "KL at the end", "score - c KL over the run"]
    return markdown_table(header, lines)


if __name__ == "__main__":
    command_line(__doc__, run, publish)
