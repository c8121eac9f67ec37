"""OpenEnv's training traces: the calls of an agent, each with its tokens and a mask over them."""

from collections.abc import Mapping
from typing import Any

from tokengym.lab.traces.record import Record, number_of

NAME = "OpenEnv's training trace"


def read(row: Mapping[str, Any]) -> Record | None:
    """Return a row's record, None if it is of another format.

    The calls of one conversation are one record: each prompt begins with the tokens before it.

    Raises:
        ValueError: if a call does not continue the one before it.
    """
    turns = row.get("turns")
    if not isinstance(turns, list) or not turns:
        return None
    if not all(isinstance(turn, dict) and "completion_token_ids" in turn for turn in turns):
        return None
    prompt = list(turns[0]["prompt_token_ids"])
    ids, written, log_probs = list(prompt), [0] * len(prompt), [0.0] * len(prompt)
    for place, turn in enumerate(turns):
        said, answer = list(turn["prompt_token_ids"]), list(turn["completion_token_ids"])
        if said[: len(ids)] != ids:
            raise ValueError(f"call {place} does not begin with the tokens of the calls before it")
        added = len(said) - len(ids)
        mask = list(turn["loss_mask"])[len(said) :]
        logps = list(turn["per_token_logps"])[-len(answer) :] if answer else []
        ids = [*said, *answer]
        written += [0] * added + [int(own) for own in mask]
        log_probs += [0.0] * added + [float(one) for one in logps]
    begins = len(prompt)
    return Record(
        prompt_ids=prompt,
        response_ids=ids[begins:],
        written=written[begins:],
        log_probs=log_probs[begins:],
        score=number_of(row.get("reward", row.get("score"))),
    )
