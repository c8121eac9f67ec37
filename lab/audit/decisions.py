"""Small decisions whose policy gradient is known, as batches that an advantage estimator reads.

A decision is a tree: every response that a prompt allows, token by token, with the reward of each
token. The policy has one logit per state and token, so that its gradient follows from the tree.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from tokengym.agents import losses
from tokengym.lab.gradients.exact import (
    Responses,
    response_probs,
    values_to_come,
    weighted_gradient,
)

REPLY = ">"
"""Mark before a token that the partner wrote, not the policy."""
NEAR_BEST = 0.9
"""Probability of the best token at each decision of a policy that has nearly learned."""

PAYS = ("tokens", "outcome", "advantages")
"""What token rewards may be: each token's own; the response's sum at its last token, as a trainer
with one score a response has; or each token's exact advantage, the prompt's value at the first."""

Path = tuple[tuple[str, float], ...]
"""One response: its tokens, each with its reward. Tokens of replies begin with `REPLY`."""
Prefix = tuple[int, tuple[str, ...]]
"""A state: number of the prompt, and the tokens so far."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What an estimator may read of some responses; 0 past a response's end."""

    token_rewards: Tensor
    """(batch, time), reward units."""
    response_mask: Tensor
    """(batch, time) bool, True at tokens that the policy wrote."""
    values: Tensor
    """(batch, time), the exact expected reward to go before each token, reward units."""
    turn_ids: Tensor
    """(batch, time) int64, the number of each token's turn from 0; -1 where the mask is False."""
    response_ids: Tensor
    """(batch, time) int64, the tokens, those of replies included."""
    scores: Tensor
    """(batch,), sums of the token rewards."""
    group_ids: Tensor
    """(batch,) int64, the number of each row's prompt; rows of a prompt are neighbours."""
    log_probs: Tensor
    """(batch, time), nats, of the tokens under the policy."""
    sum_pi_squared: Tensor
    """(batch, time), the sum of the policy's squared probabilities where each token was chosen."""
    greedy_scores: Tensor
    """(batch,), the score of the policy's likeliest response to each row's prompt."""
    gamma: float
    """Discount per token."""

    def take(self, rows: Tensor) -> "Batch":
        """Return some rows, in memory of their own."""
        tensors = {
            name: value[rows] for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return Batch(**tensors, gamma=self.gamma)


@dataclass(frozen=True, kw_only=True)
class Decisions:
    """The responses to one or more prompts, and a policy that writes them."""

    responses: Responses
    """All of them, prompt after prompt."""
    probs: Tensor
    """(states, vocab) float64 of the policy."""
    rewards: Tensor
    """(responses, time) float64; the whole sum at the last token where the outcome is paid."""
    turn_ids: Tensor
    """(responses, time) int64; -1 where the mask is False."""
    ids: Tensor
    """(responses, time) int64, the tokens, those of replies included."""
    prompts: Tensor
    """(responses,) int64, the number of each one's prompt."""
    states: tuple[Prefix, ...]
    """What each state's row stands for."""
    vocabulary: tuple[str, ...]
    gamma: float
    pays: str = "tokens"
    """What the estimator is shown as token rewards: see `PAYS`."""

    @cached_property
    def paid(self) -> Tensor:
        """(responses, time) the token rewards that the estimator is shown."""
        mask = self.responses.mask
        if self.pays != "advantages":
            return self.rewards
        after = torch.zeros_like(self.values)  # of the next token that the policy writes
        following = torch.zeros(len(mask), dtype=self.values.dtype)
        for time in reversed(range(mask.shape[1])):
            after[:, time] = following
            following = torch.where(mask[:, time], self.values[:, time], following)
        advantages = self.rewards + self.gamma * after - self.values
        advantages[:, 0] += self.values[:, 0]
        return advantages.masked_fill(~mask, 0.0)

    @cached_property
    def chances(self) -> Tensor:
        """(responses,) the probability of each; those of a prompt sum to 1."""
        return response_probs(self.probs, self.responses)

    @cached_property
    def to_go(self) -> Tensor:
        """(responses, time) discounted reward to go."""
        return losses.rewards_to_go(self.rewards, self.responses.mask, gamma=self.gamma)

    @cached_property
    def values(self) -> Tensor:
        """(responses, time) exact expected reward to go before each token."""
        return values_to_come(self.probs, self.responses, self.to_go)

    @cached_property
    def gradient(self) -> Tensor:
        """(states, vocab) the true gradient, reward units per unit of logit.

        G(s, a) = d(s) pi(a | s) (Q(s, a) - V(s)),  d(s) the probability of coming through s
        """
        return weighted_gradient(self.probs, self.responses, self.chances[:, None] * self.to_go)

    @cached_property
    def ideal_noise(self) -> float:
        """Variance of one response's gradient under the rewards to go minus exact values.

        Reward units squared, summed over the states and the prompts.
        """
        advantages = (self.to_go - self.values) ** 2 * self.lengths
        return float((self.chances[:, None] * advantages).sum() - (self.gradient**2).sum())

    @cached_property
    def lengths(self) -> Tensor:
        """(responses, time) squared length of d log pi / d logits at each token; 0 off the mask.

        |e_a - pi|^2 = 1 - 2 pi_a + sum_b pi_b^2
        """
        mask, states = self.responses.mask, self.responses.states
        chosen = self.probs[states, self.responses.tokens]
        return (1.0 - 2.0 * chosen + (self.probs**2).sum(1)[states]).masked_fill(~mask, 0.0)

    @cached_property
    def _all(self) -> Batch:
        """All responses as an estimator reads them."""
        mask, states = self.responses.mask, self.responses.states
        chosen = self.probs[states, self.responses.tokens].clamp(min=1e-30)
        scores = self.rewards.sum(1)
        greedy = torch.zeros_like(scores)
        for prompt in self.prompts.unique():
            own = self.prompts == prompt
            greedy[own] = scores[own][self.chances[own].argmax()]
        return Batch(
            token_rewards=self.paid.float(),
            response_mask=mask,
            values=self.values.float(),
            turn_ids=self.turn_ids,
            response_ids=self.ids,
            scores=scores.float(),
            group_ids=self.prompts,
            log_probs=chosen.log().masked_fill(~mask, 0.0).float(),
            sum_pi_squared=(self.probs**2).sum(1)[states].masked_fill(~mask, 0.0).float(),
            greedy_scores=greedy.float(),
            gamma=self.gamma,
        )

    def batch(self, rows: Tensor) -> Batch:
        """Return some responses as an estimator reads them, in float32 and in memory of its own.

        Args:
            rows: (batch,) their numbers.
        """
        return self._all.take(rows)

    def near_best(self) -> "Decisions":
        """Return the same responses under a policy that has nearly learned the best ones.

        Where two tokens are equally good, their probabilities stay.
        """
        probs = self.probs.clone()
        optimal = self._best_values()
        for row, worth in optimal.items():
            best = max(worth.values())
            good = [token for token, value in worth.items() if value > best - 1e-9]
            if len(good) == len(worth):
                continue
            for token in worth:
                share, count = (
                    (NEAR_BEST, len(good))
                    if token in good
                    else (1.0 - NEAR_BEST, len(worth) - len(good))
                )
                probs[row, token] = share / count
        return replace(self, probs=probs)

    def _best_values(self) -> dict[int, dict[int, float]]:
        """Return Q* of every state's tokens, played on at best."""
        worth: dict[int, dict[int, float]] = {}
        mask, states = self.responses.mask.tolist(), self.responses.states.tolist()
        rewards, tokens = self.rewards.tolist(), self.responses.tokens.tolist()
        for time in reversed(range(len(mask[0]))):
            for row in range(len(mask)):
                if not mask[row][time]:
                    continue
                after = next((t for t in range(time + 1, len(mask[0])) if mask[row][t]), None)
                follows = 0.0 if after is None else max(worth[states[row][after]].values())
                worth.setdefault(states[row][time], {})[tokens[row][time]] = (
                    rewards[row][time] + self.gamma * follows
                )
        return worth


def decisions(
    prompts: Sequence[Sequence[Path]],
    chances: Mapping[str, float],
    *,
    gamma: float = 1.0,
    pays: str = "tokens",
) -> Decisions:
    """Return trees as tensors.

    Args:
        prompts: Per prompt, every response that it allows.
        chances: Probability of a token where there is a choice; the tokens not named share the
            rest evenly.
        gamma: Discount per token.
        pays: What the estimator is shown as token rewards: see `PAYS`.
    """
    paths = [(number, path) for number, some in enumerate(prompts) for path in some]
    horizon = max(len(path) for _, path in paths)
    vocabulary = ("", *dict.fromkeys(token for _, path in paths for token, _ in path))
    known: dict[Prefix, int] = {}
    shape = (len(paths), horizon)
    states, ids = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    turn_ids = torch.full(shape, -1)
    rewards = torch.zeros(shape, dtype=torch.float64)
    legal: dict[int, dict[str, None]] = {}
    for row, (number, path) in enumerate(paths):
        turn = 0
        for time, (token, reward) in enumerate(path):
            ids[row, time] = vocabulary.index(token)
            if token.startswith(REPLY):
                turn += not path[time - 1][0].startswith(REPLY)
                continue
            prefix = (number, tuple(before for before, _ in path[:time]))
            states[row, time] = known.setdefault(prefix, len(known))
            legal.setdefault(known[prefix], {})[token] = None
            turn_ids[row, time] = turn
            rewards[row, time] = reward
    mask = turn_ids >= 0
    if pays == "outcome":
        last = (mask * torch.arange(1, horizon + 1)).argmax(1, keepdim=True)
        rewards = torch.zeros_like(rewards).scatter(1, last, rewards.sum(1, keepdim=True))
    probs = torch.zeros(len(known), len(vocabulary), dtype=torch.float64)
    for state, tokens in legal.items():
        named = {token: chances[token] for token in tokens if token in chances}
        others = len(tokens) - len(named)
        rest = (1.0 - sum(named.values())) / others if others else 0.0
        for token in tokens:
            probs[state, vocabulary.index(token)] = named.get(token, rest)
    return Decisions(
        responses=Responses(
            ids=tuple(tuple(row) for row in ids.tolist()),
            states=states,
            tokens=ids.masked_fill(~mask, 0),
            mask=mask,
        ),
        probs=probs,
        rewards=rewards,
        turn_ids=turn_ids,
        ids=ids,
        prompts=torch.tensor([number for number, _ in paths]),
        states=tuple(known),
        vocabulary=vocabulary,
        gamma=gamma,
        pays=pays,
    )
