"""The table says what the curves hold."""

from pathlib import Path
from typing import Any

import numpy as np

from studies import preferences as study
from tokengym.base.files import write_csv


def rows() -> list[dict[str, Any]]:
    """Return curves of two points: agent k of seed s ends at k + s / 10."""
    made = []
    for k, agent in enumerate(study.AGENTS):
        for seed in (1, 2, 3):
            for step in (0, 5):
                end = k + seed / 10 if step else seed / 100
                made.append(
                    {
                        "agent": agent,
                        "credit": agent,
                        "seed": float(seed),
                        "step": float(step),
                        "tokens": 1000.0 * step,
                        "score": end,
                        "gold_score": end / 4,
                        "kl": end,
                        "distinct_2": 0.5,
                    }
                )
    return made


def test_curves_survive_the_disk(tmp_path: Path) -> None:
    for index, row in enumerate(rows()):
        write_csv(tmp_path / f"{index:03d}.csv", [row], study.COLUMNS)
    found = study.read_curves(tmp_path)
    assert [{k: v for k, v in row.items() if k in rows()[0]} for row in found] == rows()


def test_last_and_first_points_are_taken_in_the_order_of_seeds() -> None:
    agent = "online-dpo"  # the second of all
    np.testing.assert_allclose(study.at_end(rows(), agent, "score"), [1.1, 1.2, 1.3])
    np.testing.assert_allclose(study.at_end(rows(), agent, "score", first=True), [0.01, 0.02, 0.03])


def test_lift_is_judged_by_both_intervals() -> None:
    table = study.lift_table(rows()).splitlines()
    assert len(table) == 3 + len(study.AGENTS)
    assert table[2].startswith("| reference | 0.020 (0.010 to 0.030)")
    dpo = next(line for line in table if line.startswith("| DPO |"))
    assert dpo.endswith("| 5k | yes |")  # from 0.1 on, above the reference's 0.03
    assert "at most 1.84" in next(line for line in table if "best of 16" in line)
    level = [dict(r, gold_score=0.0) if r["agent"] == "dpo" else r for r in rows()]
    dpo = next(x for x in study.lift_table(level).splitlines() if x.startswith("| DPO |"))
    assert dpo.endswith("| no |")


def test_ppo_counts_what_it_passes_over() -> None:
    assert study.processed({"tokens": 100}, "ppo") == 100 * (1 + study.TRAINING.learner.n_epochs)
    assert study.processed({"tokens": 100}, "dpo") == 100
