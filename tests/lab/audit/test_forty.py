"""Forty estimators: the audit says what ordered batches of other decisions and autograd find."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.lab.audit import forty
from tokengym.lab.audit import check_estimator

Response = tuple[tuple[str, float], ...]
"""Tokens, each with its reward."""
TASKS: dict[str, tuple[tuple[Response, ...], dict[str, float]]] = {
    "what follows": (
        ((("a", 0.5), ("c", -0.75)), (("a", 0.5), ("d", 0.25)), (("b", 0.0), ("e", -0.5))),
        {"a": 0.5, "c": 0.5},
    ),
    "length": (((("s", 0.75),), (("m", 0.25), ("n", 0.25), ("o", 0.25))), {"s": 0.6}),
    "longer pays": (((("s", 0.7),), (("m", 0.5), ("n", 0.4))), {"s": 0.5}),
    "later": (((("p", 0.25), ("q", 0.0)), (("u", 0.0), ("v", 0.25))), {"p": 0.3}),
    "three": (((("x", 1.0),), (("y", 0.6),), (("z", 0.0),)), {"x": 0.2, "y": 0.5, "z": 0.3}),
    "a chance": (
        ((("k", 4.0),), (("t", 0.0), ("w", 12.0)), (("t", 0.0), ("l", 1.0))),
        {"k": 0.5, "w": 0.35},
    ),
    "a sum": (((("k", 3.0),), (("i", 0.8), ("j", 0.8), ("h", 0.8))), {"k": 0.5}),
}


def gradients(function: Callable[..., Any], task: str, size: int) -> tuple[Tensor, Tensor, float]:
    """Return expected and true gradient by ordered batches, and the length of a contribution."""
    responses, chances = TASKS[task]
    states: dict[tuple[str, ...], list[str]] = {}
    for response in responses:
        for t, (token, _) in enumerate(response):
            legal = states.setdefault(tuple(word for word, _ in response[:t]), [])
            legal += [] if token in legal else [token]
    logits, log_probs = [], {}
    for state, legal in states.items():
        rest = 1.0 - sum(chances.get(token, 0.0) for token in legal)
        unnamed = max(sum(token not in chances for token in legal), 1)
        own = [chances.get(token, rest / unnamed) for token in legal]
        logit = torch.tensor(own, dtype=torch.float64).log().requires_grad_()
        logits.append(logit)
        log_probs.update(
            {(state, token): row for token, row in zip(legal, logit.log_softmax(0), strict=True)}
        )
    time = max(map(len, responses))
    mask = torch.tensor([[t < len(r) for t in range(time)] for r in responses])
    rewards = torch.tensor([[x for _, x in r] + [0.0] * (time - len(r)) for r in responses])
    logs = [
        [log_probs[tuple(word for word, _ in r[:t]), token] for t, (token, _) in enumerate(r)]
        for r in responses
    ]
    probs = [math.exp(sum(log.item() for log in row)) for row in logs]
    values = torch.zeros(len(responses), time)
    for row, response in enumerate(responses):
        for t in range(len(response)):
            prefix = response[:t]
            through = [i for i, other in enumerate(responses) if other[:t] == prefix
                       and len(other) > t]  # fmt: skip
            whole = sum(probs[i] for i in through)
            values[row, t] = sum(probs[i] * float(rewards[i, t:].sum()) for i in through) / whole
    expected, lengths = torch.zeros(len(responses), time, dtype=torch.float64), 0.0
    known = function.__code__.co_varnames[: function.__code__.co_argcount]
    for members in itertools.product(range(len(responses)), repeat=size):
        rows = list(members)
        given = {
            "token_rewards": rewards[rows], "response_mask": mask[rows], "values": values[rows],
            "scores": rewards[rows].sum(1),
        }  # fmt: skip
        advantages = function(**{name: given[name].clone() for name in known})
        advantages = advantages if advantages.ndim == 2 else advantages[:, None].expand(size, time)
        chance = math.prod(probs[i] for i in rows) / size
        expected.index_add_(0, torch.tensor(rows), chance * advantages.double())
        lengths += chance * float((advantages * mask[rows]).pow(2).sum())
    true = torch.tensor(probs, dtype=torch.float64) * rewards.sum(1)
    found = []
    for weights in (expected, true[:, None].expand(len(responses), time)):
        loss = sum(
            (float(weights[i, t]) * log for i, row in enumerate(logs) for t, log in enumerate(row)),
            torch.zeros(()),
        )
        found.append(torch.cat(torch.autograd.grad(loss, logits, retain_graph=True)))
    return found[0], found[1], max(math.sqrt(lengths), 1e-3)


def error(function: Callable[..., Any], task: str, size: int) -> float:
    """Return what of the expected gradient is not along the true one, as a share of a push."""
    expected, true, push = gradients(function, task, size)
    along = float((expected * true).sum())
    if float(true.norm()) < 1e-6:
        return float(expected.norm()) / push
    if along <= 1e-9:
        return max(float((expected - true).norm()) / push, 0.1)
    return float((expected - along / float((true**2).sum()) * true).norm()) / push


def is_right(function: Callable[..., Any]) -> bool:
    """Return whether every error is 0, or falls as batches grow."""
    for task, (responses, _) in TASKS.items():
        sizes = (2, 3, 4, 5) if len(responses) == 3 else (2, 4, 6, 8)
        errors = [error(function, task, size) for size in sizes]
        if max(errors) > 2e-4 and not errors[-1] < 0.85 * max(errors):
            return False
    return True


@pytest.mark.parametrize("function", forty.RIGHT, ids=lambda each: each.__name__)
def test_a_right_one_holds(function: Callable[..., Any]) -> None:
    assert is_right(function)
    audit = check_estimator(function)
    assert audit.holds, audit
    assert audit.faults == ()


@pytest.mark.parametrize("function", forty.WRONG, ids=lambda each: each.__name__)
def test_a_wrong_one_fails_and_is_named_if_its_kind_is_known(function: Callable[..., Any]) -> None:
    assert not is_right(function)
    audit = check_estimator(function)
    assert not audit.holds
    kind = forty.KINDS.get(function)
    assert audit.faults == (() if kind is None else (kind,))


def test_there_are_forty() -> None:
    assert (len({*forty.RIGHT}), len({*forty.WRONG}), len(forty.KINDS)) == (20, 20, 10)
