"""docs/results/overoptimisation.md: its figures worked by hand, and the page itself."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from studies import overoptimisation as study
from studies.cells import DOCS
from tokengym.evaluation.report.curves import Panel, Runs

ROOT = Path(__file__).parents[2]


def test_a_measurement_at_a_kl_is_where_the_run_first_reaches_it():
    kl, gold = [0.0, 2.0, 1.0, 5.0], [0.0, 4.0, 9.0, 1.0]
    assert study.at_kl(kl, gold, 1.0) == 2.0  # halfway to the second point; not the third
    assert study.at_kl(kl, gold, 2.0) == 4.0
    assert study.at_kl(kl, gold, 3.0) == 5.0  # halfway from 9 to 1
    assert math.isnan(study.at_kl(kl, gold, 6.0))


@pytest.mark.parametrize(
    ("gold", "expected"),
    [
        ([0.0, 1.0, 2.0, 3.0, 4.0, 3.5, 3.0, 2.5, 2.0], (4, 7)),  # 4 - 2.5 > 0.25 * 4
        ([0.0, 1.0, 2.0, 3.0, 4.0, 3.75, 3.5, 3.25, 3.0], (4, None)),  # a loss of a quarter
        ([0.0, 1.0, 2.0, 3.0, 4.0, 2.0, 3.0, 3.5, 4.0], (4, None)),  # it came back
        ([0.0, 1.0, 2.0, 3.0, 4.0], (4, None)),
    ],
)
def test_a_fall_is_a_loss_of_a_quarter_of_the_gain(gold: list[float], expected: tuple):
    assert study.fall(gold) == expected


def test_an_alarm_fires_on_what_was_measured_until_then():
    steps = np.arange(5.0)
    curves = {"repetition": np.array([0.0, 0.1, 0.2, 0.3, 0.0]), "length": np.full(5, 10.0)}
    assert study.first_alarm(curves, steps, ("repetition",)) == 2  # above 0.15
    assert study.first_alarm(curves, steps, ("length",)) is None
    assert study.first_alarm(curves, steps, ("copy_rate",)) is None  # not measured


def test_no_alarm_is_read_before_the_noise_can_be() -> None:
    steps, score = np.arange(4.0), np.array([0.0, -0.1, 0.3, 0.4])  # a dip, and then a rise
    assert study.first_alarm({"score": score, "net_score": score}, steps, ("net_score",)) is None


def _panel(golds: dict[str, list[list[float]]], kl: list[float]) -> Panel:
    rewards = {
        name: Runs(
            seeds=tuple(range(len(rows))),
            values={
                "score": np.tile(np.arange(float(len(kl))), (len(rows), 1)),
                "gold_score": np.array(rows),
                "kl": np.tile(kl, (len(rows), 1)),
                "repetition": np.array([[0.0, 0.0, 0.2, 0.2, 0.2]] * len(rows)),
            },
        )
        for name, rows in golds.items()
    }
    return Panel(
        group=(), steps=np.arange(5.0) * 2, rewards=rewards, measures=("score",), cut_at=None
    )


def test_equal_kl_pairs_the_seeds_that_reach_it():
    sparse = [[0.0, 1.0, 2.0, 3.0, 4.0 + seed] for seed in range(3)]
    abc = [[0.0, 1.0, 2.0, 3.0, 4.5 + seed] for seed in range(3)]
    panels = {0.01: _panel({"sparse": sparse, "abc": abc}, [0.0, 0.25, 0.5, 0.75, 1.0])}
    (line,) = study.equal_kl_table(panels).splitlines()[2:]
    assert line.startswith("| 0.01 | 1 | 4.00, 4.00 |")
    assert "| 5.00, 5.50 | **+0.500** (0.500 to 0.500), 3/3 |" in line


def test_alarms_are_counted_in_runs_that_fell_and_in_sound_ones():
    fell, sound = [0.0, 4.0, 3.5, 2.0, 1.0], [0.0, 1.0, 2.0, 3.0, 4.0]
    panels = {0.0: _panel({"sparse": [fell, sound], "abc": [sound, sound]}, [0, 1, 2, 3, 4])}
    table = study.alarms_table(panels).replace("\N{MINUS SIGN}", "-").replace("\N{EN DASH}", "none")
    lines = table.splitlines()[2:]
    # Gold is best at update 2. Its noise is 1 / (0.6745 sqrt(6)) = 0.605, so that only a loss of
    # 2.12 or more is a fall: update 8.
    assert lines[0].startswith("| gold falls while the proxy rises | 1/1 | 0.000 (0.000, 0.000) |")
    assert lines[2] == "| repeats itself | 1/1 | 4.00 (4.00, 4.00) | -2.00 (-2.00, -2.00) | 3/3 |"
    assert lines[3] == "| length changes | 0/1 | none | none | 0/3 |"  # it was not measured


def test_every_run_is_done_once_and_five_seeds_of_a_task_come_first(tmp_path: Path):
    order = [(name, reward, seed) for name, _, reward, seed in study.pending(tmp_path)]
    assert len(order) == len(set(order)) == len(study.CELLS) * len(study.REWARDS) * study.SEEDS
    assert {name.split("-")[0] for name, _, _ in order[:30]} == {study.TASKS[0]}
    assert {seed for _, _, seed in order[:30]} == set(range(study.FIRST_SEED, study.FIRST_SEED + 5))
    assert {name for name, _, _ in order[:10]} == {"Summarize-0"}


def test_the_page_is_current(tmp_path: Path):
    page = ROOT / DOCS / "overoptimisation.md"
    shutil.copytree(ROOT / DOCS / "overoptimisation", tmp_path / "overoptimisation")
    shutil.copy(page, tmp_path)
    study.page(tmp_path)
    found = (tmp_path / "overoptimisation.md").read_text(encoding="utf-8")
    assert found == page.read_text(encoding="utf-8")
