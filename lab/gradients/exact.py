"""Expected policy gradients of tabular softmax policies, by enumeration: tensors in, tensors out.

The policy has one logit per state and token, so d log pi(a | s) / d logits(s, .) is the indicator
of a minus pi(. | s). A gradient is linear in the weights that multiply d log pi of the tokens
written; everything here computes such weights and collects them by state and token.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tokengym.agents import losses
from tokengym.lab.estimators.turns import Turns

GROUPS = 200_000
"""Most groups that are enumerated; more are sampled."""
CHUNK = 8192
"""Groups held in memory at once."""

Advantages = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(token_rewards (batch, time), response_mask, scores (batch,)) -> (batch, time), where the batch
holds whole groups, one after another."""


@dataclass(frozen=True, kw_only=True)
class Responses:
    """Every response that a task allows."""

    ids: tuple[tuple[int, ...], ...]
    """Token ids of each."""
    states: Tensor
    """(responses, time) long, the row of the state in which each token is chosen; 0 past the
    end."""
    tokens: Tensor
    """(responses, time) long, the token; 0 past the end."""
    mask: Tensor
    """(responses, time) bool, True on a response's own tokens."""

    def __len__(self) -> int:
        return len(self.ids)


def response_probs(probs: Tensor, responses: Responses) -> Tensor:
    """Return the probability of each response.

    P(y) = product over t of pi(y_t | y_<t)

    Args:
        probs: (states, vocab) of the policy.
        responses: All responses.

    Returns:
        (responses,), summing to 1.
    """
    chosen = probs[responses.states, responses.tokens]
    return chosen.masked_fill(~responses.mask, 1.0).prod(1)


def weighted_gradient(probs: Tensor, responses: Responses, weights: Tensor) -> Tensor:
    """Return the sum over responses and tokens of weight times d log pi / d logits.

    G(s, a) = W(s, a) - pi(a | s) * sum_b W(s, b),  W(s, a) = the weights of a written in s

    Args:
        probs: (states, vocab) of the policy.
        responses: All responses.
        weights: (responses, time).

    Returns:
        (states, vocab).
    """
    written = torch.zeros_like(probs)
    mask = responses.mask
    written.index_put_(
        (responses.states[mask], responses.tokens[mask]), weights[mask], accumulate=True
    )
    return written - probs * written.sum(1, keepdim=True)


def values_to_come(probs: Tensor, responses: Responses, to_go: Tensor) -> Tensor:
    """Return the expected reward to go before each token: what a perfect critic knows.

    V(s) = sum over y through s of P(y) G(y, s) / sum over y through s of P(y)

    Args:
        probs: (states, vocab) of the policy.
        responses: All responses.
        to_go: (responses, time) reward to go from each token on.

    Returns:
        (responses, time); 0 past a response's end.
    """
    mask, states = responses.mask, responses.states
    weight = response_probs(probs, responses)[:, None].expand(mask.shape)
    total = torch.zeros(len(probs), dtype=probs.dtype)
    reached = total.index_add(0, states[mask], weight[mask])
    total = total.index_add(0, states[mask], (weight * to_go)[mask])
    return (total / reached.clamp(min=1e-300))[states].masked_fill(~mask, 0.0)


@dataclass(frozen=True, kw_only=True)
class GradientCheck:
    """An estimator's expected gradient beside the true one."""

    expected: Tensor
    """(states, vocab) expected gradient, score units per unit of logit."""
    true: Tensor
    """(states, vocab) gradient of the expected score."""
    covariance_trace: float
    """Trace of the covariance of one group's gradient, times the responses of a group: the noise
    of a response, score units squared."""
    standard_error: float
    """Standard error of ``expected``, divided by the length of ``true``; 0 if enumerated, NaN where
    ``true`` is 0."""

    @property
    def cosine(self) -> float:
        """Cosine of the angle between both; NaN if one is zero."""
        lengths = self.expected.norm() * self.true.norm()
        return float((self.expected * self.true).sum() / lengths) if lengths > 0 else math.nan

    @property
    def scale(self) -> float:
        """Length of ``expected`` along ``true``, in lengths of ``true``: 1 if unbiased."""
        square = float((self.true**2).sum())
        return float((self.expected * self.true).sum()) / square if square > 0 else math.nan

    @property
    def relative_error(self) -> float:
        """Length of the difference, divided by that of ``true``."""
        return relative(float((self.expected - self.true).norm()), self.true)

    @property
    def noise(self) -> float:
        """Responses that one update needs until noise and signal are equally long.

        tr Cov / (scale |true|)^2; infinite if the estimator does not climb the score.
        """
        signal = self.scale * float(self.true.norm())
        return self.covariance_trace / signal**2 if signal > 0 else math.inf


def every_response(
    states: Sequence[tuple[int, ...]], legal: Tensor, *, eos_id: int, horizon: int
) -> Responses:
    """Return every response that a task allows.

    Args:
        states: Responses so far, shorter ones first.
        legal: (states, vocab) bool, the tokens that are legal in each.
        eos_id: The token that ends a response.
        horizon: Longest response, tokens.
    """
    rows = {state: row for row, state in enumerate(states)}
    responses = [
        (*state, token)
        for state, allowed in zip(states, legal.tolist(), strict=True)
        for token, is_legal in enumerate(allowed)
        if is_legal and (token == eos_id or len(state) == horizon - 1)
    ]
    shape = (len(responses), horizon)
    where, tokens = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    mask = torch.zeros(shape, dtype=torch.bool)
    for number, ids in enumerate(responses):
        size = len(ids)
        where[number, :size] = torch.tensor([rows[ids[:t]] for t in range(size)])
        tokens[number, :size] = torch.tensor(ids)
        mask[number, :size] = True
    return Responses(ids=tuple(responses), states=where, tokens=tokens, mask=mask)


def true_gradient(probs: Tensor, responses: Responses, scores: Tensor) -> Tensor:
    """Return the gradient of the expected score.

    d/d logits of sum over y of P(y) R(y) = sum over y of P(y) R(y) sum over t of d log pi(y_t)

    Args:
        probs: (states, vocab) of the policy.
        responses: All responses.
        scores: (responses,), reward units.

    Returns:
        (states, vocab), reward units per unit of logit.
    """
    weights = (response_probs(probs, responses) * scores)[:, None].expand(responses.mask.shape)
    return weighted_gradient(probs, responses, weights)


def check_gradient(
    probs: Tensor,
    responses: Responses,
    token_rewards: Tensor,
    scores: Tensor,
    advantages: Advantages,
    *,
    weights: Tensor | None = None,
    group_size: int = 1,
    samples: int = 100_000,
    seed: int = 0,
) -> GradientCheck:
    """Return the expected gradient of an advantage estimator, and its noise.

    g = (1 / N) sum over i of sum over t of w_it A_it d log pi(y_it | y_i<t)

    The expectation is taken over groups of N independent responses: over every multiset of them
    where there are at most `GROUPS`, over ``samples`` drawn groups otherwise.

    Args:
        probs: (states, vocab) of the policy.
        responses: All responses.
        token_rewards: (responses, time), reward units.
        scores: (responses,), reward units: what the gradient should climb.
        advantages: The estimator.
        weights: (responses, time) w of the advantages; None is 1 everywhere.
        group_size: N; 1 for an estimator that takes each response by itself.
        samples: Groups drawn where there are too many.
        seed: Seed of the drawing.

    Returns:
        The expected gradient and the true one.
    """
    if token_rewards.shape != responses.mask.shape:
        raise ValueError(
            f"token_rewards must have shape {tuple(responses.mask.shape)}, got "
            f"{tuple(token_rewards.shape)}; the axes are (responses, time)"
        )
    weights = torch.ones_like(token_rewards) if weights is None else weights
    chances = response_probs(probs, responses)
    exact = math.comb(len(responses) + group_size - 1, group_size) <= GROUPS
    chunks = (
        _multisets(chances, group_size) if exact else _drawn(chances, group_size, samples, seed)
    )
    total, square = torch.zeros_like(probs), 0.0
    for members, weight in chunks:
        rows, mask = members.flatten(), responses.mask[members.flatten()]
        gains = advantages(token_rewards[rows], mask, scores[rows]) * weights[rows]
        gradients = group_gradients(probs, responses, members, gains.masked_fill(~mask, 0.0))
        total += torch.einsum("g,gsv->sv", weight, gradients)
        square += float((weight * gradients.pow(2).sum((1, 2))).sum())
    spread = max(square - float(total.pow(2).sum()), 0.0)
    true = true_gradient(probs, responses, scores)
    return GradientCheck(
        expected=total,
        true=true,
        covariance_trace=spread * group_size,
        standard_error=0.0 if exact else relative(math.sqrt(spread / samples), true),
    )


def relative(length: float, true: Tensor) -> float:
    """Return a length in lengths of the true gradient; NaN where that is 0."""
    whole = float(true.norm())
    return length / whole if whole > 0 else math.nan


def group_gradients(
    probs: Tensor, responses: Responses, members: Tensor, advantages: Tensor
) -> Tensor:
    """Return the gradient of each group, a mean over its responses.

    Args:
        probs: (states, vocab) of the policy.
        responses: All responses.
        members: (groups, N) rows of the responses.
        advantages: (groups * N, time), group after group; 0 past a response's end.

    Returns:
        (groups, states, vocab).
    """
    flat = members.flatten()
    cells = responses.states[flat] * probs.shape[1] + responses.tokens[flat]
    written = torch.zeros(len(members), probs.numel(), dtype=probs.dtype)
    written.scatter_add_(1, cells.view(len(members), -1), advantages.view(len(members), -1))
    written = written.view(-1, *probs.shape) / members.shape[1]
    return written - probs * written.sum(2, keepdim=True)


def _multisets(chances: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield every multiset of responses (groups, size) in chunks, with its probability."""
    every = torch.combinations(torch.arange(len(chances)), size, with_replacement=True)
    orders = torch.full((len(every),), float(math.factorial(size)), dtype=chances.dtype)
    repeats = torch.ones_like(orders)
    for column in range(1, size):  # size! / product of (multiplicity)!, run by run
        same = every[:, column] == every[:, column - 1]
        repeats = torch.where(same, repeats + 1, torch.ones_like(repeats))
        orders = orders / repeats
    weight = chances[every].prod(1) * orders
    yield from zip(every.split(CHUNK), weight.split(CHUNK), strict=True)


def _drawn(chances: Tensor, size: int, samples: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield drawn groups (groups, size) in chunks, each with the weight 1 / samples."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.multinomial(chances, samples * size, replacement=True, generator=generator)
    for members in drawn.view(samples, size).split(CHUNK):
        yield members, torch.full((len(members),), 1.0 / samples, dtype=chances.dtype)


def prime(token_rewards: Tensor, response_mask: Tensor, group_size: int) -> Tensor:
    """Return the advantages of PRIME, before whitening.

    r'_it = r_it N / (N - 1) - sum over j of mean(r_j) / (N - 1),  A_it = sum over s >= t of r'_is

    Args:
        token_rewards: (batch, time), reward units, group after group; 0 past the end.
        response_mask: (batch, time) bool.
        group_size: N, at least 2.

    Returns:
        (batch, time), reward units.

    Source: Cui et al. 2025, arXiv:2502.01456; training/verl/trainer/ppo/core_algos.py.
    """
    n = group_size
    means = token_rewards.sum(1) / response_mask.sum(1)
    shift = means.view(-1, n).sum(1).repeat_interleave(n) / (n - 1)
    return losses.rewards_to_go(token_rewards * n / (n - 1) - shift[:, None], response_mask)


def centred_steps(token_rewards: Tensor, response_mask: Tensor, group_size: int) -> Tensor:
    """Return the advantages of DeepSeekMath's process supervision, without the deviation.

    A_it = sum over s >= t of (r_is - mean of all token rewards of the group)

    Args:
        token_rewards: (batch, time), reward units, group after group; 0 past the end.
        response_mask: (batch, time) bool.
        group_size: N, at least 2.

    Returns:
        (batch, time), reward units.

    Source: Shao et al. 2024, arXiv:2402.03300, section 4.1.3.
    """
    total = token_rewards.sum(1).view(-1, group_size).sum(1)
    tokens = response_mask.sum(1).view(-1, group_size).sum(1)
    mean = (total / tokens).repeat_interleave(group_size)
    return losses.rewards_to_go(token_rewards - mean[:, None], response_mask)


def per_index_mean(token_rewards: Tensor, response_mask: Tensor, group_size: int) -> Tensor:
    """Return rewards to go of rewards that are centred index by index over the group.

    A_it = sum over s >= t of (r_is - mean over the rows alive at s of r_js)

    Args:
        token_rewards: (batch, time), reward units, group after group; 0 past the end.
        response_mask: (batch, time) bool.
        group_size: N, at least 2.

    Returns:
        (batch, time), reward units.

    Source: the construction that verl's issue 7244 warns of.
    """
    shape = (-1, group_size, token_rewards.shape[1])
    alive = response_mask.view(shape).sum(1).clamp(min=1)
    mean = token_rewards.view(shape).sum(1) / alive
    centred = token_rewards - mean.repeat_interleave(group_size, 0)
    return losses.rewards_to_go(centred, response_mask)


def turn_index_mean(
    token_rewards: Tensor, response_mask: Tensor, turn_ids: Tensor, group_size: int
) -> Tensor:
    """Return rewards to go of turns whose rewards are centred turn by turn over the group.

    A_k = sum over j >= k of (r_j - mean of r_j over the rows that have a turn j)

    As many means come off as the response has turns of its own. A policy that decides whether there
    is another turn is charged the mean of what such turns earn. Of a first turn that goes on with
    probability q, the expected gradient in large groups is

    q (1 - q) (Q(go on) - Q(stop) - E[rewards of the turns after it | there are any])

    Leave-one-out of the rewards to go has no such term.

    Args:
        token_rewards: (batch, time), reward units, group after group; 0 past the end.
        response_mask: (batch, time) bool, True at tokens that the policy wrote.
        turn_ids: (batch, time) int64, the number of each token's turn.
        group_size: N, at least 2.

    Returns:
        (batch, time), reward units, the same at every token of a turn.

    Source: the construction that verl's issue 7244 warns of, after Zeng et al. 2025,
        arXiv:2505.11821.
    """
    turns = Turns.of(token_rewards, turn_ids, response_mask)
    shape = (-1, group_size, turns.mask.shape[1])
    alive = turns.mask.view(shape).sum(1).clamp(min=1)
    mean = turns.rewards.view(shape).sum(1) / alive
    centred = turns.rewards - mean.repeat_interleave(group_size, 0)
    to_go = losses.rewards_to_go(centred, turns.mask)
    return turns.on_tokens(to_go)
