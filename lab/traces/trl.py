"""TRL's ``completions/completions_00010.parquet``, which its GRPO and RLOO trainers log."""

from collections.abc import Mapping
from typing import Any

from tokengym.lab.traces.record import Record, number_of, rest_of, text_of

NAME = "TRL's log of completions"
KNOWN = ("step", "prompt", "completion", "advantage")


def read(row: Mapping[str, Any]) -> Record | None:
    """Return a row's record, None if it is of another format.

    Its reward functions have a column each, of any name; the score is their sum, which is TRL's
    reward where all weigh 1.
    """
    if not {"prompt", "completion", "advantage"} <= row.keys():
        return None
    columns = (value for name, value in row.items() if name not in KNOWN)
    rewards = [one for one in columns if isinstance(one, float)]  # None: it said nothing of it
    return Record(
        prompt=text_of(row["prompt"]),
        response=text_of(row["completion"]),
        paid=number_of(row["advantage"]),
        score=number_of(rewards) if rewards else None,
        columns=rest_of(row, *KNOWN),
    )
