"""What do rewards do to a real model? SmolLM2-135M-Instruct on film reviews, in 16 tokens.

    python -m studies.real_model run --out runs/real [--until 04:40]
    python -m studies.real_model publish --out runs/real   # fills the page

Best-of-n of the untrained policy comes first, then a sweep of LoRA's learning rate for each rule on
a spare seed, then the rules in turn, seed by seed. A run takes about four CPU minutes; one that is
there is not repeated.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tokengym.base.bundle import find_bundle
from tokengym.base.files import write_csv
from tokengym.evaluation.measure.references import reference_lines
from tokengym.evaluation.report.verdict import number
from tokengym.evaluation.runs.config import ComparisonConfig, TaskSettings
from tokengym.evaluation.runs.defaults import EvaluationSettings, training_settings
from tokengym.evaluation.runs.run import run as run_one
from tokengym.evaluation.runs.run import run_references
from tokengym.evaluation.statistics import paired_difference
from tokengym.lab.protocol import (
    PRICE,
    RATES,
    SPARE_SEED,
    Row,
    measured,
    net_area,
    next_rate,
)
from tokengym.lab.study import DOCS, Docs, Out, command_line, deadline, read_rows
from tokengym.lab.tables import (
    NONE,
    after_holm,
    fill,
    markdown_table,
    student_mean,
)

ENV, BUNDLE = "tokengym/MovieReview-v0", "smollm2-reviews"
UPDATES, ROWS, LENGTH, PROMPTS = 12, 32, 16, 32
LEARNER: dict[str, Any] = {
    **{"advantage": "loo", "group_size": 4, "value_network": "trunk"},
    **{"n_epochs": 1, "n_minibatches": 4, "micro_batch_size": 8, "kl_coef": PRICE},
}
"""Four responses to a prompt are each other's baseline, so that no value network is trained."""
RULES = ("sparse", "abc-signed", "random")
PAIRS = (("abc-signed", "sparse"), ("random", "sparse"), ("abc-signed", "random"))
FIGURES = ("net", "score", "gold_score", "kl")
SEEDS = range(6)
Runs = Mapping[tuple[str, float, float], Sequence[Row]]
"""Points of every run, by rule, rate and seed."""
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
                usual=find_bundle(BUNDLE).settings("training") | LEARNER,
                dtype="float32",
                steps=UPDATES,
                batch_size=ROWS,
                max_new_tokens=LENGTH,
                learning_rate=self.rate,
            ),
            evaluation=EvaluationSettings(
                every=UPDATES // 3, episodes=PROMPTS, samples=0, reference_samples=16
            ),
            task=TaskSettings(bundle=BUNDLE),
        )


def swept(rule: str, out: Path) -> dict[float, float]:
    """Return score - c KL over the run by the rates of a rule's sweep so far."""
    files = {rate: Cell(rule=rule, rate=rate, seed=SPARE_SEED).file(out) for rate in RATES}
    return {rate: net_area(read_rows(f, text=["rule"])) for rate, f in files.items() if f.exists()}


def pending(out: Path) -> Iterator[Cell]:
    """Yield the runs that are missing: every rule's sweep, then the rules in turn, seed by seed."""
    best: dict[str, float] = {}
    for rule in RULES:
        while (rate := next_rate(swept(rule, out))) is not None:
            yield Cell(rule=rule, rate=rate, seed=SPARE_SEED)
        areas = swept(rule, out)
        best[rule] = max(areas, key=lambda rate: areas[rate])
    cells = [Cell(rule=rule, rate=best[rule], seed=seed) for seed in SEEDS for rule in RULES]
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
        rows = [{**vars(cell), **point} for point in measured(record)]
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
    file = docs / FOLDER / "runs.csv"
    runs = by_run(read_rows(file, text=["rule"]) if file.exists() else [])
    tables = {"lines": lines_table(lines), "rates": rates_table(runs)}
    fill(
        docs / PAGE,
        tables | {"means": means_table(runs), "pairs": pairs_table(runs), "runs": runs_table(runs)},
    )


def by_run(rows: Sequence[Row]) -> Runs:
    """Return the points of every run, by rule, rate and seed."""
    runs: dict[tuple[str, float, float], list[Row]] = {}
    for row in rows:
        runs.setdefault((row["rule"], row["rate"], row["seed"]), []).append(row)
    return runs


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


def rates_table(runs: Runs) -> str:
    """Return what each rate of the sweeps has reached."""
    tried = sorted({rate for _, rate, seed in runs if seed == SPARE_SEED})
    rows = []
    for rule in RULES:
        points = [runs.get((rule, rate, SPARE_SEED)) for rate in tried]
        rows.append([f"`{rule}`", *(NONE if p is None else number(net_area(p)) for p in points)])
    return markdown_table(["rule", *(f"{rate:g}" for rate in tried)], rows)


def ends(rule: str, runs: Runs) -> dict[float, dict[str, float]]:
    """Return a rule's figures by seed: at the end, and score - c KL over the run."""
    return {
        seed: {**{k: points[-1][k] for k in FIGURES[1:]}, "net": net_area(points)}
        for (name, _, seed), points in runs.items()
        if name == rule and seed != SPARE_SEED
    }


def means_table(runs: Runs) -> str:
    """Return each rule's means over its seeds."""
    rows = []
    for rule in RULES:
        last_points = list(ends(rule, runs).values())
        means = [[figures[k] for figures in last_points] for k in FIGURES]
        rows.append(
            [f"`{rule}`", str(len(last_points))]
            + [student_mean(values) if len(values) > 1 else NONE for values in means]
        )
    header = ["rule", "seeds", "score - c KL over the run"]
    return markdown_table([*header, *(f"{k} at the end" for k in ("score", "gold", "KL"))], rows)


def pairs_table(runs: Runs) -> str:
    """Return the differences of rules, paired by seed; bold where clear after Holm's correction."""
    rows = [[f"`{one}` minus `{other}`"] for one, other in PAIRS]
    for figure in FIGURES[:3]:
        differences = {}
        for pair in PAIRS:
            one, other = (ends(rule, runs) for rule in pair)
            seeds = sorted(one.keys() & other.keys())
            if len(seeds) < 2:
                return "Too few runs yet."
            differences[pair] = paired_difference(
                [one[seed][figure] for seed in seeds], [other[seed][figure] for seed in seeds]
            )
        for row, shown in zip(rows, after_holm(differences).values(), strict=True):
            row.append(shown)
    header = ["", "score - c KL over the run", "score at the end", "gold at the end"]
    return markdown_table(header, rows)


def runs_table(runs: Runs) -> str:
    """Return the table of runs, each with its start and its end."""
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
