"""The figures behind the README's sentences are those of the published runs."""

import re
from collections.abc import Iterator

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
        ("README: with a warm-up `abc-signed`", 1, WARMUP),
        ("the same without a warm-up", 1, 0),
        ("README: so does `sparse` with a critic", 2, WARMUP),
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


def test_about_half_of_the_updates() -> None:
    for length in LENGTHS:
        base, *others = arms(length, warmup=WARMUP)
        for cell in others:
            found = speed(FILMS.runs, cell, base, FILMS.drawn[WAYS], by_score=True)
            assert found is not None
            assert 1.5 < found.times < 2.5


@pytest.mark.parametrize(
    ("sentence", "arm"),
    [
        ("README: after four times the training", 1),
        ("film reviews: that critic ends with less drift", 2),
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
    also = row("README: so does `sparse` with a critic")[-1]
    for warmup in (WARMUP, 0):
        for length in LENGTHS:
            _, rule, critic = arms(length, warmup=warmup)
            assert shown(lead(FILMS.runs, critic, rule, "net")) in also


def by_task() -> Iterator[tuple[str, list[Cell], Cell]]:
    for task in ("Detox", "Dialogue", "Summarize", "QuestionAnswer"):
        yield task, other_tasks.signed_cells(task), other_tasks.cell_of(task, "sparse")


def test_other_tasks() -> None:
    _, score, gold, kl, _, also = row("README: of four other tasks one was faster")
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
    _, score, gold, kl, _, also = row("README: that critic helped on three of six")
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
    _, score, gold, kl, _, also = row("[real text](real_text.md)")
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
    _, score, _, kl, _, also = row("[tasks](tasks.md): no rule is shown ahead")
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
