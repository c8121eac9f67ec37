"""verl's ``<step>.jsonl``, which ``trainer.rollout_data_dir`` and ``validation_data_dir`` fill."""

from collections.abc import Mapping
from typing import Any

from tokengym.lab.traces.record import Record, number_of, rest_of, text_of

NAME = "verl's dump of generations"


def read(row: Mapping[str, Any]) -> Record | None:
    """Return a row's record, None if it is of another format."""
    if not {"input", "output", "score"} <= row.keys():
        return None
    return Record(
        prompt=text_of(row["input"]),
        response=text_of(row["output"]),
        score=number_of(row["score"]),
        reference=None if row.get("gts") is None else str(row["gts"]),
        columns=rest_of(row, "input", "output", "score"),
    )
