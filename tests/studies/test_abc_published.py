"""The re-analysis of published curves, on made ones whose answer is known."""

import numpy as np
import pytest

from studies.abc_published import fell_apart, gain_per_doubling, gain_table
from tokengym.evaluation.report.curves import Curve, make_panels

STEPS = np.arange(0.0, 101.0, 10.0)


def panels(gain_at, collapsed_seeds=()):
    """ABC is above sparse by gain_at(length) all along; some sparse runs lose all at half time."""
    curves = []
    for low, high in ((8, 8), (16, 16), (32, 32)):
        group = (("min_new_tokens", str(low)), ("max_new_tokens", str(high)))
        for seed in range(6):
            rise = np.minimum(STEPS / 50.0, 1.0) * 4.0
            sparse = rise.copy()
            if seed in collapsed_seeds:
                sparse[6:] = 0.0
            for credit, score in (("sparse", sparse), ("abc", rise + gain_at(low))):
                curves.append(
                    Curve(
                        credit=credit, seed=seed, group=group, steps=STEPS, values={"score": score}
                    )
                )
    return make_panels(curves)


def test_a_gain_of_one_per_doubling_is_found():
    slope, low, high = gain_per_doubling(panels(np.log2), without_collapsed=True)
    assert (slope, low, high) == pytest.approx((1.0, 1.0, 1.0))
    assert gain_per_doubling(panels(lambda _: 2.0), without_collapsed=False)[0] == pytest.approx(0)


def test_collapsed_runs_are_set_aside():
    made = panels(lambda _: 1.0, collapsed_seeds=(1, 4))
    scores = made[0].rewards["sparse"].values["score"]
    assert fell_apart(scores).tolist() == [False, True, False, False, True, False]
    row = gain_table(made).splitlines()[2].split("|")
    assert row[1].strip() == "8 to 8"
    # Of six seeds the middle four count: 1, 1, 1 and one of the two that fell (1 + area lost).
    assert row[2].strip().endswith("6/6")
    assert not row[2].strip().startswith("**+1.00**")
    assert row[4].strip() == "**+1.00** (1.00 to 1.00), 4/4"
