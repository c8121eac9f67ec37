"""The board of running work."""

import io
import threading
from typing import Any

from rich.console import Console

from tokengym.evaluation.runs.display import ProgressDisplay
from tokengym.evaluation.runs.spec import REFERENCE

RUN = ("abc", 1)


def point(tokens: int, **changes: Any) -> dict[str, Any]:
    return {"score": 1.25, "kl": 0.5, "tokens": tokens, "wall_s": tokens / 400, **changes}


def test_a_live_line_has_score_kl_speed_and_time_left():
    times = iter([10.0, 10.0, 40.0, 50.0])
    text = io.StringIO()
    console = Console(file=text, width=160, force_terminal=True, color_system=None)
    with ProgressDisplay(console, total=2, done=0, steps=12, clock=lambda: next(times)) as board:
        board.start(RUN)
        board.update(RUN, 3, point(0, wall_s=0.0))  # resumed after three steps: no speed is known
        assert _shown(board) == "score 1.250, KL 0.50 nats"
        board.update(RUN, 6, point(2000))  # three steps in 30 s: the other six in 60 s
        assert _shown(board) == "score 1.250, KL 0.50 nats, 400 tokens/s, 1:00 left"
        board._live.refresh()
        assert "abc, seed 1" in text.getvalue()
        assert "400 tokens/s, 1:00 left" in text.getvalue()
        board.update(RUN, 12, point(4000, kl=None))
        assert _shown(board) == "score 1.250, 400 tokens/s"
        board.finish(RUN, None)
    assert "[1/2] abc, seed 1: finished" in text.getvalue()


def _shown(board: ProgressDisplay) -> str:
    (task,) = board._runs.tasks
    return str(task.fields["figures"])


def test_the_time_left_is_that_of_all_runs_at_the_pace_so_far():
    now = 100.0
    board = ProgressDisplay(
        Console(file=io.StringIO()), total=4, done=1, steps=10, clock=lambda: now
    )
    assert board.line() == "1 of 4 runs done"
    for seed in (1, 2):
        board.start(("abc", seed))
    board.update(("abc", 1), 0, point(0))
    board.update(("abc", 2), 4, point(0))  # resumed after four updates
    assert board.line() == "1 of 4 runs done"
    now = 160.0
    board.update(("abc", 1), 5, point(500))  # 5 of the 30 updates took a minute
    assert board.line() == "1 of 4 runs done, about 5:00 left"
    now = 220.0
    board.finish(("abc", 1), None)
    assert board.line() == "2 of 4 runs done, about 4:00 left"


def test_lines_are_printed_where_there_is_no_terminal(monkeypatch):
    said = threading.Event()

    class File(io.StringIO):
        def write(self, text: str) -> int:
            if "0 of 2 runs done" in text:
                said.set()
            return super().write(text)

    monkeypatch.setattr("tokengym.evaluation.runs.display.EVERY", 0.001)
    with ProgressDisplay(Console(file=File()), total=2, done=0, steps=10) as board:
        assert said.wait(60)
    assert board._ended.is_set()


def test_a_line_is_printed_once_and_the_points_of_one_run_alone_are_lines():
    file = io.StringIO()
    several = ProgressDisplay(Console(file=file, width=200), total=2, done=0, steps=10)
    for _ in range(3):
        several._say(several.line())
    several.finish((REFERENCE, 0), None)  # which is no run
    several.finish(("abc", 1), "boom")
    alone = ProgressDisplay(Console(file=file, width=200), total=1, done=0, steps=12)
    alone.start(RUN)
    alone.update(RUN, 0, point(0))
    alone.update(RUN, 12, point(4000))
    *lines, last = file.getvalue().splitlines()
    assert lines == [
        "0 of 2 runs done",
        "reference samples: finished",
        "[1/2] abc, seed 1: failed: boom",
        "update 0 of 12: score 1.250, KL 0.50 nats",
    ]
    assert last.startswith("update 12 of 12: score 1.250, KL 0.50 nats, ")
