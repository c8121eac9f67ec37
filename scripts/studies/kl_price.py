"""Does PPO maximise score - c KL? The price in the reward against the exact KL in the loss.

python -m tokengym.scripts.studies.kl_price run --out runs/kl      # 54 runs, about 15 s each
python -m tokengym.scripts.studies.kl_price publish --out runs/kl  # fills docs/results/kl.md
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokengym.envs.files import write_csv
from tokengym.evaluation.report.verdict import number
from tokengym.scripts.studies.cells import DOCS, Docs, Out, command_line, read_rows, run_missing
from tokengym.scripts.studies.tables import fill, markdown_table

PLACES = (("reward", "k1"), ("loss", "exact"))
PRICES = (0.0, 0.05, 0.2, 0.5, 2.0)
RATES = (1e-4, 3e-4, 1e-3)
SEEDS = (0, 1)
UPDATES, EVERY = 20, 5
TEXT = ("kl_in", "kl_estimator")


@dataclass(frozen=True)
class Cell:
    """One run on MovieReview under the sparse reward."""

    kl_in: str
    kl_estimator: str
    price: float
    rate: float
    seed: int

    @property
    def name(self) -> str:
        """Name of its file."""
        return f"{self.kl_in}-{self.kl_estimator}-{self.price:g}-{self.rate:g}-{self.seed}"


def cells() -> Iterator[Cell]:
    """Yield the runs of the study; at price 0 the place makes no difference."""
    for kl_in, estimator in PLACES:
        for price in PRICES:
            if price > 0.0 or kl_in == "reward":
                for rate in RATES:
                    for seed in SEEDS:
                        yield Cell(kl_in, estimator, price, rate, seed)


def measure(cell: Cell) -> list[dict[str, Any]]:
    """Train one policy and return a row per measurement, on 128 held-out prompts."""
    from tokengym.evaluation.runs.config import ComparisonConfig
    from tokengym.evaluation.runs.defaults import EvaluationSettings, training_settings
    from tokengym.evaluation.runs.run import run as run_one

    config = ComparisonConfig(
        env="MovieReview",
        rewards=("sparse",),
        seeds=1,
        first_seed=cell.seed,
        training=training_settings(
            "tokengym/MovieReview-v0",
            steps=UPDATES,
            learning_rate=cell.rate,
            kl_coef=cell.price,
            kl_in=cell.kl_in,
            kl_estimator=cell.kl_estimator,
        ),
        evaluation=EvaluationSettings(every=EVERY, episodes=128, samples=0),
    )
    record = run_one(config, "sparse", cell.seed)
    return [
        {**vars(cell), **{name: point[name] for name in ("step", "score", "kl", "gold_score")}}
        for point in record.curve
    ]


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return how runs end, by price and rate: score - c KL, with score and KL behind it."""
    last = max(row["step"] for row in rows)
    lines = []
    for price in sorted({row["price"] for row in rows}):
        for rate in sorted({row["rate"] for row in rows}):
            cells = []
            for kl_in, _ in PLACES:
                ends = [
                    row
                    for row in rows
                    if (row["kl_in"], row["price"], row["rate"], row["step"])
                    == (kl_in, price, rate, last)
                ]
                cells.append(_ending(ends, price))
            lines.append([f"{price:g}", f"{rate:g}", *cells])
    head = ["price c", "learning rate", "k1 in the reward", "exact KL in the loss"]
    return markdown_table(head, lines)


def _ending(ends: Sequence[Mapping[str, Any]], price: float) -> str:
    """Return the mean of score - c KL over the seeds, with score and KL."""
    if not ends:
        return "\u2013"
    score, kl = (sum(row[name] for row in ends) / len(ends) for name in ("score", "kl"))
    return f"**{number(score - price * kl)}** ({number(score)}, {number(kl)} nats)"


def run(out: Out) -> None:
    """Run the cells that have no file yet."""

    def write(cell: Cell) -> None:
        rows = measure(cell)
        write_csv(_file(out, cell), rows, list(rows[0]))

    run_missing(cells(), lambda cell: _file(out, cell), write)


def publish(out: Out = DOCS / "kl", docs: Docs = DOCS) -> None:
    """Fill the page from the runs, or from the published curves."""
    files = sorted(out.glob("*.csv"))
    fill(docs / "kl.md", {"endings": table(read_rows(*files, text=TEXT))})


def _file(out: Path, cell: Cell) -> Path:
    return out / f"{cell.name}.csv"


if __name__ == "__main__":
    command_line(__doc__, run, publish)
