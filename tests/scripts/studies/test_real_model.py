"""The real model's study: its order of runs, its rate, and its tables."""

from pathlib import Path

from tokengym.envs.files import write_csv
from tokengym.scripts.studies import real_model as study


def rows_of(cell: study.Cell, score: float) -> list[dict[str, object]]:
    """Return a run whose score rises and whose KL grows to 2 nats."""
    return [
        {**vars(cell), "step": step, "tokens": 256 * step, "score": step * score / 4}
        | {"gold_score": 0.25, "kl": step / 2}
        for step in (0, 2, 4)
    ]


def test_rules_wait_for_the_rate(tmp_path: Path) -> None:
    sweep = [study.Cell(rule="sparse", rate=rate, seed=1000) for rate in study.RATES]
    assert list(study.pending(tmp_path)) == sweep
    for cell, score in zip(sweep, (1.0, 3.0, 2.0), strict=True):
        assert study.tuned_rate(tmp_path) is None
        rows = rows_of(cell, score)
        write_csv(cell.file(tmp_path), rows, list(rows[0]))
    assert study.tuned_rate(tmp_path) == study.RATES[1]
    first, second, *_ = study.pending(tmp_path)
    assert (first.rule, second.rule) == study.RULES
    assert (first.seed, second.seed, first.rate) == (0, 0, study.RATES[1])


def test_the_comparison_is_the_bundles() -> None:
    config = study.Cell(rule="abc-signed", rate=3e-4, seed=0).config()
    assert (config.training.lora_rank, config.training.learner.learning_rate) == (8, 3e-4)
    assert config.task.bundle == "smollm2-reviews"
    assert config.price == study.PRICE


def test_the_tables_by_hand() -> None:
    cell = study.Cell(rule="sparse", rate=1e-3, seed=1000)
    table = study.runs_table(rows_of(cell, 2.0)).splitlines()
    # Score 0 to 2 and KL 0 to 2 in a straight line, at .05 a nat.
    assert table[2:] == [
        "| `sparse` | 0.001 | spare | 0.000 to 2.00 | 0.250 to 0.250 | 2.00 | 0.950 |"
    ]
    lines = study.lines_table(
        [{"n": 2.0, "kl": 0.19, "score": 1, "gold_score": 0.5, "net_score": 0.99}]
    )
    assert lines.splitlines()[2] == "| 2 | 1.00 | 0.500 | 0.190 | 0.990 |"
