"""Costs of the runs behind the pages: counted from their files, priced by measured seconds.

python -m studies.costs   # fills the table in docs/results/protocol.md
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokengym.evaluation.report import number
from tokengym.lab.protocol import Row
from tokengym.lab.study import DOCS, Docs, command_line, read_rows
from tokengym.lab.tables import fill, markdown_table

FILES: Mapping[str, tuple[str, str]] = {
    "ledger/runs.csv": ("[ledger](ledger.md), coarse grid", "MovieReview"),
    "ledger/fine.csv": ("[ledger](ledger.md), a point after every update", "MovieReview"),
    "critic/runs.csv": ("[critic](critic.md)", "MovieReview"),
    "end/runs.csv": ("[the end](end.md)", "MovieReview"),
    "tasks/runs.csv": ("[other tasks](tasks.md)", ""),
    "rates/runs.csv": ("[rates](details/rates.md)", ""),
}
"""Published runs -> page, and task where no column says it."""
TOKENS = {"Dialogue": 48, "Summarize": 32, "Detox": 48, "QuestionAnswer": 48}
"""Tokens of a response where no column says them."""
SECONDS: Mapping[str, float] = {
    **{"MovieReview-24": 17, "MovieReview-48": 37, "MovieReview-96": 62, "Dialogue-48": 24},
    **{"QuestionAnswer-48": 31, "Summarize-32": 30, "Detox-48": 39},
}
"""CPU seconds of a run of `UPDATES` updates of 64 responses, from docs/results/credit_v1.md."""
UPDATES = 30
TEXT = ("rule", "gae_lambda", "critic", "model", "task", "eos")
MEASURED = ("step", "tokens", "score", "gold_score", "kl")
"""Columns of a measurement; the others say which run a row is from."""


def runs_of(file: Path) -> list[list[Row]]:
    """Return the measurements of each run in a published file."""
    runs: dict[tuple[Any, ...], list[Row]] = {}
    for row in read_rows(file, text=TEXT):
        about = tuple(value for name, value in row.items() if name not in MEASURED)
        runs.setdefault(about, []).append(row)
    return [*runs.values()]


def costs_table(docs: Path) -> str:
    """Return runs, tokens and CPU hours of each file, dearest first."""
    lines = []
    for file, (page, task) in FILES.items():
        tokens, seconds = 0.0, 0.0
        runs = runs_of(docs / file)
        for run in runs:
            name = run[-1].get("task") or task
            length = int(run[-1].get("length") or TOKENS[name])
            # Film reviews of 192 tokens are in no setting of the benchmark: priced as those of 96.
            setting = f"{name}-{min(length, 96)}"
            tokens += run[-1]["tokens"]
            rows = run[-1].get("rows") or 64
            seconds += SECONDS[setting] * run[-1]["step"] / UPDATES * rows / 64
        lines.append((seconds, [page, str(len(runs)), f"{tokens / 1e6:.1f}"]))
    lines.sort(key=lambda line: -line[0])
    table = [[*cells, number(seconds / 3600)] for seconds, cells in lines]
    return markdown_table(["page", "runs", "million response tokens", "CPU hours, about"], table)


def page(docs: Docs = DOCS) -> None:
    """Fill the table.

    Args:
        docs: Folder of the page.
    """
    fill(docs / "protocol.md", {"costs": costs_table(docs)})


if __name__ == "__main__":
    command_line(__doc__, page)
