"""The figures behind the README's sentences are those of the published runs."""

import csv
import math
import re
from collections.abc import Iterator
from itertools import pairwise

import pytest

from studies import credit_v2, critic_elsewhere, other_tasks, token_credit
from studies.parts import lead
from studies.token_credit import LENGTHS, WARMUP, WAYS, arms, speed
from tokengym.evaluation.report import number, signed
from tokengym.evaluation.statistics import PairedDifference
from tokengym.lab.benchmark.board import verdicts
from tokengym.lab.protocol import NET_MARGIN, level, way
from tokengym.lab.study import DOCS, Cell, Runs
from tokengym.lab.tables import paired

CLAIMS = (DOCS / "claims.md").read_text(encoding="utf-8")
FILMS = token_credit.STUDY.published(DOCS)
FIGURES = ("score", "gold_score", "kl")
PARTS = (("score", False), ("gold_score", True), ("kl", False))
"""Columns of the page: measurement, and whether it is that of a run's end."""


def row(start: str) -> list[str]:
    """Return the cells of the page's row whose sentence begins so."""
    (line,) = (line for line in CLAIMS.splitlines() if line.startswith(f"| {start}"))
    return [cell.strip() for cell in line.strip("|").split(" | ")]


def shown(figure: PairedDifference) -> str:
    return f"{signed(figure.difference)} ({number(figure.low)} to {number(figure.high)})"


def assert_quoted(cell: str, figures: list[PairedDifference], *, with_ends: bool = False) -> None:
    """Assert that a cell of the page has the figures, in order, and says which are not clear.

    Args:
        cell: The cell.
        figures: What it quotes.
        with_ends: Whether intervals stand beside them, so that nothing is said of clear.
    """
    place = 0
    for figure in figures:
        text = signed(figure.difference)
        place = cell.index(text, place) + len(text)
        is_clear = figure.low > 0 or figure.high < 0
        if "none clear" in cell or "neither clear" in cell:
            assert not is_clear
        elif not with_ends:
            assert is_clear != cell.startswith(" (not clear)", place)


@pytest.mark.parametrize(
    ("sentence", "arm", "warmup"),
    [
        ("`abc-signed` with a warm-up", 1, WARMUP),
        ("the same without a warm-up", 1, 0),
        ("`sparse` with a critic started", 2, WARMUP),
    ],
)
def test_speeds_and_their_parts(sentence: str, arm: int, warmup: int) -> None:
    _, score, gold, kl, pairs, _ = row(sentence)
    cells = [arms(length, warmup=warmup) for length in LENGTHS]
    for base, *others in cells:
        found = speed(FILMS.runs, others[arm - 1], base, FILMS.drawn[WAYS], by_score=True)
        assert found is not None
        assert not found.at_most
        assert f"{found.times:.2f} ({found.low:.2f} to {found.high:.2f})" in score
    for cell, (measure, at_end) in zip((score, gold, kl), PARTS, strict=True):
        each = [lead(FILMS.runs, at[arm], at[0], measure, at_end=at_end) for at in cells]
        if measure != "kl":
            assert_quoted(cell, each)
        else:
            assert cell == ", ".join(signed(figure.difference) for figure in each)
        assert pairs == ", ".join(str(figure.pairs) for figure in each)


def updates_to(points: list[tuple[float, float]], goal: float) -> float:
    """Updates until a score is reached, between two measurements in proportion."""
    for (before, low), (after, high) in pairwise(points):
        if high >= goal:
            return before + (after - before) * (goal - low) / (high - low)
    raise AssertionError("the goal was not reached")


def updates_on_the_board(rule: str, length: int, gae_lambda: str) -> dict[str, float]:
    """Updates to 75 % of the way by score of the board's film reviews, by seed."""
    drawn = [line for line in FILMS.drawn[WAYS] if line["length"] == length]
    start, goal = way(drawn, lambda line: line["score"])
    curves: dict[str, list[tuple[float, float]]] = {}
    with (DOCS / "v2-lite" / f"{rule}-runs.csv").open(encoding="utf-8", newline="") as file:
        for point in csv.DictReader(file):
            here = (point["setting"], point["gae_lambda"], point["rate"], point["start"])
            if here == (f"MovieReview-{length}", gae_lambda, "0.001", "own"):
                step = (float(point["step"]), float(point["score"]))
                curves.setdefault(point["seed"], []).append(step)
    return {
        seed: updates_to(sorted(points), start + 0.75 * (goal - start))
        for seed, points in curves.items()
    }


def times_as_fast_on_the_board(length: int, gae_lambda: str) -> float:
    """Geometric mean over seeds of `sparse` at lambda .95 over `abc-signed`, at one rate."""
    base = updates_on_the_board("sparse", length, "0.95")
    rule = updates_on_the_board("abc-signed", length, gae_lambda)
    assert base.keys() == rule.keys() == {"0", "1"}
    return math.prod(base[seed] / rule[seed] for seed in base) ** (1 / len(base))


def test_speed_at_one_rate() -> None:
    page = (DOCS / "film_reviews.md").read_text(encoding="utf-8")
    at_one_rate = page.split("## At one rate")[1].split("## Setting")[0]
    for length in LENGTHS:
        cells = [f"{times_as_fast_on_the_board(length, at):.2f}" for at in ("0.5", "0.95")]
        assert f"| {length} | {' | '.join(cells)} |" in at_one_rate
        base, rule, critic = arms(length, warmup=WARMUP)
        assert FILMS.runs.rate(base) == FILMS.runs.rate(critic) == 1e-3
        assert FILMS.runs.rate(rule) == (3e-3 if length == 24 else 1e-3)


def test_the_readme_says_what_holds_at_one_rate() -> None:
    readme = (DOCS.parents[1] / "README.md").read_text(encoding="utf-8")
    assert "about 1.5 times as fast at 24 and 48 tokens" in readme
    assert all(1.4 < times_as_fast_on_the_board(length, "0.5") < 1.6 for length in (24, 48))
    times = []
    for length in (24, 48):
        base, _, critic = arms(length, warmup=WARMUP)
        found = speed(FILMS.runs, critic, base, FILMS.drawn[WAYS], by_score=True)
        assert found is not None
        times.append(round(found.times, 1))
    assert f"the reward model {times[0]} to {times[1]} times" in readme


def test_the_readme_says_who_has_more_score_at_equal_kl() -> None:
    readme = (DOCS.parents[1] / "README.md").read_text(encoding="utf-8")
    overview = (DOCS / "README.md").read_text(encoding="utf-8")
    page = (DOCS / "equal_kl.md").read_text(encoding="utf-8")
    at_target = page.split("<!-- answer -->")[1].split("<!-- end answer -->")[0]
    assert "| MovieReview | 5 |" in at_target
    assert "**" not in at_target  # bold is what stands after correction
    assert "nobody is shown to have more score than `sparse` at a target" in readme
    assert "nobody is shown to, after correction" in overview
    course = page.split("<!-- course -->")[1].split("<!-- end course -->")[0]
    critic = "| MovieReview | 5 | `sparse`, critic from the reward model | "
    (line,) = (line for line in course.splitlines() if line.startswith(critic))
    more, ends = re.findall(r"^\*\*\+([\d.]+)\*\* \(([^)]*)\), 5/5 ", line.removeprefix(critic))[0]
    assert f"that critic has {more} ({ends}, uncorrected) more" in readme
    assert f"that critic has {more} more" in CLAIMS
    assert f"has {float(more):.2f} more, uncorrected" in overview


def test_a_sentence_of_the_page_can_be_read() -> None:
    table = CLAIMS.split("## The figures")[0]
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    cells = [cell for line in lines for cell in line.strip("|").split(" | ")]
    assert len(cells) == 4 * 10
    for cell in cells:
        assert 0 < len(re.sub(r"\]\([^)]*\)", "]", cell).split()) <= 25, cell


@pytest.mark.parametrize(
    ("sentence", "arm"),
    [
        ("`abc-signed` after four times the training", 1),
        ("that critic after four times the training", 2),
    ],
)
def test_the_end(sentence: str, arm: int) -> None:
    _, score, gold, kl, pairs, also = row(sentence)
    cells = [arms(length, 120) for length in LENGTHS]
    for cell, measure in zip((score, gold, kl, also), (*FIGURES, "net"), strict=True):
        each = [lead(FILMS.runs, at[arm], at[0], measure, at_end=True) for at in cells]
        assert_quoted(cell, each, with_ends=cell == also)
        assert pairs == ", ".join(str(figure.pairs) for figure in each)
    drawn = [line for line in FILMS.drawn[WAYS] if line["length"] == 48]
    start, goal = way(drawn)
    ends = [token_credit.by_seed(FILMS.runs, at, "net", at_end=True) for at in cells[1][:2]]
    assert level(*paired(*reversed(ends)), goal - start, NET_MARGIN).equivalent


def test_the_critic_beside_token_credit() -> None:
    also = row("`sparse` with a critic started")[-1]
    for warmup in (WARMUP, 0):
        for length in LENGTHS:
            _, rule, critic = arms(length, warmup=warmup)
            assert shown(lead(FILMS.runs, critic, rule, "net")) in also


def by_task() -> Iterator[tuple[str, list[Cell], Cell]]:
    for task in ("Detox", "Dialogue", "Summarize", "QuestionAnswer"):
        yield task, other_tasks.signed_cells(task), other_tasks.cell_of(task, "sparse")


def test_other_tasks() -> None:
    _, score, gold, kl, _, also = row("`abc-signed` on four other tasks")
    runs = other_tasks.STUDY.published(DOCS).runs
    nets = []
    for task, cells, base in by_task():
        both = [lead(runs, cell, base, "net") for cell in cells]
        assert f"{task} {', '.join(map(shown, both))}" in also
        assert both[1].pairs == 10
        nets.append(both[1])
    for cell, (measure, at_end) in zip((score, gold, kl), PARTS, strict=True):
        each = [lead(runs, c[1], base, measure, at_end=at_end) for _, c, base in by_task()]
        if measure != "kl":
            assert_quoted(cell, each)
        else:
            assert cell == ", ".join(signed(figure.difference) for figure in each)
    control = other_tasks.cell_of("QuestionAnswer", "random")
    assert lead(runs, other_tasks.signed_cells("QuestionAnswer")[1], control, "net").high < 0


def chosen(runs: Runs, task: str) -> tuple[Cell, Cell]:
    critic = runs.chosen(critic_elsewhere.started_cells(task))
    assert critic is not None
    return critic, critic_elsewhere.base_cell(task)


def test_the_critic_on_other_tasks() -> None:
    _, score, gold, kl, _, also = row("that critic on six tasks")
    runs = critic_elsewhere.STUDY.published(DOCS).runs
    pairs = {task: chosen(runs, task) for task in critic_elsewhere.TASKS}
    order = ("Detox", "SST-2", "IMDb", "QuestionAnswer", "Dialogue", "Summarize")
    for task in order:
        for cell, measure, at_end in ((score, "score", False), (gold, "gold_score", True)):
            figure = lead(runs, *pairs[task], measure, at_end=at_end)
            assert f"{task} {signed(figure.difference)}" in cell
            assert figure.pairs == 5
    nats = [lead(runs, *pairs[task], "kl") for task in order]
    assert kl.startswith(", ".join(signed(figure.difference) for figure in nats))
    assert_quoted(also, [lead(runs, *pairs[task], "net") for task in order[:4]], with_ends=True)
    tables = critic_elsewhere.tables(critic_elsewhere.STUDY.published(DOCS))
    clear = [line for line in tables["critic"].splitlines() if "**" in line]
    assert [line.split(" | ")[0].strip("| ") for line in clear] == ["Detox", "SST-2", "IMDb"]


def test_real_text() -> None:
    _, score, gold, kl, _, also = row("`abc-signed` on IMDb and SST-2")
    runs = critic_elsewhere.STUDY.published(DOCS).runs
    pairs = [
        (critic_elsewhere.signed_cells(task)[0], critic_elsewhere.base_cell(task))
        for task in ("IMDb", "SST-2")
    ]
    assert score == ", ".join(shown(lead(runs, *pair, "score")) for pair in pairs)
    assert_quoted(gold, [lead(runs, *pair, "gold_score", at_end=True) for pair in pairs])
    assert_quoted(kl, [lead(runs, *pair, "kl") for pair in pairs])
    ends = [lead(runs, *pair, "score", at_end=True) for pair in pairs]
    assert_quoted(also, ends, with_ends=True)
    assert not any(figure.low > 0 or figure.high < 0 for figure in ends)


def test_the_board() -> None:
    _, score, _, kl, _, also = row("the board of eight tasks")
    rows = credit_v2.published(DOCS)
    table = credit_v2.board_table(credit_v2.once(rows)).splitlines()
    for name in ("`abc-signed`", "sparse, critic from the reward model"):
        (line,) = (line for line in table if line.startswith(f"| {name} |"))
        net, of_score, of_kl, _, beyond = (cell.strip() for cell in line.strip("| ").split("|")[1:])
        assert of_score in score
        assert of_kl in kl
        assert net in also
        if name == "`abc-signed`":
            assert beyond in also
    rules = {(each["subject"], each["track"]) for each in rows if each["is_rule"]}
    words = verdicts(rows)
    assert not any(words[rule].startswith("ahead") for rule in rules)
    assert [at for at in words if words[at] == "ahead"] == [*words.keys() - rules]
    (inside, *_) = credit_v2.sees_lines(rows).splitlines()
    low, high = re.findall(r"a lead of ([\d.]+) to ([\d.]+) %", inside)[0]
    assert f"a lead of {float(low):.0f} to {float(high):.0f} % in 80 of 100 cases" in also


def test_the_overview_quotes_the_page_of_film_reviews() -> None:
    overview = (DOCS / "README.md").read_text(encoding="utf-8")
    for length in LENGTHS:
        cells, long = arms(length, warmup=WARMUP), arms(length, 120)
        for arm, name in ((1, "`abc-signed`"), (2, "critic from the reward model")):
            times = speed(FILMS.runs, cells[arm], cells[0], FILMS.drawn[WAYS], by_score=True)
            assert times is not None
            over = lead(FILMS.runs, cells[arm], cells[0], "score").difference
            ends = [
                signed(lead(FILMS.runs, long[arm], long[0], m, at_end=True).difference)
                for m in FIGURES[:2]
            ]
            line = " | ".join([str(length), name, number(times.times), signed(over), *ends])
            assert f"| {line} |" in overview
