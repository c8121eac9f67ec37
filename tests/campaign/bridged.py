"""Rows of other trainers that do not fit: one line, or the advantages of the rows that do."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.campaign.outcome import LostError, Outcome, try_cases
from tokengym.bridges.advantages import ESTIMATORS, token_advantages
from tokengym.bridges.registries import registered

Rows = dict[str, Any]
"""Arguments of an estimator: ``token_rewards``, ``response_mask`` and ``prompts``."""


def not_finite(rows: Rows, random: np.random.Generator) -> str:
    """Have the scorer pay NaN or an infinity, for a token of the response or for padding."""
    place = tuple(int(random.integers(size)) for size in rows["token_rewards"].shape)
    value = float(random.choice([np.nan, np.inf, -np.inf]))
    rows["token_rewards"][place] = value
    return f"{value} at {'a token' if rows['response_mask'][place] else 'padding'}"


def of_padding(rows: Rows, random: np.random.Generator) -> str:
    """Pay for padding, which nobody wrote."""
    rows["token_rewards"] += torch.where(rows["response_mask"], 0.0, float(random.normal()))
    return "padding is paid"


def other_shape(rows: Rows, random: np.random.Generator) -> str:
    """Give rewards or mask another shape; some of them broadcast."""
    name = str(random.choice(["token_rewards", "response_mask"]))
    value: Tensor = rows[name]
    shapes = (value[:-1], value[:, :-1], value[:, :1], value[:1], value[0], value[None])
    rows[name] = shapes[random.integers(len(shapes))]
    return f"{name} of shape {tuple(rows[name].shape)}"


def other_prompts(rows: Rows, random: np.random.Generator) -> str:
    """Name more or fewer prompts than there are rows."""
    prompts = rows["prompts"]
    rows["prompts"] = (prompts[:-1], [*prompts, prompts[0]], [])[random.integers(3)]
    return f"{len(rows['prompts'])} prompts for {len(prompts)} rows"


def as_numbers(rows: Rows, random: np.random.Generator) -> str:
    """Pass the mask as other trainers do: integers or floats."""
    kind = (torch.int64, torch.int32, torch.float32, torch.uint8)[random.integers(4)]
    rows["response_mask"] = rows["response_mask"].to(kind)
    return f"a mask of {kind}"


CHANGES: tuple[Callable[[Rows, np.random.Generator], str], ...] = (
    *(not_finite, not_finite, of_padding, other_shape, other_shape, other_prompts, as_numbers),
)
HARMLESS = ("padding", "a mask of")
"""Beginnings or ends of what changes nothing of the response."""


def one_batch(random: np.random.Generator) -> None:
    """Change one batch, and ask for its advantages as TRL, or verl and SkyRL, do."""
    batch, time = int(random.integers(2, 7)), int(random.integers(2, 9))
    lengths = torch.from_numpy(random.integers(1, time + 1, size=batch))
    mask = torch.arange(time) < lengths[:, None]
    rewards = torch.from_numpy(random.normal(size=(batch, time))).float() * mask
    prompts = [int(random.integers(2)) for _ in range(batch - 1)]
    rows: Rows = {
        "token_rewards": rewards.clone(),
        "response_mask": mask.clone(),
        # Two rows have one prompt: a batch in which none has a second response is refused.
        "prompts": [prompts[0], *prompts],
    }
    estimator = str(random.choice(ESTIMATORS))
    whole = token_advantages(rewards, mask, rows["prompts"], estimator)
    told = f"{estimator}: {CHANGES[random.integers(len(CHANGES))](rows, random)}"
    try:
        if random.integers(2):
            found = token_advantages(**rows, estimator=estimator)
        else:
            called = registered(estimator, "verl")
            found, _ = called(rows["token_rewards"], rows["response_mask"], rows["prompts"])
    except ValueError as error:
        if "\n" in str(error) or any(word in told for word in HARMLESS):
            raise LostError(f"{told}: {error}") from error
        return
    if not any(word in told for word in HARMLESS):
        raise LostError(f"{told}: accepted")
    if not torch.equal(found, whole):
        raise LostError(f"{told}: other advantages")


def bridged(count: int, seed: int) -> Outcome:
    """Try ``count`` batches of other trainers."""
    return try_cases("bridged", one_batch, count, seed)
