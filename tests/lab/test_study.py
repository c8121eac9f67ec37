"""Until when a study begins runs, and what the best of n responses has."""

from datetime import datetime

import numpy as np
import pytest

from tokengym.lab.study import best_of_rows, deadline


@pytest.mark.parametrize(
    ("now", "until", "end"),
    [
        (datetime(2026, 3, 1, 9, 30), "12:25", datetime(2026, 3, 1, 12, 25)),
        (datetime(2026, 3, 1, 22, 0), "00:15", datetime(2026, 3, 2, 0, 15)),
        (datetime(2026, 3, 1, 12, 26), "12:25", datetime(2026, 3, 2, 12, 25)),
        (datetime(2026, 12, 31, 23, 0), None, datetime.max),
    ],
    ids=["the same day", "over midnight", "just past", "none"],
)
def test_deadline_is_the_next_time_that_clocks_show_it(
    now: datetime, until: str | None, end: datetime
) -> None:
    assert deadline(until, now) == end


def test_best_of_n_by_hand() -> None:
    """The largest of n of 0, ..., N - 1 is n (N + 1) / (n + 1) - 1 on average."""
    proxy = np.arange(64.0)[None]
    rows = {row["n"]: row for row in best_of_rows(proxy, -proxy)}
    assert rows[1]["score"] == pytest.approx(31.5)
    assert rows[1]["kl"] == 0.0
    assert rows[2]["score"] == pytest.approx(2 * 65 / 3 - 1)
    assert rows[2]["gold_score"] == pytest.approx(1 - 2 * 65 / 3)
    assert rows[2]["kl"] == pytest.approx(np.log(2) - 0.5)
    assert rows[64]["score"] == 63.0
