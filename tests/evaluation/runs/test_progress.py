"""The board of running work."""

import io
from typing import Any

from rich.console import Console

from tokengym.evaluation.runs.progress import Board

RUN = ("abc", 1)


def point(tokens: int, **changes: Any) -> dict[str, Any]:
    return {"score": 1.25, "kl": 0.5, "tokens": tokens, "wall_s": tokens / 400, **changes}


def test_a_live_line_has_score_kl_speed_and_time_left():
    times = iter([10.0, 40.0, 50.0])
    text = io.StringIO()
    console = Console(file=text, width=160, force_terminal=True, color_system=None)
    with Board(console, total=2, done=0, steps=12, clock=lambda: next(times)) as board:
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


def _shown(board: Board) -> str:
    (task,) = board._runs.tasks
    return str(task.fields["figures"])
