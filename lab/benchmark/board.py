"""Rows of version 2: what they say, the board's verdicts, the author's card, one dot a task."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tokengym import __version__
from tokengym.evaluation.report import number, signed
from tokengym.evaluation.runs import slug, versions
from tokengym.lab.benchmark.arms import ArmBench
from tokengym.lab.benchmark.definition import CONTROLS
from tokengym.lab.benchmark.figures import check_unchanged, row_hash
from tokengym.lab.benchmark.verdict import FIGURES, Leads, by_task, call, in_words, table_of
from tokengym.lab.benchmark.version2 import Definition2
from tokengym.lab.cards.parts import bare
from tokengym.lab.tables import NONE, markdown_table, mean

FORMAT = 2
OPEN = "open"
"""Verdict on a row that lacks settings."""
WORDS = {"net": "score - c KL over the run", "at_kl": "score at equal KL"}
"""Figure -> its name in tables."""
BY_SEED = ("net", "score", "at_kl", "gold_at_kl")
"""Figures of a setting that have a value per seed, or None at equal KL."""


def row_of(bench: ArmBench) -> dict[str, Any]:
    """Return the row of an arm: the settings that are done, and which are open.

    Args:
        bench: The runs.
    """
    about = bench.definition
    settings: dict[str, Any] = {}
    for setting in bench.done:
        leads, gold = (bench.leads(setting, measure) for measure in ("score", "gold_score"))
        mine, base = (bench.seconds(setting, subject) for subject in bench.subjects)
        settings[setting.name] = {
            "task": setting.label,
            "way": [round(end, 4) for end in bench.way(setting)],
            "net": _rounded(leads.net),
            "score": _rounded(leads.score),
            "at_kl": _rounded(leads.at_kl),
            "gold_at_kl": _rounded(gold.at_kl),
            "kl": None if leads.kl is None else round(leads.kl, 3),
            "cells": [len(bench.paths(setting, subject)) for subject in bench.subjects],
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


def _rounded(values: Sequence[float] | None) -> list[float] | None:
    return None if values is None else [round(value, 5) for value in values]


def tasks_of(row: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return a row's figures by task, means over its settings: see `verdict.by_task`.

    Args:
        row: A row of version 2.
    """
    settings: Mapping[str, Any] = row["settings"]
    leads = {
        name: Leads(
            net=tuple(each["net"]),
            score=tuple(each["score"]),
            at_kl=None if each["at_kl"] is None else tuple(each["at_kl"]),
            kl=each["kl"],
        )
        for name, each in settings.items()
    }
    return by_task(leads, {name: each["task"] for name, each in settings.items()})


def verdicts(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the verdict on each row in words: rules are one family, each other arm its own.

    Args:
        rows: Rows of one version and track. One that lacks settings is called open, and is in no
            family.
    """
    words = {
        row["subject"]: f"{OPEN}: {len(row['settings'])} of "
        f"{len(row['settings']) + len(row['open'])} settings"
        for row in rows
    }
    whole = [row for row in rows if not row["open"]]
    families = [[row for row in whole if row["is_rule"]]]
    families += [[row] for row in whole if not row["is_rule"]]
    for members in filter(None, families):
        tasks = [tasks_of(row) for row in members]
        calls = call(table_of(tasks))
        for number_, (row, figures) in enumerate(zip(members, tasks, strict=True)):
            net_by_task = {task: each["net"] for task, each in figures.items()}
            words[row["subject"]] = in_words(calls, number_, net_by_task)
    return words


def check_row2(row: object, name: str, definition: Definition2) -> None:
    """Refuse what was read from a file unless it is a row of this version, unchanged.

    Args:
        row: What was read.
        name: Where, for the message.
        definition: The version.

    Raises:
        ValueError: naming what does not fit.
    """
    remedy = "take the file that tokengym bench --v2 wrote"
    if not isinstance(row, dict) or row.get("format") != FORMAT:
        raise ValueError(f"{name} is no row of format {FORMAT}; {remedy}")
    check_unchanged(row, name, definition)
    unknown = {*row["settings"], *row["open"]} - {at.name for at in definition.settings}
    counts = {
        len(values)
        for each in row["settings"].values()
        for figure in BY_SEED
        if (values := each[figure]) is not None
    }
    if unknown or counts - {len(definition.seeds)}:
        raise ValueError(
            f"{name} has settings {sorted(unknown)} or seeds {sorted(counts)} that "
            f"{definition.name} has not; {remedy}"
        )


def settings_table(row: Mapping[str, Any]) -> str:
    """Return a row's leads by setting, % of the way, with what is score and what KL not paid.

    Args:
        row: A row of version 2.
    """
    lines = []
    for name, each in row["settings"].items():
        net, score = (100 * mean(each[figure]) for figure in ("net", "score"))
        parts = [signed(net), signed(score), signed(net - score)]
        lines.append([name, *parts, _at_kl(each, "at_kl"), _at_kl(each, "gold_at_kl")])
    heads = ["setting", WORDS["net"], "of it score", "of it KL not paid"]
    return markdown_table([*heads, f"{WORDS['at_kl']}, by nats", "gold there"], lines)


def _at_kl(figures: Mapping[str, Any], figure: str) -> str:
    """Return a lead at equal KL with its KL; a dash where none is known."""
    if figures[figure] is None:
        return NONE
    return f"{number(figures['kl'])}: {signed(100 * mean(figures[figure]))}"


def tasks_table(row: Mapping[str, Any]) -> str:
    """Return both figures' means over tasks with the t interval over them, % of the way.

    Args:
        row: A row of version 2 with at least two tasks.
    """
    calls = call(table_of([tasks_of(row)]))
    lines = []
    for at, figure in enumerate(FIGURES):
        values = [100 * float(each[0, at]) for each in (calls.mean, calls.low, calls.high)]
        known = np.isfinite(values[0])
        shown = f"{signed(values[0])} ({number(values[1])} to {number(values[2])})"
        lines.append([WORDS[figure], shown if known else "not known on every task"])
    return markdown_table(["figure", f"mean over {len(tasks_of(row))} tasks, 95 %"], lines)


def card_of(row: Mapping[str, Any]) -> str:
    """Return the author's card in Markdown: verdict, figures, what they cannot say, BibTeX.

    Args:
        row: A row of version 2.
    """
    verdict = verdicts([row])[row["subject"]]
    kind = "a credit rule" if row["is_rule"] else "an arm, no rule: its family is its own"
    control = ", a control that does not read the text" if row["subject"] in CONTROLS else ""
    lines = [
        f"# {row['subject']} in {row['definition']}",
        f"**{verdict[:1].upper()}{verdict[1:]}.** {kind[:1].upper()}{kind[1:]}{control}; track "
        f"{row['track']}, seeds {', '.join(map(str, row['seeds']))}.",
    ]
    if row["open"]:
        lines.append(f"Not run yet, so that there is no verdict: {', '.join(row['open'])}.")
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
        "tasks alone is said in those words. A dash at equal KL: an update of some run crosses "
        "more than a nat, and nobody has seen the policies between.",
        "## Cite",
        f"```bibtex\n{bibtex(row)}\n```",
    ]
    return "\n\n".join(lines) + "\n"


def bibtex(row: Mapping[str, Any]) -> str:
    """Return a BibTeX entry with the version of the package and the hashes of definition and row.

    Args:
        row: A row of version 2.
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
    panels = figure.subplots(1, len(FIGURES), sharey=True)
    colors = {
        task: f"C{at}"
        for at, task in enumerate(dict.fromkeys(task for row in rows for task in tasks_of(row)))
    }
    for axis, name in zip(panels, FIGURES, strict=True):
        for at, row in enumerate(reversed(rows)):
            leads = {t: v[name] for t, v in tasks_of(row).items() if v[name] is not None}
            known = {task: 100 * mean(lead) for task, lead in leads.items()}
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
