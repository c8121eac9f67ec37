"""Is token credit worth more than a critic that knows the score?

`sparse` and `abc-signed` on the ledger's 48 tokens with value networks that start from the language
model, are warmed up, or start from the reward model; and the ledger's own cells, measured finely.

    python -m studies.critic --out runs/critic [--until 22:00]
    python -m studies.critic_page publish --out runs/critic
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from studies import ledger
from studies.ledger import Cell, do_runs, measure, pending, read_runs
from tokengym.base import write_csv
from tokengym.evaluation.runs import EvaluationSettings
from tokengym.lab.protocol import SPARE_SEED
from tokengym.lab.study import DOCS, Docs, Out, command_line, deadline

FOLDER, RUNS = "critic", "runs.csv"


@dataclass(frozen=True, kw_only=True)
class FineCell(Cell):
    """A cell of the ledger, measured after every update."""

    def evaluation(self) -> EvaluationSettings:
        """Return how its runs are measured."""
        return EvaluationSettings(every=1, episodes=128, samples=0)


LOW, HIGH, BETWEEN = "0.5", "0.95", "0.8"
SPARSE = FineCell(rule="sparse")
SIGNED = FineCell(rule="abc-signed", gae_lambda=LOW)
CONTROLS = FineCell(rule="uniform"), FineCell(rule="random")
PUBLISHED = (SIGNED, SPARSE, replace(SPARSE, gae_lambda=LOW), *CONTROLS)
"""Cells of the ledger, whose rates are those of its sweep."""
STARTED = tuple(
    replace(SPARSE, gae_lambda=at, critic="reward model") for at in (LOW, HIGH, BETWEEN)
)
"""The score under a critic that starts from the reward model."""
SIGNED_STARTED = replace(SIGNED, critic="reward model")
WARM = tuple(replace(SPARSE, gae_lambda=at, critic="warm-up") for at in (HIGH, LOW, BETWEEN))
SIGNED_BETWEEN = replace(SIGNED, gae_lambda=BETWEEN)
"""Added on 25 November 2026, after the runs of `STARTED` at that lambda."""
PAIRS = range(10)
SPARSE_BETWEEN = replace(SPARSE, gae_lambda=BETWEEN)
LENGTHS = (24, 96)
"""Other lengths, at which the ledger's runs stand beside `AT_LENGTHS`."""
AT_LENGTHS = tuple(replace(STARTED[2], length=length) for length in LENGTHS)
"""Added on 25 November 2026: the critic that did best, on shorter and longer texts."""
CELLS = (*PUBLISHED, *STARTED, SIGNED_STARTED, *WARM, SPARSE_BETWEEN, SIGNED_BETWEEN)
"""All cells of 48 tokens."""


def stages() -> Iterator[tuple[Sequence[Cell], range]]:
    """Yield cells and the seeds wanted of them, in the order in which they are needed."""
    yield STARTED[:1], PAIRS[:5]
    yield [SIGNED], PAIRS[:5]
    yield STARTED[:1], PAIRS
    yield [SIGNED], PAIRS
    yield [SPARSE], PAIRS[:5]
    yield [SIGNED_STARTED], PAIRS[:5]
    yield STARTED[1:2], PAIRS[:5]
    yield [WARM[0]], PAIRS[:5]
    yield AT_LENGTHS, PAIRS[:5]
    yield [*WARM[1:], SPARSE_BETWEEN, SIGNED_BETWEEN], PAIRS[:5]
    yield AT_LENGTHS, PAIRS
    yield CELLS, PAIRS


def run(out: Out, docs: Docs = DOCS, until: str | None = None) -> None:
    """Do the runs that are missing, one at a time.

    Args:
        out: Folder of the study's runs.
        docs: Folder of the study's page, whose published runs are not run again.
        until: Time of day, HH:MM, after which no run begins.
    """
    restore(out, docs)
    do_runs(pending(out, stages()), measure, out, deadline(until))


def restore(out: Path, docs: Path) -> None:
    """Write the published runs, and the ledger's sweep of its own cells, to files of their own."""
    ledger.restore_runs(out, docs / FOLDER / RUNS)
    sweeps_of(PUBLISHED, out, docs)


def sweeps_of(cells: Sequence[Cell], out: Path, docs: Path) -> None:
    """Write the ledger's sweeps of cells to files of their own."""
    sweeps: dict[Path, list[ledger.Row]] = {}
    for row in read_runs(docs / ledger.FOLDER / ledger.RUNS):
        cell = Cell.of(row)
        if row["seed"] == SPARE_SEED and FineCell(**vars(cell)) in cells:
            sweeps.setdefault(cell.file(out, row["rate"], SPARE_SEED), []).append(row)
    for file, rows in sweeps.items():
        if not file.exists():
            write_csv(file, rows, list(rows[0]))


if __name__ == "__main__":
    command_line(__doc__, run)
