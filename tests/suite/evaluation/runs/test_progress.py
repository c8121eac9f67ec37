"""The board of running work."""

import io
import threading
from pathlib import Path
from typing import Any

from rich.console import Console

from tokengym.evaluation.runs.compare import _work
from tokengym.evaluation.runs.decide import decide
from tokengym.evaluation.runs.display import ProgressDisplay
from tokengym.evaluation.runs.spec import REFERENCE

RUN = ("abc", 1)


def point(tokens: int, **changes: Any) -> dict[str, Any]:
    return {"score": 1.25, "kl": 0.5, "tokens": tokens, "wall_s": tokens / 400, **changes}


class Clock:
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_live_line_has_score_kl_speed_and_time_left():
    clock = Clock()
    text = io.StringIO()
    console = Console(file=text, width=160, force_terminal=True, color_system=None)
    with ProgressDisplay(console, total=2, done=0, steps=12, clock=clock) as board:
        board.start(RUN)
        board.update(RUN, 3, point(0, wall_s=0.0))  # resumed after three steps: no speed is known
        assert _shown(board) == "score 1.250, KL 0.50 nats"
        clock.now = 30.0
        board.update(RUN, 6, point(2000))  # three steps in 30 s: the other six in 60 s
        assert _shown(board) == "score 1.250, KL 0.50 nats, 400 tokens/s, 1:00 left"
        board._live.refresh()
        assert "abc, seed 1" in text.getvalue()
        assert "400 tokens/s, 1:00 left" in text.getvalue()
        clock.now = 40.0
        board.update(RUN, 12, point(4000, kl=None))
        assert _shown(board) == "score 1.250, 400 tokens/s"
        board.finish(RUN, None)
    assert "[1/2] abc, seed 1: finished" in text.getvalue()


def _shown(board: ProgressDisplay) -> str:
    (task,) = board._runs.tasks
    return str(task.fields["figures"])


def _board(total: int, done: int = 0) -> tuple[ProgressDisplay, Clock]:
    clock = Clock()
    console = Console(file=io.StringIO())
    return ProgressDisplay(console, total=total, done=done, steps=10, clock=clock), clock


def test_the_time_left_is_that_of_the_runs_in_the_places_that_they_have():
    board, clock = _board(total=4, done=1)
    assert board.line() == "1 of 4 runs done"
    for seed in (1, 2):
        board.start(("abc", seed))
    board.update(("abc", 1), 0, point(0))
    board.update(("abc", 2), 4, point(0))  # resumed after four steps
    assert board.line() == "1 of 4 runs done"  # at no known pace
    clock.now = 60.0
    board.update(("abc", 1), 5, point(500))
    # Five steps a minute: one has another minute, the other ten seconds and two more, after which
    # the third begins, of two minutes.
    assert board.line() == "1 of 4 runs done, about 2:12 left"
    clock.now = 72.0
    board.update(("abc", 2), 10, point(600))
    board.finish(("abc", 2), None)
    board.start(("abc", 3))
    assert board.line() == "2 of 4 runs done, about 2:00 left"
    clock.now = 120.0
    board.update(("abc", 1), 10, point(1000))
    board.finish(("abc", 1), None)
    assert board.line() == "3 of 4 runs done, about 2:00 left"  # until its first measurement


def test_the_time_left_counts_down_between_two_measurements():
    board, clock = _board(total=1)
    board.start(RUN)
    clock.now = 5.0
    board.update(RUN, 0, point(0))
    clock.now = 25.0
    board.update(RUN, 5, point(500))
    shown = []
    for clock.now in (25.0, 31.0, 44.0):
        shown.append(board.line())
    # Never more than before, and not nothing while the last measurement is being taken.
    assert [line.partition(", ")[2] for line in shown] == [
        "about 0:20 left",
        "about 0:14 left",
        "about 0:01 left",
    ]
    clock.now = 90.0  # which took longer than expected
    assert board.line() == "0 of 1 runs done, nearly done"
    board.update(RUN, 10, point(1000))
    assert board.line() == "0 of 1 runs done, nearly done"
    board.finish(RUN, None)
    assert board.line() == "1 of 1 runs done"


def test_an_overdue_measurement_leaves_the_time_of_the_steps_after_it():
    board, clock = _board(total=1)
    board.start(RUN)
    board.update(RUN, 0, point(0))
    clock.now = 10.0
    board.update(RUN, 2, point(200))
    clock.now = 500.0
    assert board.line() == "0 of 1 runs done, about 0:30 left"  # six steps of five seconds


def test_the_time_left_has_the_start_and_the_end_of_the_runs_to_come():
    board, clock = _board(total=2)
    board.start(("abc", 0))
    for clock.now, step in ((7.0, 0), (27.0, 10)):
        board.update(("abc", 0), step, point(100))
    clock.now = 30.0
    board.finish(("abc", 0), None)
    # 7 s to its first measurement, 20 s of steps, 3 s to write its files.
    assert board.line() == "1 of 2 runs done, about 0:30 left"
    board.start(("abc", 1))
    clock.now = 34.0
    assert board.line() == "1 of 2 runs done, about 0:26 left"
    clock.now = 60.0
    board.update(("abc", 1), 10, point(100))
    assert board.line() == "1 of 2 runs done, about 0:03 left"


def test_arms_keep_a_pace_of_their_own_and_what_failed_takes_no_time():
    board, clock = _board(total=4)
    for name, seconds in (("slow", 100.0), ("fast", 10.0)):
        began = clock.now
        board.start((name, 0))
        board.update((name, 0), 0, point(0))
        clock.now = began + seconds
        board.update((name, 0), 10, point(100))
        board.finish((name, 0), None)
    board.start(("fast", 1))
    assert board.line() == "2 of 4 runs done, about 1:05 left"  # 10 s, then one of either arm
    board.finish(("fast", 1), "boom")
    assert board.line() == "3 of 4 runs done, about 0:55 left"
    board.finish(("slow", 1), None)  # which ended before it was seen
    assert board.line() == "4 of 4 runs done"


def test_reference_samples_that_are_drawn_last_are_waited_for():
    board, clock = _board(total=1)
    board.start((REFERENCE, 0))
    board.start(RUN)
    board.update(RUN, 0, point(0))
    clock.now = 10.0
    board.update(RUN, 10, point(100))
    board.finish(RUN, None)
    assert board.line() == "1 of 1 runs done"  # nothing is known of their pace
    board.update((REFERENCE, 0), 2, point(100))
    clock.now = 40.0
    board.update((REFERENCE, 0), 4, point(200))
    assert board.line() == "1 of 1 runs done, about 1:30 left"
    board.finish((REFERENCE, 0), None)
    assert board.line() == "1 of 1 runs done"


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


def test_a_run_that_tokens_end_says_tokens():
    settings: dict[str, Any] = {"batch_size": 4, "max_new_tokens": 6, "seeds": 1}
    of_tokens = decide("MovieReview", rewards=["sparse"], tokens=1152, **settings)
    by_agents = decide("MovieReview", agents=["ppo", "rloo:group_size=2"], updates=48, **settings)
    of_updates = decide("MovieReview", rewards=["sparse"], updates=1, **settings)
    of_epochs = decide("MovieReview", rewards=["sparse"], agent="dpo", epochs=3, **settings)
    said = [_work(one, one.specs(Path("out"))[:1]) for one in (of_tokens, by_agents)]
    assert said == ["1 run of 1,152 tokens"] * 2
    assert _work(of_updates, of_updates.specs(Path("out"))) == "1 run of 1 update (4 x 6 tokens)"
    assert _work(of_epochs, of_epochs.specs(Path("out"))) == "1 run of 3 epochs (64 x 6 tokens)"
    training, file = of_tokens.runs[0].training, io.StringIO()
    names: dict[str, Any] = {"steps": training.last_step, "step_name": training.step_name}
    alone = ProgressDisplay(Console(file=file, width=200), total=1, done=0, **names)
    alone.start(RUN)
    alone.update(RUN, 180, point(180))
    assert file.getvalue().startswith("token 180 of 1,152: score 1.250, KL 0.50 nats")
