"""The diagram of a reward model's calibration."""

from pathlib import Path

import numpy as np

from tokengym.evaluation.report.figures import save_reliability
from tokengym.rewards.maths.pairwise import reliability


def test_it_is_a_small_picture_and_the_same_each_time(tmp_path: Path) -> None:
    table = reliability(np.random.default_rng(0).normal(0.5, 2.0, 200))
    for name in ("one", "two"):
        save_reliability(tmp_path / f"{name}.png", table, title="reward model")
    one, two = ((tmp_path / f"{name}.png").read_bytes() for name in ("one", "two"))
    assert one.startswith(b"\x89PNG")
    assert one == two
    assert len(one) < 60_000


def test_empty_bins_are_left_out(tmp_path: Path) -> None:
    save_reliability(tmp_path / "a.png", reliability([3.0]))
    assert (tmp_path / "a.png").stat().st_size > 0
