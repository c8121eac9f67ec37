"""The expected gradient of an estimator, summed over every batch that can be drawn."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement, product

import torch
from torch import Tensor

from tokengym.lab.audit.decisions import Batch, Decisions
from tokengym.lab.audit.signatures import Adapted, AuditError

GROUP_SIZES = (2, 4, 8, 16)
"""Responses to a prompt."""
BATCHES = 200
"""Most batches of one size that are enumerated; larger groups are left out."""


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """Expected gradient of one size of groups."""

    group_size: int
    gradient: Tensor
    """(states, vocab), a mean over the responses of each prompt."""
    push: Tensor
    """(states,) root mean square of one response's contribution: what a bias is held against."""
    variance: float
    """Of the gradient of one batch, summed over states, times the group size."""
    not_finite: float
    """Probability of a batch with an advantage that is no finite number; it counts as 0."""
    refused: float
    """Probability of a batch that the function refuses; it counts as 0."""
    refusal: str = ""
    """What it raised."""


def expectations(
    estimator: Adapted,
    decisions: Decisions,
    sizes: Sequence[int],
    *,
    prompt_sizes: Sequence[int] = (1,),
) -> list[Expectation]:
    """Return an estimator's expected gradient for groups of each size that can be enumerated.

    E(s, a) = sum over batches of P(batch) sum over prompts of
              1 / N sum_i sum_t A_it d log pi(y_it | s_it) / d logits(s, a)

    Args:
        estimator: The estimator.
        decisions: The responses and the policy.
        sizes: Group sizes.
        prompt_sizes: Rows of each prompt, in groups.
    """
    return [
        _expectation(estimator, decisions, size, prompt_sizes)
        for size in sizes
        if count_batches(decisions, size, prompt_sizes) <= BATCHES
    ]


def count_batches(decisions: Decisions, size: int, prompt_sizes: Sequence[int]) -> int:
    """Return the number of batches, the order of rows aside."""
    counts = decisions.prompts.bincount().tolist()
    return math.prod(
        math.comb(count + size * share - 1, size * share)
        for count, share in zip(counts, prompt_sizes, strict=True)
    )


def batches(
    decisions: Decisions, size: int, prompt_sizes: Sequence[int]
) -> Iterator[tuple[list[int], float]]:
    """Yield the responses of each batch, prompt after prompt, and its probability."""
    chances, prompts = decisions.chances.tolist(), decisions.prompts.tolist()
    each = []
    for prompt, share in enumerate(prompt_sizes):
        rows = [row for row, number in enumerate(prompts) if number == prompt]
        groups = []
        for members in combinations_with_replacement(rows, size * share):
            orders = math.factorial(len(members))
            for repeats in Counter(members).values():
                orders //= math.factorial(repeats)
            groups.append((members, orders * math.prod(chances[row] for row in members)))
        each.append(groups)
    for choice in product(*each):
        yield (
            [row for group, _ in choice for row in group],
            math.prod([chance for _, chance in choice]),
        )


def _expectation(
    estimator: Adapted, decisions: Decisions, size: int, prompt_sizes: Sequence[int]
) -> Expectation:
    each, chances, answers = [], [], []
    not_finite = refused = 0.0
    refusal = ""
    for members, chance in batches(decisions, size, prompt_sizes):
        batch = decisions.batch(torch.tensor(members))
        try:
            advantages = estimator.estimate(batch)
        except AuditError:
            raise
        except Exception as error:
            # Some trainers refuse a group from which nothing can be learned; any other is a fault.
            said = f"{type(error).__name__}: {error}"
            if not _has_equal_group(batch):
                raise AuditError(f"{estimator.name} raised {said}") from error
            refused, refusal = refused + chance, said
            continue
        if not bool(advantages.isfinite().all()):
            not_finite += chance
            continue
        each.append(members)
        chances.append(chance)
        answers.append(advantages)
    gradient, push, square = _moments(decisions, each, chances, answers, size, prompt_sizes)
    return Expectation(
        group_size=size,
        gradient=gradient,
        push=push,
        variance=max(square - float((gradient**2).sum()), 0.0) * size,
        not_finite=not_finite,
        refused=refused,
        refusal=refusal,
    )


def _has_equal_group(batch: Batch) -> bool:
    """Return whether all responses to some prompt score the same."""
    return any(
        bool((own := batch.scores[batch.group_ids == group]).max() - own.min() < 1e-6)
        for group in batch.group_ids.unique()
    )


def _moments(
    decisions: Decisions,
    members: Sequence[Sequence[int]],
    chances: Sequence[float],
    advantages: Sequence[Tensor],
    size: int,
    prompt_sizes: Sequence[int],
) -> tuple[Tensor, Tensor, float]:
    """Return the expected gradient, the push of `Expectation` and the expected squared length."""
    probs = decisions.probs
    if not members:
        return torch.zeros_like(probs), torch.zeros_like(probs[:, 0]), 0.0
    rows, weight = torch.tensor(members), torch.tensor(chances, dtype=probs.dtype)
    gains = torch.stack(list(advantages))  # (batches, rows, time)
    share = 1.0 / torch.tensor(prompt_sizes, dtype=probs.dtype)[decisions.prompts[rows]] / size
    states, tokens = decisions.responses.states[rows], decisions.responses.tokens[rows]
    cells = (states * probs.shape[1] + tokens).flatten(1)
    written = torch.zeros(len(rows), probs.numel(), dtype=probs.dtype)
    written.scatter_add_(1, cells, (gains * share[..., None]).flatten(1))
    written = written.view(-1, *probs.shape)
    own = written - probs * written.sum(2, keepdim=True)
    pushed = gains**2 * decisions.lengths[rows] * share[..., None]
    push = torch.zeros(len(rows), len(probs), dtype=probs.dtype)
    push.scatter_add_(1, states.flatten(1), pushed.flatten(1))
    square = float((weight * own.pow(2).sum((1, 2))).sum())
    return torch.einsum("b,bsv->sv", weight, own), (weight @ push).sqrt(), square
