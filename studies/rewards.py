"""Which reward is best by gold? Fills docs/results/rewards.md.

    python -m studies.rewards    # tables and pictures, from the published runs

`curves.csv` are runs of `tokengym compare`, see the page; rules that spread the reward model's
score were trained again by studies.other_tasks, each at its own rate. The questions about new
things, and the queries whose type is predicted, were measured at commit 6307f464.
"""

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from studies import other_tasks
from tokengym.evaluation.report import number
from tokengym.evaluation.statistics import paired_difference
from tokengym.lab.protocol import curve_of
from tokengym.lab.study import DOCS, Docs, Row, command_line, draw_mean, read_rows
from tokengym.lab.tables import (
    NONE,
    after_holm,
    difference,
    fill,
    grouped,
    markdown_table,
    mean,
    paired,
    paired_text,
    share_of,
    student_mean,
)

Points = Mapping[int, Sequence[Row]]
"""Seed -> measurements of the run."""
TASK, FOLDER, PAGE = "QuestionAnswer", "rewards", "rewards.md"
REWARDS = ("sparse", "uniform", "abc", "r3", "r3-dense")
COLORS = ("#56616f", "#56b4e9", "#0072b2", "#e69f00", "#d55e00")
PAIRS = {
    "credit of the reward model's score": (
        ("uniform", "sparse"),
        ("abc", "sparse"),
        ("abc", "uniform"),
    ),
    "credit of R3": (("r3-dense", "r3"),),
    "what is scored": (("r3", "sparse"), ("r3-dense", "abc")),
}
"""What varies -> the pairs of rewards that show it."""
KIN = (
    ("uniform", "0.95"),
    ("random", "0.95"),
    ("abc-signed", "0.5"),
    ("abc-signed", "0.95"),
    ("red:delivery=end", "0.5"),
)
"""Rules that spread the reward model's score, and their lambdas, beside `sparse` at 0.95."""
FIGURES: dict[str, Callable[[Sequence[Row]], float]] = {
    "gold over the run": lambda rows: curve_of(rows).area("gold_score"),
    "gold at the end": lambda rows: float(rows[-1]["gold_score"]),
    "KL at the end": lambda rows: float(rows[-1]["kl"]),
}
SCORE: dict[str, Callable[[Sequence[Row]], float]] = {
    "score over the run": lambda rows: curve_of(rows).area("score"),
    "score at the end": lambda rows: float(rows[-1]["score"]),
}
"""Of rewards that read one reward model."""


def runs_of(docs: Path) -> dict[str, Points]:
    """Return the five rewards' runs."""
    rows = read_rows(docs / FOLDER / "curves.csv", text=("credit",))
    groups = grouped(rows, lambda row: row["credit"])
    return {rule: grouped(groups[rule], lambda row: int(row["seed"])) for rule in REWARDS}


def levels_table(runs: Mapping[str, Points]) -> str:
    """Return each reward's gold and KL, means over the seeds with Student's intervals."""
    lines = []
    for rule in REWARDS:
        every = runs[rule].values()
        lines.append([f"`{rule}`", *(student_mean([*map(of, every)]) for of in FIGURES.values())])
    return markdown_table(["reward", *FIGURES], lines)


def differences(one: Points, other: Points, of: Callable[[Sequence[Row]], float]) -> Any:
    """Return a figure of one reward minus another's, as pairs by seed."""
    return paired(*({seed: of(rows) for seed, rows in each.items()} for each in (one, other)))


def pairs_table(runs: Mapping[str, Points]) -> str:
    """Return the differences that tell credit from what is scored, paired by seed."""
    pairs = [(what, *pair) for what, of in PAIRS.items() for pair in of]
    shown = after_holm(
        {
            (one, other, name): paired_difference(*differences(runs[one], runs[other], of))
            for _, one, other in pairs
            for name, of in FIGURES.items()
        }
    )
    lines = [
        [what, f"`{one}` minus `{other}`", *(shown[one, other, name] for name in FIGURES)]
        for what, one, other in pairs
    ]
    return markdown_table(["what varies", "", *FIGURES], lines)


def kin_table(docs: Path) -> str:
    """Return rules that spread the reward model's score minus `sparse`, each at its own rate."""
    runs = other_tasks.STUDY.published(docs).runs
    about = {"task": TASK, "critic": "own"}
    base = runs.runs[other_tasks.STUDY.cell(rule="sparse", gae_lambda="0.95", **about)]
    lines = []
    for rule, gae_lambda in KIN:
        own = runs.runs[other_tasks.STUDY.cell(rule=rule, gae_lambda=gae_lambda, **about)]
        figures = [paired_text(*differences(own, base, of)) for of in (SCORE | FIGURES).values()]
        lines.append([f"`{rule}`, {gae_lambda}", *figures, str(len(own.keys() & base.keys()))])
    level = [number(mean([*map(of, base.values())])) for of in (SCORE | FIGURES).values()]
    first = ["`sparse`, 0.95: its level", *level, str(len(base))]
    return markdown_table(["rule, lambda", *SCORE, *FIGURES, "pairs"], [first, *lines])


def entities_table(rows: Sequence[Row]) -> str:
    """Return what each reward gains on known and on new things, and the difference by seed."""
    lines = []
    for rule, of_rule in grouped(rows, lambda row: row["rule"]).items():
        shown, gains = [], {}
        for group, its_rows in grouped(of_rule, lambda row: row["group"]).items():
            start, end = ([row[name] for row in its_rows] for name in ("start", "end"))
            gains[group] = [one - other for one, other in zip(end, start, strict=True)]
            shown += [f"{mean(start):.3f} to {mean(end):.3f}", student_mean(gains[group])]
        gap = difference(paired_difference(gains["known"], gains["new"]))
        lines.append([f"`{rule}`", *shown, gap])
    head = ["reward", "gold, known things", "gain", "gold, new things", "gain", "known minus new"]
    return markdown_table(head, lines)


def types_table(rows: Sequence[Row]) -> str:
    """Return how many queries of each form get the type that was annotated."""
    lines = []
    for row in rows:
        wrong = int(row["queries"] - row["right"])
        opened, share = int(row["open_called_constrained"]), row["constrained"] / row["queries"]
        right = share_of(row["right"], row["queries"])
        about = [row["name"], f"{row['queries']:g}", f"{share:.0%}", right]
        lines.append([*about, f"{opened} of {wrong}"])
    head = ["queries", "number", "annotated CONSTRAINED", "judged right", "errors: open for closed"]
    return markdown_table(head, lines) if lines else NONE


def draw(file: Path, runs: Mapping[str, Points]) -> None:
    """Draw gold and KL of the five rewards over the updates."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    titles = {"gold_score": "gold score", "kl": "KL to the reference, nats"}
    for axes, (name, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        for rule, color in zip(REWARDS, COLORS, strict=True):
            every = [*runs[rule].values()]
            draw_mean(axes, every, itemgetter(name), color=color, label=rule)
        axes.set(title=title, xlabel="updates of 256 answers")
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[1].legend(loc="upper left", fontsize=9)
    figure.savefig(file, dpi=110, metadata={"Software": None})


def page(docs: Docs = DOCS) -> None:
    """Fill the page and draw its picture from the published files.

    Args:
        docs: Folder of the page.
    """
    runs, folder = runs_of(docs), docs / FOLDER
    tables = {
        "rewards": levels_table(runs),
        "pairs": pairs_table(runs),
        "kin": kin_table(docs),
        "entities": entities_table(read_rows(folder / "entities.csv", text=("rule", "group"))),
        "query types": types_table(read_rows(folder / "query_types.csv", text=("name",))),
    }
    fill(docs / PAGE, tables)
    draw(folder / "curves.png", runs)


if __name__ == "__main__":
    command_line(__doc__, page)
