"""The table of costs is that of the published runs, priced as the benchmark's page says."""

import re
from pathlib import Path

from studies import costs
from tokengym.lab.study import DOCS, write_rows


def test_the_page_has_the_costs_of_the_published_runs():
    assert costs.costs_table(DOCS) in (DOCS / "protocol.md").read_text(encoding="utf-8")


def test_the_seconds_are_those_of_the_benchmark_s_page():
    page = (DOCS / "credit_v1.md").read_text(encoding="utf-8")
    found = re.findall(r"^\| (\w+), (\d+) tokens[\w ]* \| (\d+) \|$", page, re.M)
    printed = {f"{task}-{tokens}": float(seconds) for task, tokens, seconds in found}
    assert {name: printed[name] for name in costs.SECONDS} == costs.SECONDS


def test_a_run_costs_by_its_updates_and_rows(tmp_path: Path):
    rows = [
        {"rule": "sparse", "length": 48, "rows": 128, "rate": 1e-3, "seed": 0, "step": step}
        for step in (0, 60)
    ]
    for file in costs.FILES:
        other = {"task": "Detox"} if file.split("/")[0] in ("tasks", "rates") else {}
        write_rows(tmp_path / file, [{**row, **other, "tokens": 1e6} for row in rows])
    ledger = next(line for line in costs.costs_table(tmp_path).splitlines() if "coarse" in line)
    hours = 37 * 2 * 2 / 3600  # twice the updates, twice the rows
    assert ledger.split(" | ")[1:] == ["1", "1.0", f"{hours:.3f} |"]
