"""Plain rows: ``prompt`` and ``response``, and what is known besides by its usual name."""

from collections.abc import Mapping
from typing import Any

from tokengym.lab.traces.record import Record, number_of, rest_of, text_of

NAME = "plain JSON lines of prompt and response"


def read(row: Mapping[str, Any]) -> Record | None:
    """Return a row's record, None if it is of another format."""
    if "prompt" not in row or not {"response", "response_ids"} & row.keys():
        return None
    paid = row.get("token_rewards", row.get("rewards", row.get("advantages")))
    return Record(
        prompt=text_of(row.get("prompt")),
        response=text_of(row.get("response")),
        prompt_ids=row.get("prompt_ids"),
        response_ids=row.get("response_ids", row.get("token_ids")),
        written=row.get("mask", row.get("response_mask")),
        log_probs=row.get("log_probs", row.get("logprobs")),
        paid=paid,
        score=number_of(row.get("score", row.get("reward"))),
        reference=text_of(row.get("reference", row.get("answer"))),
        columns=rest_of(row, "prompt", "response", "score", "reward", "reference"),
    )
