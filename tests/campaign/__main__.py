"""Run parts of the reliability campaign and print tried, survived and lost.

python -m tests.campaign fuzz=1000 kills=5 --seed 3 --out docs/reliability.md

A page that has the table keeps the rows of other parts, and its text.
"""

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path

from tests.campaign.answers import answers
from tests.campaign.bridged import bridged
from tests.campaign.damaged import damaged
from tests.campaign.disk import full_disk
from tests.campaign.foreign import bundles, foreign, words
from tests.campaign.fuzz import fuzz
from tests.campaign.garbled import garbled
from tests.campaign.hostile import pages, terminal
from tests.campaign.kills import kills
from tests.campaign.models import models
from tests.campaign.nulls import nulls
from tests.campaign.outcome import Outcome
from tests.campaign.packed import packed
from tests.campaign.pairs import pairs
from tests.campaign.scorers import scorers
from tests.campaign.soak import soak
from tests.campaign.twice import twice
from tests.campaign.ways import ways
from tests.campaign.writes import writes

PARTS: dict[str, tuple[Callable[[int, int], Outcome], str]] = {
    "fuzz": (fuzz, "random environments over five kinds of tokenizer, contracts at every step"),
    "scorers": (scorers, "scorers that raise or return no score: one line, episodes kept"),
    "nulls": (nulls, "20,000 reports of equal rewards each, with KL: false headlines at most 6 %"),
    "garbled": (garbled, "damaged files of agents, comparisons and pairs: one line, or right"),
    "foreign": (foreign, "hostile folders of agents and runs: none of their code runs, one line"),
    "packed": (packed, "hostile and broken files of agents: one line, nothing else is written"),
    "words": (words, "stored words that name code, numbers without a bound: refused in one line"),
    "bundles": (bundles, "bundles whose settings name code, or are of another kind: one line"),
    "models": (models, "GGUF files cut short, headers of up to 2^64: one line, nothing is kept"),
    "answers": (answers, "answers and data sets of reasoning-gym that are code: none is run"),
    "bridged": (bridged, "batches of other trainers: NaN, masks of other shapes: one line"),
    "damaged": (damaged, "damaged files of stopped runs: one line, or resumed as if whole"),
    "pages": (pages, "hostile texts in HTML, Markdown and CSV: no script, no raw control"),
    "terminal": (terminal, "hostile texts on the terminal: no raw escape, nothing reordered"),
    "soak": (soak, "environments played and agents updated on and on: memory is flat"),
    "disk": (full_disk, "too little space, then enough: one line, resumed, the same numbers"),
    "writes": (writes, "every write of a command failing once: one line, resumed, equal files"),
    "kills": (kills, "commands killed up to three times, resumed, equal to an uninterrupted one"),
    "ways": (ways, "one comparison by other jobs, checkpoints and hash seeds: the same numbers"),
    "twice": (twice, "one command twice, without variables, alone and under load: the same bytes"),
    "pairs": (pairs, "two processes on one folder: one refused, the other's numbers right"),
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
