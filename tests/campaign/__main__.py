"""Run parts of the reliability campaign and print tried, survived and lost.

python -m tests.campaign fuzz=1000 kills=5 --seed 3 --out docs/reliability.md

A page that has the table keeps the rows of other parts, and its text.
"""

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path

from tests.campaign.foreign import foreign
from tests.campaign.fuzz import fuzz
from tests.campaign.garbled import garbled
from tests.campaign.kills import kills
from tests.campaign.nulls import nulls
from tests.campaign.outcome import Outcome
from tests.campaign.writes import writes

PARTS: dict[str, tuple[Callable[[int, int], Outcome], str]] = {
    "fuzz": (fuzz, "random environments over five kinds of tokenizer, contracts at every step"),
    "nulls": (nulls, "20,000 reports of equal rewards each, with KL: false headlines at most 6 %"),
    "garbled": (garbled, "damaged files of agents, comparisons and pairs: one line, or right"),
    "foreign": (foreign, "hostile folders of agents and runs: none of their code runs, one line"),
    "writes": (writes, "every write of a command failing once: one line, resumed, equal files"),
    "kills": (kills, "commands killed up to three times, resumed, equal to an uninterrupted one"),
}


HEADER = ("| part | cases | tried | survived | lost | seeds |", "|---|---|---:|---:|---:|---|")


def row(part: str, outcome: Outcome, seed: int) -> str:
    """Return a part's row of the table."""
    figures = f"{outcome.tried} | {outcome.survived} | {len(outcome.lost)} | {seed}"
    return f"| {part} | {PARTS[part][1]} | {figures} |"


def table(outcomes: dict[str, Outcome], seed: int) -> str:
    """Return the outcomes as a Markdown table, with the line that repeats each lost case."""
    lines = [*HEADER, *(row(part, outcome, seed) for part, outcome in outcomes.items())]
    lost = [f"- {line}" for outcome in outcomes.values() for line in outcome.lost]
    return "\n".join([*lines, *(["", "Lost:", "", *lost] if lost else [])])


def updated(page: str, outcomes: dict[str, Outcome], seed: int) -> str:
    """Return a page whose table has the outcomes in place of the rows of those parts.

    Raises:
        ValueError: if it has no table of the campaign.
    """
    head = "\n".join(HEADER)
    before, found, rest = page.partition(head)
    if not found:
        raise ValueError("the page has no table of the campaign; write to another file")
    old, _, after = rest.lstrip("\n").partition("\n\n")
    rows = {re.split(r" *\| *", line)[1]: line for line in old.splitlines()}
    rows |= {part: row(part, outcome, seed) for part, outcome in outcomes.items()}
    ordered = sorted(rows, key=[*PARTS].index)
    return f"{before}{head}\n" + "\n".join(rows[part] for part in ordered) + f"\n\n{after}"


def main() -> None:
    """Run the parts in the order given; the exit status is 1 if a case was lost."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaign", description=__doc__)
    parser.add_argument("parts", nargs="+", metavar="PART=COUNT", help=", ".join(PARTS))
    parser.add_argument("--seed", type=int, default=0, help="seed of each part's first case")
    parser.add_argument("--out", type=Path, help="page whose table is brought up to date, or made")
    chosen = parser.parse_args()
    counts = dict(part.partition("=")[::2] for part in chosen.parts)
    for part, count in counts.items():
        if part not in PARTS or not count.isdigit():
            parser.error(f"{part}={count}: name a part of {', '.join(PARTS)}, and a count")
    found = {name: PARTS[name][0](int(count), chosen.seed) for name, count in counts.items()}
    print(table(found, chosen.seed))
    if chosen.out:
        page = f"# Reliability campaign\n\n{chr(10).join(HEADER)}\n\n"
        if chosen.out.exists():
            page = chosen.out.read_text(encoding="utf-8")
        chosen.out.write_text(updated(page, found, chosen.seed), encoding="utf-8")
    sys.exit(any(outcome.lost for outcome in found.values()))


if __name__ == "__main__":
    main()
