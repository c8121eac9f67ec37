"""SkyRL's ``<data source>.jsonl``, which ``trainer.dump_eval_results`` writes."""

from collections.abc import Mapping
from typing import Any

from tokengym.lab.traces.record import Record, number_of, text_of

NAME = "SkyRL's dump of an evaluation"


def read(row: Mapping[str, Any]) -> Record | None:
    """Return a row's record, None if it is of another format.

    A score is a number, or a list with a reward for each token.
    """
    if not {"input_prompt", "output_response", "score"} <= row.keys():
        return None
    truth = (row.get("env_extras") or {}).get("reward_model") or {}
    truth = truth.get("ground_truth") if isinstance(truth, dict) else None
    return Record(
        prompt=text_of(row["input_prompt"]),
        response=text_of(row["output_response"]),
        paid=row["score"] if isinstance(row["score"], list) else None,
        score=number_of(row["score"]),
        reference=None if truth is None else str(truth),
    )
