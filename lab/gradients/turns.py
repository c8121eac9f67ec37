"""Exact credit of conversations: every conversation of `TurnForks`, and what estimators make of it.

A table of logits is the policy. Its states are what decides how a conversation goes on: the turn,
the branch, the place in the turn and the turn's word. Values come by dynamic programming over
them, and are compared with sums over every conversation.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tokengym.agents import losses
from tokengym.agents.ppo import Estimator, PPOSettings, RoundInputs, find_advantage
from tokengym.envs import Episode, Turn
from tokengym.lab.gradients.exact import (
    GradientCheck,
    Responses,
    group_gradients,
    relative,
    response_probs,
    true_gradient,
    turn_index_mean,
    values_to_come,
)
from tokengym.lab.partners.turn_forks import EOS, LEFT, PROMPT, RIGHT, UM, VOCABULARY, TurnForks
from tokengym.rewards import Reward

OUTCOMES = ((LEFT, EOS), (LEFT, UM, EOS), (RIGHT, EOS), (RIGHT, UM, EOS))
"""Every turn that the action mask allows."""
CHUNK = 4096
"""Groups held in memory at once."""


TURN_INDEX = find_advantage(turn_index_mean)
"""The construction of verl's issue 7244, published and biased; no learner has it."""


class State(NamedTuple):
    """All that matters for how a conversation goes on."""

    turn: int
    """Number of the turn, from 0."""
    warm: bool | None
    """Branch, None before the first word."""
    place: int
    """Tokens of the turn so far."""
    word: int | None
    """First token of the turn."""


class Step(NamedTuple):
    """Continuations after a token."""

    reward: float
    """Score that the partner gives for the turn that the token ends, else 0."""
    to: int | None
    """Row of the next state; None if the conversation is over."""


@dataclass(frozen=True, kw_only=True)
class Talks:
    """Every conversation that a partner allows."""

    partner: TurnForks
    """The partner."""
    states: tuple[State, ...]
    """The states, earlier ones first."""
    legal: Tensor
    """(states, vocab) bool."""
    steps: dict[tuple[int, int], Step]
    """(row of a state, token) -> what follows."""
    responses: Responses
    """All conversations; the replies' tokens are not in the mask."""
    episodes: tuple[Episode, ...]
    """The same as episodes, unscored."""
    scores: Tensor
    """(responses,), the verdict and what the turns added."""

    @classmethod
    def make(cls, partner: TurnForks) -> "Talks":
        """Return every conversation with a partner, by asking it.

        Args:
            partner: The partner; 4 turns make 256 conversations, 8 make 65,536.
        """
        earning = TurnForks(partner.turns, partner.bonus, "turn", partner.leaves)
        rows: dict[State, int] = {}
        steps: dict[tuple[int, int], Step] = {}
        tried: list[_Talk] = [_Talk((), (), ())]
        finished: list[_Talk] = []
        while tried:
            longer: list[_Talk] = []
            for talk in tried:
                for outcome in OUTCOMES:
                    said = talk.after(partner, earning, outcome, rows, steps)
                    (finished if said.over else longer).append(said)
            tried = longer
        order = sorted(rows, key=lambda s: (s.turn, s.place, bool(s.warm), s.word or 0))
        places = {rows[state]: place for place, state in enumerate(order)}
        moved = {
            (places[row], token): Step(step.reward, None if step.to is None else places[step.to])
            for (row, token), step in steps.items()
        }
        legal = torch.zeros(len(order), len(VOCABULARY), dtype=torch.bool)
        for row, token in moved:
            legal[row, token] = True
        horizon = max(len(talk.ids) for talk in finished)
        shape = (len(finished), horizon)
        states, tokens = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
        mask = torch.zeros(shape, dtype=torch.bool)
        for number, talk in enumerate(finished):
            size = len(talk.ids)
            known = [places.get(row, 0) for row in talk.rows]
            states[number, :size] = torch.tensor(known)
            tokens[number, :size] = torch.tensor(talk.ids)
            mask[number, :size] = torch.tensor([row >= 0 for row in talk.rows])
        return cls(
            partner=partner,
            states=tuple(order),
            legal=legal,
            steps=moved,
            responses=Responses(
                ids=tuple(talk.ids for talk in finished), states=states, tokens=tokens, mask=mask
            ),
            episodes=tuple(talk.episode() for talk in finished),
            scores=torch.tensor([talk.score for talk in finished], dtype=torch.float64),
        )

    @cached_property
    def choices(self) -> list[dict[int, Step]]:
        """The step after each legal token, state by state."""
        each: list[dict[int, Step]] = [{} for _ in self.states]
        for (row, token), step in sorted(self.steps.items()):
            each[row][token] = step
        return each

    @cached_property
    def numbers(self) -> dict[tuple[int, ...], int]:
        """Tokens after the prompt -> number of the conversation."""
        return {ids: number for number, ids in enumerate(self.responses.ids)}

    @property
    def start(self) -> int:
        """Row of the state in which the first word is chosen."""
        return 0

    def probs(self, logits: Tensor) -> Tensor:
        """Return the policy (states, vocab) of a table of logits; 0 at illegal tokens."""
        return logits.masked_fill(~self.legal, -torch.inf).softmax(-1)

    def uniform(self) -> Tensor:
        """Return the policy that is uniform over the legal tokens."""
        return self.probs(torch.zeros(self.legal.shape, dtype=torch.float64))

    def values(self, probs: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return V (states,) and Q (states, vocab) of a policy, by dynamic programming.

        Q(s, a) = r(s, a) + V(s'),  V(s) = sum_a pi(a | s) Q(s, a), or the largest Q

        Args:
            probs: (states, vocab) of the policy; None is the best play.

        Returns:
            Both in reward units; Q is NaN where a token is illegal.
        """
        values = [0.0] * len(self.states)
        q_values = torch.full(self.legal.shape, torch.nan, dtype=torch.float64)
        chances = None if probs is None else probs.tolist()
        for row in reversed(range(len(self.states))):
            worth = {
                token: step.reward + (0.0 if step.to is None else values[step.to])
                for token, step in self.choices[row].items()
            }
            for token, value in worth.items():
                q_values[row, token] = value
            if chances is None:
                values[row] = max(worth.values())
            else:
                values[row] = sum(chances[row][token] * value for token, value in worth.items())
        return torch.tensor(values, dtype=torch.float64), q_values

    def advantages(self, probs: Tensor | None = None) -> Tensor:
        """Return A = Q - V (states, vocab) of a policy, or the best play's; 0 where illegal."""
        values, q_values = self.values(probs)
        return (q_values - values[:, None]).nan_to_num(0.0)

    def visits(self, probs: Tensor) -> Tensor:
        """Return the probability that a conversation comes through each state, (states,)."""
        reached, chances = [0.0] * len(self.states), probs.tolist()
        reached[self.start] = 1.0
        for row, steps in enumerate(self.choices):
            for token, step in steps.items():
                if step.to is not None:
                    reached[step.to] += reached[row] * chances[row][token]
        return torch.tensor(reached, dtype=torch.float64)

    def kl(self, probs: Tensor, other: Tensor) -> float:
        """Return KL(policy || other) over whole conversations, nats.

        sum_s d(s) sum_a pi(a | s) log(pi(a | s) / other(a | s))
        """
        ratio = torch.where(probs > 0, (probs / other).log(), 0.0)
        return float((self.visits(probs)[:, None] * probs * ratio).nan_to_num(0.0).sum())

    def draw(self, probs: Tensor, rows: int, generator: torch.Generator) -> Tensor:
        """Return the numbers of conversations that a policy has, (rows,) int64."""
        chances = probs.tolist()
        found = []
        for _ in range(rows):
            uniform = iter(torch.rand(self.responses.mask.shape[1], generator=generator).tolist())
            ids: list[int] = []
            row: int | None = self.start
            while row is not None:
                left = next(uniform)
                for token in self.choices[row]:
                    left -= chances[row][token]
                    if left < 0:
                        break
                ids.append(token)
                row = self.choices[row][token].to
                if row is not None and not self.states[row].place:
                    ids.append(VOCABULARY.index("warm" if self.states[row].warm else "cold"))
            found.append(self.numbers[tuple(ids)])
        return torch.tensor(found)

    def exact_gradient(self, probs: Tensor) -> Tensor:
        """Return the gradient of the expected score, by dynamic programming.

        G(s, a) = d(s) pi(a | s) A(s, a),  d(s) the probability of coming through s
        """
        return self.visits(probs)[:, None] * probs * self.advantages(probs)

    def rewarded(self, reward: Reward) -> tuple[Tensor, Tensor]:
        """Return token rewards (responses, time) and scores (responses,) under a reward."""
        paid = reward.evaluate(self.episodes)
        rewards = torch.zeros(self.responses.mask.shape, dtype=torch.float64)
        for row, episode in enumerate(paid):
            rewards[row, : len(episode.response_ids)] = torch.tensor(episode.token_rewards)
        return rewards, torch.tensor([episode.score for episode in paid], dtype=torch.float64)

    def along(self, table: Tensor) -> Tensor:
        """Return a table's entries (states, vocab) along every conversation, 0 off the mask."""
        found = table[self.responses.states, self.responses.tokens]
        return found.masked_fill(~self.responses.mask, 0.0)

    @cached_property
    def turns(self) -> dict[str, Tensor]:
        """What says where turns begin, by name, (responses, time): read once, indexed by draws."""
        mask = self.responses.mask
        every = RoundInputs(mask, {}, settings=PPOSettings(), episodes=self.episodes)
        return {name: every[name] for name in ("turn_ids", "state_ids")}

    def played(
        self,
        members: Tensor,
        rewards: Tensor,
        scores: Tensor,
        settings: PPOSettings,
        **more: Any,
    ) -> RoundInputs:
        """Return some conversations as the round that an estimator reads.

        Args:
            members: (n,) rows of the conversations.
            rewards: (responses, time) token rewards of all.
            scores: (responses,) of all.
            settings: The learner's.
            more: Further names, such as ``values``, of the members.
        """
        given = {"token_rewards": rewards[members], "scores": scores[members], **more}
        played = RoundInputs(
            self.responses.mask[members],
            {"final_values": torch.zeros_like(given["scores"]), **given},
            settings=settings,
            episodes=[self.episodes[row] for row in members.tolist()],
        )
        for name, table in self.turns.items():
            played.give(name, table[members, : played.time], is_own=True)
        return played


class _Talk(NamedTuple):
    """A conversation at the end of a turn."""

    ids: tuple[int, ...]
    """Tokens after the prompt."""
    rows: tuple[int, ...]
    """Row of the state in which each token was chosen; -1 for a reply's."""
    turns: tuple[Turn, ...]
    score: float = 0.0
    over: bool = False

    def after(
        self,
        partner: TurnForks,
        earning: TurnForks,
        outcome: tuple[int, ...],
        rows: dict[State, int],
        steps: dict[tuple[int, int], Step],
    ) -> "_Talk":
        """Return the conversation with one more turn and the reply to it."""
        number = sum(turn.role == "assistant" for turn in self.turns)
        warm = None if not self.turns else self.turns[1].text == "warm"
        text = " ".join(VOCABULARY[i] for i in outcome if i != EOS)
        said = [{"role": "user", "content": PROMPT}]
        said += [{"role": turn.role, "content": turn.text} for turn in self.turns]
        said += [{"role": "assistant", "content": text}]
        rng = np.random.default_rng(0)
        reply, earned = partner.reply(said, {}, rng), earning.reply(said, {}, rng)
        assert earned.score is not None
        chosen = []
        for place in range(len(outcome)):
            branch = warm if warm is not None or not place else outcome[0] == LEFT
            state = State(number, branch, place, outcome[0] if place else None)
            chosen.append(rows.setdefault(state, len(rows)))
        branch = reply.text == "warm"
        to = None if reply.done else rows.setdefault(State(number + 1, branch, 0, None), len(rows))
        follows = [Step(0.0, row) for row in chosen[1:]] + [Step(earned.score, to)]
        for row, token, step in zip(chosen, outcome, follows, strict=True):
            if steps.setdefault((row, token), step) != step:
                raise AssertionError(f"state {row} is no state: token {token} leads on in two ways")
        start = len(self.ids)
        end = start + len(outcome)
        appended = () if reply.done else (VOCABULARY.index(reply.text),)
        turns = (
            Turn("assistant", text, (start, end), reply.score),
            Turn("user", reply.text, (end, end + len(appended))),
        )
        return _Talk(
            (*self.ids, *outcome, *appended),
            (*self.rows, *chosen, *(-1 for _ in appended)),
            (*self.turns, *turns),
            self.score + earned.score,
            reply.done,
        )

    def episode(self) -> Episode:
        """Return the conversation as an episode, unscored."""
        return Episode(
            prompt=PROMPT,
            response=" ".join(VOCABULARY[i] for i in self.ids if i != EOS),
            prompt_ids=[VOCABULARY.index(PROMPT)],
            response_ids=self.ids,
            turns=self.turns,
            written=np.array([row >= 0 for row in self.rows], np.int8),
            finish_reason="eos",
        )


class TurnGradient(NamedTuple):
    """An estimator's expected gradient, all of it and at the decisive word."""

    check: GradientCheck
    """Beside the true one."""
    reach: float
    """Share of the decisive word in the gradient, over that in the true one; 1 if unbiased."""
    decisive_noise: float
    """Conversations until noise and signal are equally large at the decisive word."""


def turn_gradient(
    talks: Talks,
    probs: Tensor,
    rewards: Tensor,
    scores: Tensor,
    estimator: Estimator,
    *,
    gamma: float = 1.0,
    gae_lambda: float = 1.0,
    group_size: int = 4,
    groups: int = 20_000,
    seed: int = 0,
) -> TurnGradient:
    """Return an estimator's expected gradient under a rule.

    One without groups is summed over every conversation; groups are drawn. A critic has the exact
    values of the rule's rewards to go.

    Args:
        talks: The task.
        probs: (states, vocab) of the policy.
        rewards: (responses, time) token rewards of the rule.
        scores: (responses,) that the rule spreads.
        estimator: The estimator.
        gamma: Discount, as the estimator counts it.
        gae_lambda: Lambda of ``gae``.
        group_size: Conversations of a group.
        groups: Groups drawn.
        seed: Seed of the drawing.
    """
    chances = response_probs(probs, talks.responses)
    needs = estimator.needs_groups
    size = group_size if needs else 1
    settings = PPOSettings(
        gamma=gamma, gae_lambda=gae_lambda, group_size=group_size if needs else None
    )
    if needs:
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.multinomial(chances, groups * size, replacement=True, generator=generator)
        members = drawn.view(groups, size)
        weights = torch.full((groups,), 1.0 / groups, dtype=torch.float64)
    else:
        members, weights = torch.arange(len(chances))[:, None], chances
    advantages = _advantages(talks, probs, rewards, scores, estimator, settings, members)
    if estimator.whitens:
        mask = talks.responses.mask[members.flatten()]
        # Mean and deviation over tokens, as a large batch has them.
        each = (weights[:, None].expand(-1, size).flatten()[:, None] * mask).to(advantages.dtype)
        each = each / each.sum()
        mean = (each * advantages).sum()
        deviation = ((each * (advantages - mean) ** 2).sum()).sqrt()
        advantages = ((advantages - mean) / deviation).masked_fill(~mask, 0.0)
    total, square = torch.zeros_like(probs), torch.zeros_like(probs)
    lines = advantages.view(len(members), size, -1)
    for some, weight, gains in zip(
        members.split(CHUNK), weights.split(CHUNK), lines.split(CHUNK), strict=True
    ):
        each = group_gradients(probs, talks.responses, some, gains.flatten(0, 1))
        total += torch.einsum("g,gsv->sv", weight, each)
        square += torch.einsum("g,gsv->sv", weight, each**2)
    covariance = (square - total**2).clamp(min=0.0) * size
    true = true_gradient(probs, talks.responses, talks.scores)
    spread = float(covariance.sum())
    error = relative((spread / size / groups) ** 0.5, true) if needs else 0.0
    check = GradientCheck(expected=total, true=true, covariance_trace=spread, standard_error=error)
    at = (talks.start, LEFT)
    here = float(total[at])
    shares = relative(here, total), relative(float(true[at]), true)
    reach = shares[0] / shares[1] if shares[1] else float("nan")
    noise = float(covariance[at]) / here**2 if here > 0 else float("inf")
    return TurnGradient(check=check, reach=reach, decisive_noise=noise)


def _advantages(
    talks: Talks,
    probs: Tensor,
    rewards: Tensor,
    scores: Tensor,
    estimator: Estimator,
    settings: PPOSettings,
    members: Tensor,
) -> Tensor:
    """Return the advantages (groups * size, time) of drawn groups, or of all conversations."""
    values: Tensor | None = None
    if estimator.needs_critic:
        to_go = losses.rewards_to_go(rewards, talks.responses.mask, gamma=settings.gamma)
        values = values_to_come(probs, talks.responses, to_go)
    parts = []
    for chunk in members.split(CHUNK):
        some = chunk.flatten()
        more = {} if values is None else {"values": values[some]}
        played = talks.played(some, rewards, scores, settings, **more)
        parts.append(estimator.estimate(played)[0])
    return torch.cat(parts)


def train(
    talks: Talks,
    rewards: Tensor | None,
    scores: Tensor,
    estimator: Estimator,
    *,
    rate: float,
    updates: int,
    rows: int,
    group_size: int = 8,
    gamma: float = 1.0,
    gae_lambda: float = 0.95,
    critic_rate: float = 0.2,
    seed: int = 0,
) -> Iterator[dict[str, float]]:
    """Train a table of logits by Adam, and yield what the policy is worth after every update.

    The worth is exact, by dynamic programming. A critic is a table too; each update moves
    its visited states towards the mean of their returns.

    Args:
        talks: The task.
        rewards: (responses, time) token rewards of the rule; None pays the exact advantages of the
            policy at the time, which the estimator then takes as they are.
        scores: (responses,) that the rule spreads.
        estimator: The estimator.
        rate: Learning rate of the logits.
        updates: Updates.
        rows: Conversations of an update.
        group_size: Conversations of a group; they all have one prompt.
        gamma: Discount, as the estimator counts it.
        gae_lambda: Lambda of ``gae``.
        critic_rate: Share of the way to the mean of the returns.
        seed: Seed of the drawing.
    """
    generator = torch.Generator().manual_seed(seed)
    logits = torch.zeros(talks.legal.shape, dtype=torch.float64)
    values = torch.zeros(len(talks.states), dtype=torch.float64)
    first, second = torch.zeros_like(logits), torch.zeros_like(logits)
    settings = PPOSettings(
        gamma=gamma,
        gae_lambda=gae_lambda,
        group_size=group_size if estimator.needs_groups else None,
    )
    start = talks.uniform()
    tokens = 0
    for update in range(updates + 1):
        probs = talks.probs(logits)
        yield {
            "step": update,
            "tokens": tokens,
            "score": float(talks.values(probs)[0][talks.start]),
            "kl": talks.kl(probs, start),
            "decisive": float(probs[talks.start, LEFT]),
        }
        members = talks.draw(probs, rows, generator)
        mask, states = talks.responses.mask[members], talks.responses.states[members]
        tokens += int(mask.sum())
        if rewards is None:
            advantages = talks.along(talks.advantages(probs))[members]
        else:
            more = {"values": values[states].masked_fill(~mask, 0.0)}
            played = talks.played(
                members, rewards, scores, settings, **(more if estimator.needs_critic else {})
            )
            advantages, returns = estimator.estimate(played)
            if estimator.needs_critic:
                count = torch.zeros_like(values).index_add(0, states[mask], mask[mask].double())
                total = torch.zeros_like(values).index_add(0, states[mask], returns[mask])
                seen = count > 0
                values[seen] += critic_rate * (total[seen] / count[seen] - values[seen])
            if estimator.whitens:
                advantages = losses.masked_whiten(advantages, mask)
        gradient = group_gradients(probs, talks.responses, members[None], advantages)[0]
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        step = first / (1 - 0.9 ** (update + 1))
        scale = (second / (1 - 0.999 ** (update + 1))).sqrt() + 1e-8
        logits = logits + rate * step / scale
