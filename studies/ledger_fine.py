"""Does the ledger's lead hold where runs of 24, 48 and 96 tokens are measured at every update?

python -m studies.ledger_fine --out runs/fine [--until 22:00]
python -m studies.ledger_page publish-fine --out runs/fine
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from studies import critic, ledger
from studies.critic import FineCell, sweeps_of
from studies.ledger import FOLDER, WORDS, Cell, do_runs, measure, pending
from tokengym.lab.study import DOCS, Docs, Out, command_line, deadline

FINE = "fine.csv"
"""Published file of the runs, in the ledger's folder."""
CRITIC_RUNS = Path(critic.FOLDER) / critic.RUNS
"""Runs of 48 tokens that the critic's page has measured so."""
SPARSE_LAMBDAS = {24: "0.95", 48: "0.95", 96: "1"}
"""Lambda that suits `sparse` by length, the ledger's."""
RULES = {"abc-signed": "0.5", "uniform": "0.95", "random": "0.95", WORDS: "0.95"}
"""Rules that are set beside it and their lambdas, the most needed first."""


def sparse(length: int) -> FineCell:
    """Return `sparse` at the lambda that suits it."""
    return FineCell(rule="sparse", gae_lambda=SPARSE_LAMBDAS[length], length=length)


def cells(length: int) -> list[FineCell]:
    """Return the cells of a length, `sparse` first."""
    others = [FineCell(rule=r, gae_lambda=at, length=length) for r, at in RULES.items()]
    return [sparse(length), *others]


def stages() -> Iterator[tuple[Sequence[Cell], range]]:
    """Yield cells and the seeds wanted of them, in the order in which they are needed."""
    for seeds in range(5), range(10):
        for of in slice(3), slice(3, 4), slice(4, 5):  # curves, the second control, the words
            for length in SPARSE_LAMBDAS:
                yield cells(length)[of], seeds


def run(out: Out, docs: Docs = DOCS, until: str | None = None) -> None:
    """Do the runs that are missing, one at a time.

    Args:
        out: Folder of the study's runs.
        docs: Folder of the ledger's page, whose published runs are not run again.
        until: Time of day, HH:MM, after which no run begins.
    """
    restore(out, docs)
    do_runs(pending(out, stages()), measure, out, deadline(until))


def restore(out: Path, docs: Path) -> None:
    """Write the published runs, and the ledger's sweeps of its own cells, to files of their own."""
    for file in Path(FOLDER) / FINE, CRITIC_RUNS:
        ledger.restore_runs(out, docs / file)
    sweeps_of([cell for length in SPARSE_LAMBDAS for cell in cells(length)], out, docs)


if __name__ == "__main__":
    command_line(__doc__, run)
