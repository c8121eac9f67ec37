"""The calibration of the benchmark's verdict, in short."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from studies import calibration
from studies.calibration import (
    LITE,
    ROWS,
    SIX,
    TWELVE,
    Noise,
    boards_of,
    called_ahead,
    draw,
    lead_found,
)
from tokengym.lab.benchmark.definition import BASELINE, CONTROLS, V1
from tokengym.lab.benchmark.figures import family
from tokengym.lab.study import DOCS

BOARDS = 300


@pytest.fixture(scope="module")
def noise() -> dict[str, Noise]:
    return calibration.noises(DOCS)


@pytest.mark.parametrize("design", [TWELVE, LITE])
@pytest.mark.parametrize("sd", calibration.SPREADS)
def test_a_board_of_rules_that_do_nothing_calls_one_ahead_in_5_of_100_cases_at_most(
    noise, sd, design
):
    """Two standard errors of 300 boards are 2.5 points."""
    leads, _ = boards_of(design, noise, sd, BOARDS)
    assert leads.shape == (BOARDS, ROWS, 2, 8, design.seeds)
    assert called_ahead(design, leads).any(axis=1).mean() <= 0.05 + 0.025


def test_the_tests_of_v1_are_of_seeds_and_see_a_lead_where_tasks_differ(noise):
    level, _ = boards_of(SIX, noise, 0.0, BOARDS)
    spread, _ = boards_of(SIX, noise, 4.0, BOARDS)
    assert called_ahead(SIX, level).any(axis=1).mean() < 0.1
    assert called_ahead(SIX, spread).any(axis=1).mean() > 0.8


def test_the_family_of_v1_is_that_of_its_board():
    leads = np.random.default_rng(0).normal(size=(ROWS, len(V1.seeds)))
    names = [*(f"rule-{row}" for row in range(ROWS - len(CONTROLS))), *CONTROLS]
    rows = [
        {
            "subject": name,
            "settings": {"": {"task": "", "way": (0.0, 1.0), "areas": lead, "baseline_areas": 0.0}},
        }
        for name, lead in zip(names, leads, strict=True)
    ]
    expected = family(rows)
    drawn = calibration.family_of_v1(leads[None])[0].mean(axis=1)
    assert sorted(drawn) == pytest.approx(sorted(t["difference"] for t in expected.values()))
    assert drawn[:ROWS] == pytest.approx([expected[n, BASELINE]["difference"] for n in names])


def test_a_lead_is_found_and_a_larger_one_where_tasks_differ(noise):
    found = [lead_found(TWELVE, boards_of(TWELVE, noise, sd, 60)[0][:, :1]) for sd in (0.0, 4.0)]
    assert 2.0 < found[0] < found[1] < 9.0


def test_clones_differ_by_their_runs_and_their_tuning_alone():
    """Two cells: where one is far better, all take it.

    Where they are level, two seeds choose the first with 11/16, since ties are its own, and two
    arms differ with 2 * 11/16 * 5/16.
    """
    residuals = np.array([[-1.0, -2.0], [1.0, 2.0]])
    for gap, share in ((50.0, 0.0), (0.0, 0.43)):
        cells = np.array([[0.0, 0.0], [gap, gap]])
        names = (("0.5", 1e-3), ("0.95", 1e-3))
        noise = {
            at.name: Noise(cells=cells, names=names, residuals=residuals) for at in V1.settings
        }
        leads, others = draw(TWELVE, noise, 100, np.random.default_rng(0))
        assert others.mean() == pytest.approx(share, abs=0.03)
        assert leads.mean() == pytest.approx(0.0, abs=0.1)
        assert np.abs(leads[:, :, 0]).max() <= 2.0  # of residuals of one at most


def test_the_noise_is_that_of_the_published_runs(noise):
    assert set(noise) == {at.name for at in V1.settings}
    for setting in noise.values():
        assert setting.residuals.shape == (20, 2)
        assert setting.residuals.mean(axis=0) == pytest.approx([0.0, 0.0], abs=1e-9)
        assert len(setting.cells) == len(setting.names) >= len(V1.lambdas)
        for name in LITE.lambdas:
            assert (name, V1.first_rate) in setting.names


def test_the_page_is_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    page = "details/calibration.md"
    (tmp_path / "details").mkdir()
    shutil.copy(DOCS / page, tmp_path / page)
    shutil.copytree(DOCS / "v1", tmp_path / "v1")
    calibration_noise = {
        at.name: Noise(
            cells=np.zeros((1, 2)),
            names=(("0.5", V1.first_rate),),
            residuals=np.array([[-1.0, 1.0], [1.0, -1.0]]),
        )
        for at in V1.settings
    }
    monkeypatch.setattr(calibration, "noises", lambda docs: calibration_noise)
    calibration.run(tmp_path, boards=4)
    text = (tmp_path / page).read_text(encoding="utf-8")
    filled = text.partition("<!-- calibration -->")[2].partition("<!-- end")[0].splitlines()[1:]
    assert [row.split("|")[1].strip() for row in filled[2:]] == ["0", "2", "4", "8"]
    assert all(row.count("|") == 9 for row in filled)
    assert calibration.settings_table() in text
    assert calibration.lite_table(DOCS) in text
    assert calibration.lite_table(DOCS) in (DOCS / page).read_text(encoding="utf-8")
    assert calibration.settings_table() in (DOCS / page).read_text(encoding="utf-8")
