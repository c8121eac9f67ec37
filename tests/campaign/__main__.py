"""Run parts of the campaign and print tried, survived and lost."""

import argparse
import sys
import time
from collections.abc import Callable

from tests.campaign.fuzz import fuzz
from tests.campaign.kills import kills
from tests.campaign.outcome import Outcome
from tests.campaign.pairs import pairs

PARTS: dict[str, Callable[[int, int], Outcome]] = {"fuzz": fuzz, "kills": kills, "pairs": pairs}


def main() -> None:
    """Run the named part; the exit status is 1 if a case was lost."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaign", description=__doc__)
    parser.add_argument("part", choices=sorted(PARTS))
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    began = time.monotonic()
    outcome = PARTS[chosen.part](chosen.count, chosen.seed)
    print("part  tried  survived  lost  seconds")
    print(
        f"{chosen.part}  {outcome.tried}  {outcome.survived}  {len(outcome.lost)}"
        f"  {time.monotonic() - began:.0f}"
    )
    sys.exit(bool(outcome.lost))


if __name__ == "__main__":
    main()
