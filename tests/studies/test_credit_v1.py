"""Published runs of the benchmark: gathered from a folder, restored to it, counted on the page."""

import shutil
from pathlib import Path

from studies import credit_v1
from tokengym.lab.benchmark.definition import V1, Setting
from tokengym.lab.benchmark.runs import Bench
from tokengym.lab.study import DOCS, write_rows

PAGE = "credit_v1.md"


def docs_of(tmp_path: Path) -> Path:
    docs = tmp_path / "docs"
    docs.mkdir()
    shutil.copy(DOCS / PAGE, docs / PAGE)
    return docs


def make_run(bench: Bench, setting: Setting, score: float, seed: int) -> Path:
    run = bench.cell(setting, "sparse", "own", "0.5").but(rate=1e-3, seed=seed)
    points = [
        {"step": step, "tokens": 100.0 * step, "score": score, "gold_score": 0.5, "kl": 1.0}
        for step in range(3)
    ]
    write_rows(bench.file(run), [{**run, **point, "cpu_s": 36.0} for point in points])
    return bench.file(run)


def test_published_runs_are_restored_where_the_command_looks_for_them(tmp_path: Path):
    docs = docs_of(tmp_path)
    bench = Bench(definition=V1, rule="uniform", track="scores", out=tmp_path / "v1")
    files = [make_run(bench, setting, 1.0, 1000) for setting in V1.settings[:2]]
    credit_v1.publish(bench.out, docs)
    page = (docs / PAGE).read_text(encoding="utf-8")
    assert "| `sparse` | 1 | 1 | 0 | 0 | 0 | 0 | 0 | 0 | 2 | 0.020 |" in page
    again = Bench(definition=V1, rule="uniform", track="scores", out=tmp_path / "again")
    credit_v1.restore(again.out, docs)
    for file in files:
        assert (again.out / "runs" / file.name).read_text() == file.read_text()
    (waiting, _) = again.tuning(V1.settings[0], "sparse")
    assert len(waiting) == len(V1.lambdas) * len(V1.spare_seeds) - 1


def test_what_is_published_stays(tmp_path: Path):
    docs = docs_of(tmp_path)
    first = Bench(definition=V1, rule="uniform", track="scores", out=tmp_path / "first")
    make_run(first, V1.settings[0], 1.0, 1000)
    credit_v1.publish(first.out, docs)
    second = Bench(definition=V1, rule="uniform", track="scores", out=tmp_path / "second")
    make_run(second, V1.settings[0], 2.0, 1000)
    make_run(second, V1.settings[0], 2.0, 1001)
    credit_v1.publish(second.out, docs)
    runs = credit_v1.published(docs)
    assert {run.seed: points[0]["score"] for run, points in runs.items()} == {1000: 1.0, 1001: 2.0}


def test_rows_of_a_rule_are_told_apart():
    """It may have one on each track, and one on hidden seeds."""
    figures = {
        "chosen": {"start": "own", "gae_lambda": "0.8", "rate": 1e-3},
        "baseline_chosen": {"start": "own", "gae_lambda": "0.95", "rate": 3e-3},
        "way": [0.0, 2.0],
        "areas": [1.1, 1.2],
        "baseline_areas": [1.0, 1.0],
        **{name: 1.0 for name in ("score_at_end", "gold_score_at_end", "kl_at_end")},
        **{"cpu_s": 30.0, "times_baseline": 1.0},
    }
    settings = {at.name: {**figures, "task": at.task} for at in V1.settings}
    rows = [
        {"subject": "red", "track": track, "hidden": hidden, "settings": settings}
        for track, hidden in (("scores", False), ("inside", False), ("inside", True))
    ]
    begins = ["| `red` | scores |", "| `red` | inside |", "| `red`, hidden seeds | inside |"]
    for table, each in (
        (credit_v1.leads_table(rows), 1),
        (credit_v1.tuned_table(rows), len(V1.settings)),
    ):
        lines = table.splitlines()[2::each]
        assert all(line.startswith(begin) for line, begin in zip(lines, begins, strict=True))
