"""The board of version 2 in its lite form."""

from typing import Any

from studies.credit_v2 import board_table, once


def row(subject: str, leads: dict[str, float]) -> dict[str, Any]:
    """Return a row of settings whose two seeds lead by as much."""
    about = {"at_kl": None, "kl": None, "score": [0.0, 0.0]}
    settings = {name: {"task": name, "net": [lead, lead], **about} for name, lead in leads.items()}
    return {"subject": subject, "track": "inside", "is_rule": True, "settings": settings}


def test_a_row_is_held_to_a_control_on_the_tasks_of_both():
    mine = row("mine", {"Detox": 0.05, "Dialogue": 0.02, "IMDb": 0.9})
    control = row("recency", {"Detox": 0.01, "Dialogue": 0.02})
    lines = board_table([mine, control]).splitlines()
    # 4 and 0 %: a mean of 2, and Student's interval of two is 2 -+ 12.706 * 2
    assert lines[2].endswith("| +2.00 (\u221223.4 to 27.4) |")
    assert lines[3].endswith("| \u2013 |")  # a control is not compared with itself


def test_a_control_of_both_tracks_is_drawn_once():
    control = row("recency", {"Detox": 0.01})
    other = row("recency", {"Detox": 0.02})  # made again, with other figures
    rows = [control, {**control, "track": "scores"}, other, row("mine", {"Detox": 0.01})]
    assert once(rows) == [control, other, rows[3]]
