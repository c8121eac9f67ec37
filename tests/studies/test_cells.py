"""Until when a study begins runs."""

from datetime import datetime

import pytest

from studies.cells import deadline


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
