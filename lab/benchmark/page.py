"""The benchmark's rows as a table by rank, and ranks as a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokengym.evaluation.report import number, signed
from tokengym.evaluation.statistics import student_interval
from tokengym.lab.benchmark.definition import BASELINE, CONTROLS, V1, Definition, Track
from tokengym.lab.benchmark.figures import family, is_level, numbers_of, ranks
from tokengym.lab.tables import CLEAR, NONE, markdown_table, mean

NO_ROWS = "No rule has been measured by this version yet."
HEAD = (
    "rank",
    "95 % of the rank",
    "rule",
    "lead, % of the way",
    "95 % interval",
    "p after Holm",
    "verdict",
    "clear over the controls",
    "gold clearly behind in",
    "CPU seconds / baseline's",
    "row",
)


def board(rows: Sequence[Mapping[str, Any]], track: Track, definition: Definition = V1) -> str:
    """Return a track's table, best first; rows on hidden seeds are not ranked with the others.

    Args:
        rows: Rows of the version.
        track: Which of them are shown.
        definition: The version.
    """
    here = [row for row in rows if row["track"] == track and not row["hidden"]]
    if not here:
        return NO_ROWS
    placed = ranks({row["subject"]: numbers_of(row) for row in here})
    tests = family(here)
    lines = []
    for row in sorted(here, key=lambda row: placed[row["subject"]][0]):
        subject = row["subject"]
        rank, best, worst = placed[subject]
        test = tests[subject, BASELINE]
        clear = test["p"] < CLEAR
        verdict = "ahead" if test["difference"] > 0 else "behind"
        level = "level" if is_level(row, definition.margin) else "not clear"
        control = ", a control" if subject in CONTROLS else ""
        lines.append(
            [
                str(rank),
                f"{best} to {worst}",
                f"`{subject}`{control}",
                signed(100 * test["difference"]),
                f"{number(100 * test['low'])} to {number(100 * test['high'])}",
                number(test["p"]),
                verdict if clear else level,
                _over_controls(subject, tests),
                _behind(row),
                number(mean([each["times_baseline"] for each in row["settings"].values()])),
                f"[`{row['hash'][:8]}`]({file_of(row)})",
            ]
        )
    return markdown_table(HEAD, lines)


def file_of(row: Mapping[str, Any]) -> str:
    """Return where a row is published, beside the page."""
    from tokengym.evaluation.runs import slug

    return f"v1/{slug(row['subject'])}-{row['track']}{'-hidden' * row['hidden']}.json"


def _over_controls(subject: str, tests: Mapping[tuple[str, str], Mapping[str, float]]) -> str:
    """Return of how many controls a rule is clearly ahead; a dash without all of them."""
    against = [tests[subject, control] for control in CONTROLS if (subject, control) in tests]
    if len(against) < len(CONTROLS):
        return NONE
    ahead = sum(test["p"] < CLEAR and test["difference"] > 0 for test in against)
    return f"{ahead} of {len(CONTROLS)}"


def _behind(row: Mapping[str, Any]) -> str:
    """Return the settings in which gold at the end is clearly below the baseline's, uncorrected."""
    behind = [
        name
        for name, each in row["settings"].items()
        if float(student_interval(each["gold_lead"])[2]) < 0
    ]
    return ", ".join(behind) or "none"


def draw_ranks(file: Path, placed: Mapping[str, tuple[int, int, int]], title: str) -> None:
    """Draw ranks with their 95 % intervals, best first.

    Args:
        file: Picture to write.
        placed: Name -> rank and the ends of its interval, as `ranks` returns them.
        title: Of the picture.
    """
    from matplotlib.figure import Figure

    names = sorted(placed, key=lambda name: placed[name][0], reverse=True)
    figure = Figure(figsize=(7, 0.9 + 0.32 * len(names)), layout="constrained")
    axes = figure.subplots()
    for at, name in enumerate(names):
        rank, low, high = placed[name]
        color = "#888888" if name in (BASELINE, *CONTROLS) else "#0072b2"
        axes.plot([low, high], [at, at], color=color, linewidth=5, alpha=0.35)
        axes.plot(rank, at, "o", color=color, markersize=7)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlim(0.5, len(names) + 0.5)
    axes.set_xticks(range(1, len(names) + 1))
    axes.set_xlabel("rank, 1 is the best; bars: 95 % interval over draws of the seeds")
    axes.set_title(title, fontsize=10)
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(file, dpi=150, metadata={"Software": None})
