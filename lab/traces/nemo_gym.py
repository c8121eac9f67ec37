"""NeMo Gym's rollouts: a request, the response of a policy as a list of items, and its reward."""

from collections.abc import Mapping
from typing import Any

from tokengym.bridges import join_calls
from tokengym.lab.traces.record import Record, number_of, rest_of, text_of

NAME = "NeMo Gym's rollouts"
TRUTHS = ("expected_answer", "ground_truth", "answer")
"""Columns in which its environments keep the right answer, the most usual first."""


def read(row: Mapping[str, Any]) -> Record | None:
    """Return a row's record, None if it is of another format.

    A policy server that returns token ids (``return_token_id_information``) leaves them with the
    items that it wrote, and calls of one rollout are one record. Without them the response is what
    the assistant said, a line for each message; its thoughts, and calls of tools with their
    results, are left out.
    """
    request, response = row.get("responses_create_params"), row.get("response")
    if not isinstance(request, dict) or not isinstance(response, dict):
        return None
    items = [item for item in response.get("output") or () if isinstance(item, dict)]
    extra = row.get("verifier_metadata")
    columns = {**(rest_of(extra) if isinstance(extra, dict) else {}), **rest_of(row, "reward")}
    truth = next((columns[name] for name in TRUTHS if name in columns), None)
    shared: dict[str, Any] = {
        "score": number_of(row.get("reward")),
        "reference": None if truth is None else str(truth),
        "columns": columns,
    }
    calls = [item for item in items if item.get("generation_token_ids")]
    if not calls:
        said = [item for item in items if item.get("role") == "assistant"]
        return Record(prompt=text_of(request.get("input")), response=text_of(said), **shared)
    pairs = [(item["prompt_token_ids"], item["generation_token_ids"]) for item in calls]
    told, answers = join_calls(pairs)
    log_probs = [0.0] * len(told.response_ids)
    for item, place in zip(calls, answers, strict=True):
        log_probs[place] = [float(one) for one in item["generation_log_probs"]]
    return Record(**told._asdict(), log_probs=log_probs, **shared)
