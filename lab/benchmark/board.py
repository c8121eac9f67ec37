"""Rows of the board: what they say, their verdicts, the author's card, one dot a task."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokengym import __version__
from tokengym.base import json_hash, read_json
from tokengym.evaluation.report import number, signed
from tokengym.evaluation.runs import slug, versions
from tokengym.evaluation.statistics import DEFAULT_LEVEL, student_interval
from tokengym.lab.benchmark.definition import CONTROLS, TRACKS, Definition
from tokengym.lab.benchmark.runs import Bench
from tokengym.lab.benchmark.subject import bare
from tokengym.lab.benchmark.verdict import Leads, by_task, call, in_words, resolution, table_of
from tokengym.lab.tables import markdown_table, mean

FORMAT = 2
OPEN = "open"
"""Verdict on a row with fewer than two tasks."""
WORDS = {"net": "score - c KL over the run", "score": "of it score"}
"""Figure -> its name in tables. The verdict is of the first alone."""


def row_of(bench: Bench) -> dict[str, Any]:
    """Return the row of an arm: the settings that are done, and which are open.

    Args:
        bench: The runs.
    """
    about = bench.definition
    settings: dict[str, Any] = {}
    for setting in bench.done:
        leads = bench.leads(setting)
        mine, base = (bench.seconds(setting, subject) for subject in bench.subjects)
        settings[setting.name] = {
            "task": setting.label,
            "way": [round(end, 4) for end in bench.way(setting)],
            "net": _rounded(leads.net),
            "score": _rounded(leads.score),
            "cells": [len(bench.curves(setting, subject)) for subject in bench.subjects],
            "models": bench.models(setting),
            "cpu_s": round(mine, 1),
            "times_baseline": round(mine / max(base, 1e-9), 2),
        }
    row = {
        "format": FORMAT,
        "definition": about.name,
        "definition_hash": about.hash,
        "track": bench.track,
        "subject": bare(bench.subject),
        "is_rule": bench.other is None,
        "code": bench.code,
        "seeds": [*bench.seeds],
        "open": [at.name for at in bench.asked if at.name not in settings],
        "tokengym": __version__,
        "versions": versions(),
        "settings": settings,
    }
    return {**row, "hash": row_hash(row)}


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, 5) for value in values]


def row_hash(row: Mapping[str, Any]) -> str:
    """Return one hash of what a row says."""
    said = {name: value for name, value in row.items() if name != "hash"}
    return json_hash(said)[:16]


def tasks_of(row: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return a row's figures by task, means over its settings: see `verdict.by_task`.

    Args:
        row: A row of the board.
    """
    settings: Mapping[str, Any] = row["settings"]
    leads = {
        name: Leads(net=tuple(each["net"]), score=tuple(each["score"]))
        for name, each in settings.items()
    }
    return by_task(leads, {name: each["task"] for name, each in settings.items()})


def _net_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row's leads in score - c KL by task and seed."""
    return {task: figures["net"] for task, figures in tasks_of(row).items()}


def families(rows: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Return rows that are tested together: rules of a track are one family, another arm its own.

    Args:
        rows: Rows of one version. Those with fewer than two tasks are in no family.
    """
    known = [row for row in rows if len(tasks_of(row)) > 1]
    tracks = dict.fromkeys(row["track"] for row in known)
    rules = [[row for row in known if row["is_rule"] and row["track"] == at] for at in tracks]
    return [each for each in rules if each] + [[row] for row in known if not row["is_rule"]]


def verdicts(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], str]:
    """Return the verdict on each row in words, by subject and track.

    It is of the tasks that are known, and names the settings that are not.

    Args:
        rows: Rows of one version.
    """
    words = {
        _at(row): f"{OPEN}: {len(row['settings'])} of "
        f"{len(row['settings']) + len(row['open'])} settings"
        for row in rows
    }
    for members in families(rows):
        tasks = [tasks_of(row) for row in members]
        calls = call(table_of(tasks, list(dict.fromkeys(task for row in tasks for task in row))))
        for place, row in enumerate(members):
            words[_at(row)] = in_words(calls, place, _net_of(row), row["open"])
    return words


def _at(row: Mapping[str, Any]) -> tuple[str, str]:
    return row["subject"], row["track"]


def sees(rows: Sequence[Mapping[str, Any]], of: Mapping[str, Any] | None = None) -> str:
    """Return what stands beside "not shown": the lead that a board would have seen.

    Args:
        rows: Rows of one family, as `families` returns them.
        of: The row that is asked about; None is all that are no controls.
    """
    asked = [row for row in rows if row["subject"] not in CONTROLS] if of is None else [of]
    return resolution([_net_of(row) for row in asked or rows], len(rows))


def read_rows_of(folder: Path, definition: Definition) -> list[dict[str, Any]]:
    """Return the rows of a version in a folder.

    Args:
        folder: Where `tokengym bench --v2` has written.
        definition: The version.
    """
    rows = []
    for file in sorted(file for track in TRACKS for file in folder.glob(f"*-{track}.json")):
        check_row(row := read_json(file), str(file), definition)
        rows.append(row)
    return rows


def check_row(row: object, name: str, definition: Definition) -> None:
    """Refuse what was read from a file unless it is a row of this version, unchanged.

    Args:
        row: What was read.
        name: Where, for the message.
        definition: The version.
    """
    remedy = "take the file that tokengym bench --v2 wrote"
    if not isinstance(row, dict) or row.get("format") != FORMAT:
        raise ValueError(f"{name} is no row of format {FORMAT}; {remedy}")
    said = row.get("definition"), row.get("definition_hash")
    if said != (definition.name, definition.hash):
        raise ValueError(
            f"{name} is of {said[0]} ({said[1]}), not of {definition.name} ({definition.hash}); "
            "rows of two versions stand on no board together: run it again with this one"
        )
    if row.get("hash") != row_hash(row):
        raise ValueError(f"{name} was changed: its hash is not that of its figures; {remedy}")
    unknown = {*row["settings"], *row["open"]} - {at.name for at in definition.settings}
    counts = {len(each[figure]) for each in row["settings"].values() for figure in WORDS}
    if unknown or counts - {len(definition.seeds)}:
        raise ValueError(
            f"{name} has settings {sorted(unknown)} or seeds {sorted(counts)} that "
            f"{definition.name} has not; {remedy}"
        )


def settings_table(row: Mapping[str, Any]) -> str:
    """Return a row's leads by setting, % of the way, with what is score and what KL not paid.

    Args:
        row: A row of the board.
    """
    lines = []
    for name, each in row["settings"].items():
        net, score = (100 * mean(each[figure]) for figure in WORDS)
        lines.append([name, signed(net), signed(score), signed(net - score)])
    return markdown_table(["setting", *WORDS.values(), "of it KL not paid"], lines)


def tasks_table(row: Mapping[str, Any]) -> str:
    """Return both figures' means over tasks with the t interval over them, % of the way.

    Args:
        row: A row of the board with at least two tasks.
    """
    tasks = tasks_of(row)
    lines = []
    for figure, words in WORDS.items():
        leads = [100 * mean(each[figure]) for each in tasks.values()]
        middle, low, high, _ = (float(value) for value in student_interval(leads))
        lines.append([words, f"{signed(middle)} ({number(low)} to {number(high)})"])
    return markdown_table(["figure", f"mean over {len(tasks)} tasks, {DEFAULT_LEVEL:.0%}"], lines)


def card_of(row: Mapping[str, Any], others: Sequence[Mapping[str, Any]] = ()) -> str:
    """Return the author's card in Markdown: verdict, figures, what they cannot say, BibTeX.

    Args:
        row: A row of the board.
        others: Published rows of the version, of whose family it is; one of its name is left out.
    """
    board = [row, *(other for other in others if _at(other) != _at(row))]
    verdict = verdicts(board)[_at(row)]
    kind = "a credit rule" if row["is_rule"] else "an arm, no rule: its family is its own"
    control = ", a control that does not read the text" if row["subject"] in CONTROLS else ""
    lines = [
        f"# {row['subject']} in {row['definition']}",
        f"**{verdict[:1].upper()}{verdict[1:]}.** {kind[:1].upper()}{kind[1:]}{control}; track "
        f"{row['track']}, seeds {', '.join(map(str, row['seeds']))}.",
    ]
    for members in families(board):
        if row in members:
            names = ", ".join(member["subject"] for member in members)
            said = sees(members, row)
            lines.append(f"Tested together with Holm's correction: {names}. Here {said}.")
    if row["open"]:
        lines.append(f"Not run: {', '.join(row['open'])}.")
    if row["settings"]:
        lines += [
            "## Leads on `sparse`",
            "% of the way from the untrained policy to its best of 16 by score - c KL. Each seed's "
            "cell is chosen on the other seeds, for both arms.",
            settings_table(row),
        ]
    if len(tasks_of(row)) > 1:
        lines.append(tasks_table(row))
    lines += [
        "## What this cannot say",
        "One reward model a task, one price, PPO. The interval is over tasks; what holds on these "
        "tasks alone is said in those words. A lead that is KL not paid is no higher score: the "
        "two parts stand apart.",
        "## Cite",
        f"```bibtex\n{bibtex(row)}\n```",
    ]
    return "\n\n".join(lines) + "\n"


def bibtex(row: Mapping[str, Any]) -> str:
    """Return a BibTeX entry with the version of the package and the hashes of definition and row.

    Args:
        row: A row of the board.
    """
    name = slug(f"{row['definition']} {row['subject']}").replace("_", "-").lower()
    title = f"{row['subject']} in {row['definition']}".replace("_", r"\_")
    return (
        f"@misc{{{name}-{row['hash'][:8]},\n"
        f"  title = {{{title}}},\n"
        "  author = {{The tokengym developers}},\n"
        f"  version = {{tokengym {row['tokengym']}}},\n"
        f"  note = {{definition {row['definition_hash']}, row {row['hash']}}},\n"
        "}"
    )


def draw_tasks(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draw every row's lead in each task: one dot a task, hollow of a control, a bar at their mean.

    Args:
        file: Picture to write.
        rows: Rows of one version with at least one setting.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 1.5 + 0.5 * len(rows)), layout="constrained")
    panels = figure.subplots(1, len(WORDS), sharey=True)
    colors = {
        task: f"C{at}"
        for at, task in enumerate(dict.fromkeys(task for row in rows for task in tasks_of(row)))
    }
    for axis, name in zip(panels, WORDS, strict=True):
        for at, row in enumerate(reversed(rows)):
            known = {task: 100 * mean(each[name]) for task, each in tasks_of(row).items()}
            for task, lead in known.items():
                face = "white" if row["subject"] in CONTROLS else colors[task]
                axis.plot(lead, at, "o", color=colors[task], markerfacecolor=face, markersize=7)
            if known:
                axis.plot(mean([*known.values()]), at, "|", color="black", markersize=20)
        axis.axvline(0, color="#56616f", linewidth=0.8)
        axis.set_yticks(range(len(rows)), [row["subject"] for row in reversed(rows)])
        axis.set_ylim(-0.6, len(rows) - 0.4)
        axis.set_xlabel(f"{WORDS[name]}, % of the way")
        axis.grid(axis="x", alpha=0.3)
    for task, color in colors.items():
        panels[0].plot([], [], "o", color=color, label=task)
    figure.legend(loc="outside lower center", ncols=len(colors), fontsize=8, frameon=False)
    figure.savefig(file, dpi=130, metadata={"Software": None})
