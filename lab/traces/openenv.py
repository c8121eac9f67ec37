"""OpenEnv's training traces: the calls of an agent, each with its tokens and a mask over them."""

from collections.abc import Mapping
from typing import Any

from tokengym.bridges import join_calls
from tokengym.lab.traces.record import Record, number_of

NAME = "OpenEnv's training trace"


def read(row: Mapping[str, Any]) -> Record | None:
    """Return a row's record, None if it is of another format.

    The calls of one conversation are one record: each prompt begins with the tokens before it.
    """
    turns = row.get("turns")
    if not isinstance(turns, list) or not turns:
        return None
    if not all(isinstance(turn, dict) and "completion_token_ids" in turn for turn in turns):
        return None
    said, answers = join_calls(
        (turn["prompt_token_ids"], turn["completion_token_ids"]) for turn in turns
    )
    log_probs = [0.0] * len(said.response_ids)
    for turn, place in zip(turns, answers, strict=True):
        mask, size = turn["loss_mask"][len(turn["prompt_token_ids"]) :], place.stop - place.start
        said.written[place] = [int(own) for own in mask]
        log_probs[place] = [float(one) for one in turn["per_token_logps"]][-size:] if size else []
    return Record(
        **said._asdict(),
        log_probs=log_probs,
        score=number_of(row.get("reward", row.get("score"))),
    )
