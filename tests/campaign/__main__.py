"""Run parts of the reliability campaign and print tried, survived and lost.

python -m tests.campaign fuzz=1000 kills=5 --seed 3
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from tests.campaign.damaged import damaged
from tests.campaign.disk import full_disk
from tests.campaign.foreign import foreign
from tests.campaign.fuzz import fuzz
from tests.campaign.garbled import garbled
from tests.campaign.hostile import pages, terminal
from tests.campaign.kills import kills
from tests.campaign.nulls import nulls
from tests.campaign.outcome import Outcome
from tests.campaign.pairs import pairs
from tests.campaign.requests import requests
from tests.campaign.scorers import scorers
from tests.campaign.soak import soak
from tests.campaign.ways import ways

PARTS: dict[str, tuple[Callable[[int, int], Outcome], str]] = {
    "fuzz": (fuzz, "random environments over five kinds of tokenizer, contracts at every step"),
    "scorers": (scorers, "scorers that raise or return no score: one line, episodes kept"),
    "nulls": (nulls, "20,000 reports of equal rewards each: false headlines at most 6 %"),
    "garbled": (garbled, "damaged files of agents, comparisons and pairs: one line, or right"),
    "foreign": (foreign, "hostile folders of agents and runs: none of their code runs, one line"),
    "damaged": (damaged, "damaged files of stopped runs: one line, or resumed as if whole"),
    "pages": (pages, "hostile texts in HTML, Markdown and CSV: no script, no raw control"),
    "terminal": (
        terminal,
        "hostile texts on the terminal: no raw escape, nothing reordered",
    ),
    "requests": (requests, "hostile requests to explore: refused, nothing runs, it still answers"),
    "soak": (soak, "environments played and agents updated on and on: memory is flat"),
    "disk": (full_disk, "too little space, then enough: one line, resumed, the same numbers"),
    "kills": (kills, "commands killed up to three times, resumed, equal to an uninterrupted one"),
    "ways": (ways, "one comparison by other jobs, checkpoints and hash seeds: the same numbers"),
    "pairs": (pairs, "two processes on one folder: one refused, the other's numbers right"),
}


def table(outcomes: dict[str, Outcome]) -> str:
    """Return the outcomes as a Markdown table, with the line that repeats each lost case."""
    lines = ["| part | cases | tried | survived | lost |", "|---|---|---:|---:|---:|"]
    for part, it in outcomes.items():
        lines.append(f"| {part} | {PARTS[part][1]} | {it.tried} | {it.survived} | {len(it.lost)} |")
    lost = [f"- {line}" for outcome in outcomes.values() for line in outcome.lost]
    return "\n".join([*lines, *(["", "Lost:", "", *lost] if lost else [])])


def main() -> None:
    """Run the parts in the order given; the exit status is 1 if a case was lost."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaign", description=__doc__)
    parser.add_argument("parts", nargs="+", metavar="PART=COUNT", help=", ".join(PARTS))
    parser.add_argument("--seed", type=int, default=0, help="seed of each part's first case")
    parser.add_argument("--out", type=Path, help="page to write the table to")
    chosen = parser.parse_args()
    counts = dict(part.partition("=")[::2] for part in chosen.parts)
    for part, count in counts.items():
        if part not in PARTS or not count.isdigit():
            parser.error(f"{part}={count}: name a part of {', '.join(PARTS)}, and a count")
    found = {name: PARTS[name][0](int(count), chosen.seed) for name, count in counts.items()}
    print(table(found))
    if chosen.out:
        command = f"python -m tests.campaign {' '.join(chosen.parts)} --seed {chosen.seed}"
        head = "# Reliability campaign\n\nThe last run, written by the command:"
        chosen.out.write_text(f"{head}\n\n    {command}\n\n{table(found)}\n", encoding="utf-8")
    sys.exit(any(outcome.lost for outcome in found.values()))


if __name__ == "__main__":
    main()
