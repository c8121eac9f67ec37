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
LEAST_P = 0.001
"""Smallest p-value that is shown as a number."""
LONGEST_NAME = 36
"""Characters of a name beside the picture of ranks."""
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
    """Return a track's table, best first; rows on hidden seeds are last, and have no rank.

    Args:
        rows: Rows of the version.
        track: Which of them are shown.
        definition: The version.
    """
    here = [row for row in rows if row["track"] == track]
    if not here:
        return NO_ROWS
    placed = placed_of(rows, track)
    tests = family([row for row in here if not row["hidden"]])
    lines = []
    for row in sorted(here, key=lambda row: _order(row, placed)):
        numbers = [100 * value for value in numbers_of(row)]
        middle, low, high, _ = (float(value) for value in student_interval(numbers))
        seconds = mean([each["times_baseline"] for each in row["settings"].values()])
        lines.append(
            [
                *_rank(row, placed),
                f"{title_of(row)}{', a control' * (row['subject'] in CONTROLS)}",
                signed(middle),
                f"{number(low)} to {number(high)}",
                *_tested(row, tests, definition),
                _behind(row),
                f"{number(seconds)}{', dear' * (seconds > definition.dear)}",
                f"[`{row['hash'][:8]}`]({file_of(row)})",
            ]
        )
    return markdown_table(HEAD, lines)


def placed_of(rows: Sequence[Mapping[str, Any]], track: Track) -> dict[str, tuple[int, int, int]]:
    """Return the ranks of a track's rules, of rows on the public seeds alone.

    Args:
        rows: Rows of the version.
        track: Which of them are ranked.
    """
    here = [row for row in rows if row["track"] == track and not row["hidden"]]
    return ranks({row["subject"]: numbers_of(row) for row in here})


def title_of(row: Mapping[str, Any]) -> str:
    """Return a rule's name in a table, and whether its row is on hidden seeds."""
    return f"`{row['subject']}`{', hidden seeds' * row['hidden']}"


def _order(
    row: Mapping[str, Any], placed: Mapping[str, tuple[int, int, int]]
) -> tuple[bool, float]:
    """Return what rows are sorted by: rank, and after the ranked those on hidden seeds."""
    return row["hidden"], -mean(numbers_of(row)) if row["hidden"] else placed[row["subject"]][0]


def _rank(row: Mapping[str, Any], placed: Mapping[str, tuple[int, int, int]]) -> tuple[str, str]:
    """Return a row's rank and its interval; dashes on hidden seeds."""
    if row["hidden"]:
        return NONE, NONE
    rank, best, worst = placed[row["subject"]]
    return str(rank), f"{best} to {worst}"


def _tested(
    row: Mapping[str, Any],
    tests: Mapping[tuple[str, str], Mapping[str, float]],
    definition: Definition,
) -> tuple[str, str, str]:
    """Return a row's p-value, its verdict and the controls it beats; dashes on hidden seeds."""
    if row["hidden"]:
        return NONE, NONE, NONE
    test = tests[row["subject"], BASELINE]
    if test["p"] < CLEAR:
        side = "ahead" if test["difference"] > 0 else "behind"
        verdict = f"{side} on these tasks"  # the test is of seeds
    else:
        verdict = "level" if is_level(row, definition.margin) else "not clear"
    p_value = number(test["p"]) if test["p"] >= LEAST_P else f"< {LEAST_P}"
    return p_value, verdict, _over_controls(row["subject"], tests)


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

    names = sorted(placed, key=lambda name: placed[name][0])[::-1]  # ties as in the table
    figure = Figure(figsize=(7, 0.9 + 0.32 * len(names)), layout="constrained")
    axes = figure.subplots()
    for at, name in enumerate(names):
        rank, low, high = placed[name]
        color = "#888888" if name in (BASELINE, *CONTROLS) else "#0072b2"
        axes.plot([low, high], [at, at], color=color, linewidth=5, alpha=0.35)
        axes.plot(rank, at, "o", color=color, markersize=7)
    axes.set_yticks(range(len(names)), [_shortened(name) for name in names])
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_xlim(0.5, len(names) + 0.5)
    axes.set_xticks(range(1, len(names) + 1))
    axes.set_xlabel("rank, and its 95 % interval over draws of the seeds")
    axes.set_title(title, fontsize=10)
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(file, dpi=150, metadata={"Software": None})


def _shortened(name: str) -> str:
    """Return a name that leaves room for the picture."""
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}\u2026"
