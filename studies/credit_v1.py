"""Runs behind the rows of tokengym-credit v1, published so that nobody has to make them twice.

python -m studies.credit_v1 restore runs/v1   # before `tokengym bench --v1`: it makes what is left
python -m studies.credit_v1 publish runs/v1   # after it, or after a part of it
python -m studies.credit_v1 page              # fills docs/results/credit_v1.md
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from tokengym.base import read_json
from tokengym.evaluation.report import number, signed
from tokengym.evaluation.statistics import RunPath, student_interval
from tokengym.lab.benchmark.definition import BASELINE, V1
from tokengym.lab.benchmark.figures import check_row, numbers_of, shares_of
from tokengym.lab.benchmark.page import title_of
from tokengym.lab.benchmark.runs import TEXT
from tokengym.lab.benchmark.verdict import (
    Leads,
    by_task,
    call,
    in_words,
    leads_of,
    path_of,
    table_of,
)
from tokengym.lab.protocol import Row
from tokengym.lab.study import (
    DOCS,
    OF_RUNS,
    Cell,
    Docs,
    command_line,
    read_rows,
    run_of,
    write_rows,
)
from tokengym.lab.tables import NONE, fill, markdown_table

Out = tyro.conf.Positional[Path]
FOLDER, RUNS = "v1", "runs.csv"
V2_WORDS = {
    "net": "score - c KL over the run",
    "score": "of that, score",
    "kl": "of that, KL not paid",
    "at_kl": "score at equal KL",
}
"""Names of the two figures of version 2's verdict, and of the parts of the first."""
AXES = ("setting", "rule", "start", "gae_lambda", *OF_RUNS)
"""Columns that say which run a row is from, in the order of a file's name."""


def restore(out: Out, docs: Docs = DOCS) -> None:
    """Write the published runs to the files that `tokengym bench --v1` looks for.

    Args:
        out: Folder of the benchmark's runs.
        docs: Folder of the page.
    """
    for run, rows in published(docs).items():
        file = out / "runs" / f"{run!r}.csv"
        if not file.exists():
            write_rows(file, rows)


def publish(out: Out, docs: Docs = DOCS) -> None:
    """Write the runs of a folder beside those that are published, and fill the page.

    Args:
        out: Folder of the benchmark's runs.
        docs: Folder of the page.
    """
    made = by_run(read_rows(*sorted((out / "runs").glob("*.csv")), text=TEXT))
    runs = {**made, **published(docs)}  # what is published stays
    rows = [row for run in sorted(runs, key=repr) for row in runs[run]]
    write_rows(docs / FOLDER / RUNS, rows)
    page(docs)


def page(docs: Docs = DOCS) -> None:
    """Fill the page's tables from the published files.

    Args:
        docs: Folder of the page.
    """
    rows = []
    for file in sorted((docs / FOLDER).glob("*.json")):
        check_row(row := read_json(file), str(file), V1)
        rows.append(row)
    tables = {
        "leads": leads_table(rows),
        "tuned": tuned_table(rows),
        "done": done_table(docs),
        "v2": v2_table(rows, published(docs)),
    }
    fill(docs / "credit_v1.md", tables)
    draw(docs / FOLDER / "parts.png", rows, published(docs))


def published(docs: Path) -> dict[Cell, list[Row]]:
    """Return the published runs."""
    file = docs / FOLDER / RUNS
    return by_run(read_rows(file, text=TEXT)) if file.exists() else {}


def by_run(rows: Sequence[Row]) -> dict[Cell, list[Row]]:
    """Return rows by the run that they are from."""
    runs: dict[Cell, list[Row]] = {}
    for row in rows:
        runs.setdefault(run_of(row, AXES), []).append(row)
    return runs


def leads_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return each row's lead per task, and the number that is their mean."""
    tasks = list(dict.fromkeys(setting.task for setting in V1.settings))
    lines = []
    for row in rows:
        shares = {**shares_of(row), "": numbers_of(row)}
        leads = [with_interval(shares[task]) for task in (*tasks, "")]
        lines.append([title_of(row), row["track"], *leads])
    return markdown_table(["rule", "track", *tasks, "mean: the number"], lines)


def with_interval(shares: Sequence[float]) -> str:
    """Return the mean of shares of the way, in percent, with Student's 95 % interval.

    Example:
        >>> with_interval([0.01, 0.02, 0.03])
        '+2.00 (\u22120.484 to 4.48)'
    """
    middle, low, high, _ = (float(value) for value in student_interval(100 * np.array(shares)))
    return f"{signed(middle)} ({number(low)} to {number(high)})"


def tuned_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return what the tuning chose and what each setting gave, of every row."""
    lines = []
    for row in rows:
        for name, each in row["settings"].items():
            start, goal = each["way"]
            lead = (np.array(each["areas"]) - each["baseline_areas"]) / (goal - start)
            chosen = [chosen_of(each[key]) for key in ("chosen", "baseline_chosen")]
            ends = [number(each[f"{key}_at_end"]) for key in ("score", "gold_score", "kl")]
            seconds = f"{number(each['cpu_s'])} ({number(each['times_baseline'])})"
            lines.append(
                [title_of(row), row["track"], name, *chosen, with_interval(lead), *ends, seconds]
            )
    head = ["rule", "track", "setting", "lambda, rate, start", "the same of `sparse`"]
    ends = ["lead, % of the way", "score at the end", "gold", "KL"]
    return markdown_table([*head, *ends, "CPU seconds a run (of the baseline's)"], lines)


def v2_figures(
    rows: Sequence[Mapping[str, Any]], runs: Mapping[Cell, Sequence[Row]]
) -> list[tuple[Mapping[str, Any], dict[str, Leads], dict[str, Any]]]:
    """Return each row that is not hidden with its figures of version 2, by setting and by task.

    Its tuning is v1's, on spare seeds: the runs of other cells have no other seeds.
    """
    tasks = {setting.name: setting.task for setting in V1.settings}
    figures = []
    for row in rows:
        if row["hidden"]:
            continue
        leads = {
            name: leads_of(
                arm_of(runs, name, row, row["subject"]),
                arm_of(runs, name, row, BASELINE),
                each["way"][1] - each["way"][0],
            )
            for name, each in row["settings"].items()
        }
        figures.append((row, leads, by_task(leads, tasks)))
    return figures


def v2_table(rows: Sequence[Mapping[str, Any]], runs: Mapping[Cell, Sequence[Row]]) -> str:
    """Return what the verdict of version 2 says of each row of version 1, by task."""
    tasks = {setting.name: setting.task for setting in V1.settings}
    names = list(dict.fromkeys(tasks.values()))
    figures, lines = v2_figures(rows, runs), []
    calls = call(table_of([of_tasks for _, _, of_tasks in figures])) if figures else None
    for place, (row, leads, of_tasks) in enumerate(figures):
        assert calls is not None
        parts = {
            "net": {task: of["net"] for task, of in of_tasks.items()},
            "score": {task: of["score"] for task, of in of_tasks.items()},
            "kl": {task: of["net"] - of["score"] for task, of in of_tasks.items()},
            "at_kl": {task: of["at_kl"] for task, of in of_tasks.items()},
        }
        for figure, words in V2_WORDS.items():
            cells = []
            for task, seeds in parts[figure].items():
                levels = [leads[name].kl for name in tasks if tasks[name] == task]
                where = f", at {' and '.join(number(kl) for kl in levels if kl)} nats"
                cell = NONE if seeds is None else with_interval(seeds)
                cells.append(f"{cell}{where * (figure == 'at_kl' and seeds is not None)}")
            known = [np.mean(seeds) for seeds in parts[figure].values() if seeds is not None]
            over_tasks = with_interval(known) if len(known) == len(names) else NONE
            lines.append([title_of(row), words, *cells, over_tasks])
        verdict = in_words(calls, place, parts["net"])
        lines.append([title_of(row), "verdict", *([""] * len(names)), verdict])
    return markdown_table(
        ["rule", "figure", *names, "mean over tasks, t interval over tasks"], lines
    )


def draw(file: Path, rows: Sequence[Mapping[str, Any]], runs: Mapping[Cell, Sequence[Row]]) -> None:
    """Draw each row's lead by task, and the score and the unpaid KL that it is made of.

    Args:
        file: Picture to write.
        rows: Published rows.
        runs: Their runs, and those of the baseline.
    """
    from matplotlib.figure import Figure

    figures = v2_figures(rows, runs)
    if not figures:
        return
    figure = Figure(figsize=(8, 3.6 * len(figures)), layout="constrained")
    panels = figure.subplots(len(figures), 1, squeeze=False)[:, 0]
    for axes, (row, _, of_tasks) in zip(panels, figures, strict=True):
        at = np.arange(len(of_tasks))
        score = np.array([100 * np.mean(of["score"]) for of in of_tasks.values()])
        net = np.array([100 * np.mean(of["net"]) for of in of_tasks.values()])
        axes.bar(at - 0.17, score, 0.3, color="#0072b2", label="score")
        axes.bar(at + 0.17, net - score, 0.3, color="#e69f00", label="KL not paid")
        axes.plot(at, net, "D", color="black", label="both: the lead")
        axes.axhline(0, color="#56616f", linewidth=1)
        axes.set_xticks(at, [*of_tasks])
        axes.set_ylabel("minus sparse, % of the way")
        axes.set_title(f"{row['subject']}, track {row['track']!r}", fontsize=11)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.3)
        axes.legend(fontsize=9)
    figure.savefig(file, dpi=120, metadata={"Software": None})


def arm_of(
    runs: Mapping[Cell, Sequence[Row]], setting: str, row: Mapping[str, Any], rule: str
) -> dict[str, dict[int, RunPath]]:
    """Return the published runs of a rule in a setting of a row, of the one cell that has seeds."""
    of_rule = {
        int(run.seed): path_of(points)
        for run, points in runs.items()
        if run.setting == setting and run.rule == rule and run.seed in row["seeds"]
    }
    return {"tuned": of_rule}


def chosen_of(choice: Mapping[str, Any]) -> str:
    """Return what the tuning chose in a few words."""
    return f"{choice['gae_lambda']}, {choice['rate']:g}, {choice['start'].replace('_', ' ')}"


def done_table(docs: Path) -> str:
    """Return how many runs of each rule and setting are published, and their CPU hours."""
    runs = published(docs)
    lines = []
    for rule in dict.fromkeys(run.rule for run in runs):
        done = {run: points for run, points in runs.items() if run.rule == rule}
        counts = [str(sum(run.setting == at.name for run in done)) for at in V1.settings]
        hours = sum(points[-1]["cpu_s"] for points in done.values()) / 3600
        lines.append([f"`{rule}`", *counts, str(len(done)), number(hours)])
    names = [setting.name for setting in V1.settings]
    return markdown_table(["rule", *names, "all", "CPU hours"], lines)


if __name__ == "__main__":
    command_line(__doc__, restore, publish, page)
