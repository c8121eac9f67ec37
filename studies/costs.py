"""What the runs behind the pages cost: counted from their files, priced by the benchmark's seconds.

python -m studies.costs   # fills the table in docs/results/protocol.md
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokengym.evaluation.report import number
from tokengym.lab.protocol import Row
from tokengym.lab.study import DOCS, Docs, command_line, read_rows
from tokengym.lab.tables import fill, markdown_table, mean

FILES: Mapping[str, tuple[str, str]] = {
    "ledger/runs.csv": ("[ledger](ledger.md), coarse grid", "MovieReview"),
    "ledger/fine.csv": ("[ledger](ledger.md), a point after every update", "MovieReview"),
    "critic/runs.csv": ("[critic](critic.md)", "MovieReview"),
    "end/runs.csv": ("[the end](end.md)", "MovieReview"),
    "tasks/runs.csv": ("[other tasks](tasks.md)", ""),
    "rates/runs.csv": ("[rates](rates.md)", ""),
}
"""Published runs -> page, and task where no column says it."""
TOKENS = {"Dialogue": 48, "Summarize": 32, "Detox": 48, "QuestionAnswer": 48}
"""Tokens of a response where no column says them."""
BENCHMARK = "v1/runs.csv"
TEXT = ("rule", "gae_lambda", "critic", "model", "task", "eos", "setting", "start")
MEASURED = ("step", "tokens", "score", "gold_score", "kl", "cpu_s")
"""Columns of a measurement; the others say which run a row is from."""


def runs_of(file: Path) -> list[list[Row]]:
    """Return the measurements of each run in a published file."""
    runs: dict[tuple[Any, ...], list[Row]] = {}
    for row in read_rows(file, text=TEXT):
        about = tuple(value for name, value in row.items() if name not in MEASURED)
        runs.setdefault(about, []).append(row)
    return [*runs.values()]


def seconds_per_token(docs: Path) -> dict[str, float]:
    """Return CPU seconds of a response token by setting, of the benchmark's runs of `sparse`."""
    each: dict[str, list[float]] = {}
    for run in runs_of(docs / BENCHMARK):
        last = run[-1]
        if last["rule"] == "sparse":
            each.setdefault(last["setting"], []).append(last["cpu_s"] / last["tokens"])
    return {setting: mean(values) for setting, values in each.items()}


def costs_table(docs: Path) -> str:
    """Return runs, tokens and CPU hours of each file, dearest first."""
    prices = seconds_per_token(docs)
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
            seconds += run[-1]["tokens"] * prices[setting]
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
