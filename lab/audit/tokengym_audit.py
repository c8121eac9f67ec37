"""Audit of advantage estimators against exact policy gradients, in one file on PyTorch alone.

Install it (``pip install tokengym-audit``), or copy this file beside the tests of a trainer:

    pytest -p tokengym_audit --audit my.py:estimator

or, parametrised:

    @pytest.mark.parametrize("name", ["grpo", "rloo"])
    def test_estimator(name):
        audit = tokengym_audit.check_estimator(getattr(my, name), pays="outcome")
        assert audit.holds, str(audit)

Every batch that a small policy can draw is enumerated, so that the expected gradient of an
estimator has no sampling error; it is compared with the true one, case by case.

- Decisions: small trees of responses whose gradient is known, and batches of them.
- Cases and checks: what each decision asks.
- Signatures: how the functions of known trainers are called.
- Expectations, verdicts, replication and known mistakes.
- `check_estimator`, and the plug-in of pytest.
"""

import difflib
import functools
import importlib.util
import inspect
import math
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import combinations_with_replacement, product
from operator import attrgetter, index
from pathlib import Path as FilePath
from time import perf_counter
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor

__version__ = "0.2.0"


class AuditError(ValueError):
    """The audit cannot be run."""


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a suggestion for a word that is not known, or nothing."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean {near[0]!r}? " if near else ""


# --- decisions ------------------------------------------------------------------------------------

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
    top_log_probs: Tensor
    """(batch, time, tokens), nats, of all allowed tokens there, the likeliest first, then -inf."""
    ref_log_probs: Tensor
    """(batch, time), nats, under the reference, to which all allowed tokens are equally likely."""
    entropy: Tensor
    """(batch, time), nats, of the policy where each token was chosen."""
    ref_entropy: Tensor
    """(batch, time), nats, of the reference there."""
    kl: Tensor
    """(batch, time), nats, of the policy to the reference there."""
    state_ids: Tensor
    """(batch, time) int64, the number of the prefix that each token follows; -1 off the mask."""
    sum_pi_squared: Tensor
    """(batch, time), the sum of the policy's squared probabilities where each token was chosen."""
    greedy_scores: Tensor
    """(batch,), the score of the policy's likeliest response to each row's prompt."""
    gamma: float
    """Discount per token."""

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All that a row has, by name."""
        return {name: value for name, value in vars(self).items() if name != "gamma"}

    def take(self, rows: Tensor) -> "Batch":
        """Return some rows, in memory of their own: (rows, ...), or (batches, rows, ...)."""
        tensors = {name: value[rows] for name, value in self.tensors.items()}
        return Batch(**tensors, gamma=self.gamma)

    def apart(self) -> Iterator["Batch"]:
        """Yield each batch of (batches, rows, ...)."""
        names = self.tensors
        for own in zip(*(value.unbind() for value in names.values()), strict=True):
            yield Batch(**dict(zip(names, own, strict=True)), gamma=self.gamma)


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


def rewards_to_go(rewards: Tensor, mask: Tensor, gamma: float) -> Tensor:
    """Return what each token and its successors earn; what the policy did not write takes no time.

    Args:
        rewards: (responses, time), reward units.
        mask: (responses, time) bool.
        gamma: Discount per token.
    """
    to_go, following = torch.zeros_like(rewards), rewards.new_zeros(len(rewards))
    for column in reversed(range(mask.shape[1])):
        now = rewards[:, column] + gamma * following
        following = torch.where(mask[:, column], now, following)
        to_go[:, column] = following
    return to_go.masked_fill(~mask, 0.0)


@dataclass(frozen=True, kw_only=True, eq=False)
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
        for column in reversed(range(mask.shape[1])):
            after[:, column] = following
            following = torch.where(mask[:, column], self.values[:, column], following)
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
        return rewards_to_go(self.rewards, self.responses.mask, self.gamma)

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
    def ideal_push(self) -> Tensor:
        """(states,) the push of `Expectation` under the rewards to go minus exact values."""
        squares = self.chances[:, None] * (self.to_go - self.values) ** 2 * self.lengths
        push = torch.zeros_like(self.probs[:, 0])
        return push.index_add(0, self.responses.states.flatten(), squares.flatten()).sqrt()

    @cached_property
    def ideal_noise(self) -> float:
        """Variance of one response's gradient under the rewards to go minus exact values.

        Reward units squared, summed over the states and the prompts.
        """
        return float((self.ideal_push**2).sum() - (self.gradient**2).sum())

    @cached_property
    def lengths(self) -> Tensor:
        """(responses, time) squared length of d log pi / d logits at each token; 0 off the mask.

        |e_a - pi|^2 = 1 - 2 pi_a + sum_b pi_b^2
        """
        mask, states = self.responses.mask, self.responses.states
        chosen = self.probs[states, self.responses.tokens]
        return (1.0 - 2.0 * chosen + (self.probs**2).sum(1)[states]).masked_fill(~mask, 0.0)

    @cached_property
    def whole(self) -> Batch:
        """All responses as an estimator reads them, in float32."""
        mask, states = self.responses.mask, self.responses.states
        chosen = self.probs[states, self.responses.tokens].clamp(min=1e-30)
        allowed = (self.probs > 0).sum(1)
        ref_entropy, most = allowed.double().log(), int(allowed.max())
        entropy = -torch.xlogy(self.probs, self.probs).sum(1)
        top = self.probs.sort(1, descending=True).values[:, :most].log()
        scores = self.rewards.sum(1)

        def written(values: Tensor) -> Tensor:
            return values.masked_fill(~mask, 0.0).float()

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
            log_probs=written(chosen.log()),
            top_log_probs=top[states].masked_fill(~mask[..., None], 0.0).float(),
            ref_log_probs=written(-ref_entropy[states]),
            entropy=written(entropy[states]),
            ref_entropy=written(ref_entropy[states]),
            kl=written((ref_entropy - entropy)[states]),
            state_ids=states.masked_fill(~mask, -1),
            sum_pi_squared=written((self.probs**2).sum(1)[states]),
            greedy_scores=greedy.float(),
            gamma=self.gamma,
        )

    @cached_property
    def near_best(self) -> "Decisions":
        """The same responses under a policy that has nearly learned the best ones.

        Where two tokens are equally good, their probabilities stay.
        """
        probs = self.probs.clone()
        for row, worth in self._best_values().items():
            good = {token for token, value in worth.items() if value > max(worth.values()) - 1e-9}
            for token in worth if len(good) < len(worth) else ():
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
        for column in reversed(range(len(mask[0]))):
            for row in range(len(mask)):
                if not mask[row][column]:
                    continue
                after = next((t for t in range(column + 1, len(mask[0])) if mask[row][t]), None)
                follows = 0.0 if after is None else max(worth[states[row][after]].values())
                worth.setdefault(states[row][column], {})[tokens[row][column]] = (
                    rewards[row][column] + self.gamma * follows
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
        for column, (token, reward) in enumerate(path):
            ids[row, column] = vocabulary.index(token)
            if token.startswith(REPLY):
                turn += not path[column - 1][0].startswith(REPLY)
                continue
            prefix = (number, tuple(before for before, _ in path[:column]))
            states[row, column] = known.setdefault(prefix, len(known))
            legal.setdefault(known[prefix], {})[token] = None
            turn_ids[row, column] = turn
            rewards[row, column] = reward
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


# --- cases and checks -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A decision, and what it asks."""

    name: str
    when: str
    """Its situation, after "when"."""
    responses: str
    """Every response: words TOKEN~CHANCE:REWARD, of which the last two may be left out. Tokens
    without a chance share the rest evenly. `|` stands between responses, `/` between prompts."""
    sizes: tuple[int, ...] = (1,)
    """Rows of each prompt, in groups."""
    gamma: float = 1.0
    per_token: bool = False
    """Whether it tells a discount per token from one per turn, or one that counts replies."""

    @cached_property
    def prompts(self) -> tuple[tuple[Path, ...], ...]:
        """Per prompt, every response."""
        return tuple(
            tuple(
                tuple(
                    (token.partition("~")[0], float(reward or 0.0))
                    for token, _, reward in (word.partition(":") for word in path.split())
                )
                for path in prompt.split("|")
            )
            for prompt in self.responses.split("/")
        )

    @cached_property
    def chances(self) -> Mapping[str, float]:
        """Probability of tokens where there is a choice."""
        words = (word.partition(":")[0].partition("~") for word in self.responses.split())
        return {token: float(chance) for token, _, chance in words if chance}

    @property
    def non_negative(self) -> bool:
        """Whether no token costs anything."""
        return all(reward >= 0 for some in self.prompts for path in some for _, reward in path)

    @functools.cache  # noqa: B019  # cases are constants
    def build(self, *, pays: str = "tokens", turns: bool = False) -> Decisions:
        """Return its tensors, made once.

        Args:
            pays: What the estimator is shown as token rewards: see `PAYS`.
            turns: Make each token a turn of its own, with a reply of three tokens between, so that
                a discount per turn and one per token are the same.
        """
        prompts = self.prompts
        if turns:
            prompts = tuple(tuple(_as_turns(path) for path in some) for some in prompts)
        return decisions(prompts, self.chances, gamma=self.gamma, pays=pays)


@dataclass(frozen=True)
class Check:
    """One question about an estimator."""

    name: str
    question: str
    needs: tuple[str, ...]
    """What an estimator must read one of for the question to apply; see `Batch`."""
    cases: tuple[Case, ...]


def _cases(text: str, **settings: Any) -> tuple[Case, ...]:
    """Return cases of two lines each, "NAME: WHEN" and the responses."""
    lines = [line.strip() for line in text.strip().splitlines()]
    heads = [line.partition(": ") for line in lines[::2]]
    return tuple(
        Case(name, when, responses, **settings)
        for (name, _, when), responses in zip(heads, lines[1::2], strict=True)
    )


def _as_turns(path: Path) -> Path:
    """Return a response with a reply of three tokens after each token but the last, if none has."""
    if any(token.startswith(REPLY) for token, _ in path):
        return path
    apart = [(token, *[(f"{REPLY}{token[0]}", 0.0)] * 3) for token in path[:-1]]
    return (*(token for tokens in apart for token in tokens), path[-1])


MEANINGS = MappingProxyType(
    {
        **dict.fromkeys(("stop", "halt"), "the shorter response"),
        **dict.fromkeys(("on", "more", "far"), "the longer response"),
        "now": "the earlier reward",
        "wait": "the later reward",
        "early": "what pays at once",
        "none": "what does not pay at once",
        "quit": "ending the conversation",
        "next": "one turn more",
        "ask": "the longer reply",
        "tell": "the shorter reply",
        "u": "the beginning that pays at once",
        "v": "the beginning that pays later",
        "half": "the sure half",
        "try": "the chance",
        "sure": "the sure return",
        "safe": "the sure cost",
        "risk": "the chance of a large one",
        "one": "the large reward",
        "loss": "the large cost",
        "three": "the three small ones",
    }
)
"""What a token of the cases stands for in a sentence."""
TIMELESS = "a reply takes no time"
LARGE = 10.0
"""Largest reward of any case."""
TOKEN_REWARDS = Check(
    "token rewards",
    "Is a token credited with the rewards that follow from it?",
    ("token_rewards",),
    _cases("""
        a late cost: a later token costs more than an earlier one pays
            early:0.5 x:-0.75 | none y
        a late reward: a later token pays more than an earlier one
            now:0.5 x | wait y:0.75
        early or late: an early and a late reward are equal
            now:0.5 x | wait y:0.5
        two decisions: two tokens decide
            a~0.5:0.25 x~0.3:0.5 | a:0.25 y | b z~0.6:1 | b w:0.25
        three tokens: one of three tokens pays first and costs later
            a x:0.6 | b:0.5 y | c:1 z:-0.75
    """),
)
TURN_REWARDS = Check(
    "turns",
    "Is a turn credited with the turns that follow from it, and with no others?",
    ("turn_ids",),
    _cases("""
        a later turn costs: a later turn costs more than an earlier one pays
            early:0.5 >l x:-0.75 | none >r y
        a later turn pays: a later turn pays more than an earlier one
            now:0.5 >l x | wait >r y:0.75
        earlier or later turn: an earlier and a later turn pay the same
            now:0.5 >l x | wait >r y:0.5
        another turn pays: one turn more earns more than it costs
            quit:1 | next:0.5 >l end:0.75
        another turn earns nothing: one turn more earns as much as it costs
            quit:1 | next:0.5 >l end:0.5
        each turn decides: each turn decides
            a >l x:1 | a >l y | b:0.5 >r z | b:0.5 >r w:0.25
    """),
)
LENGTH = Check(
    "length",
    "Does it pay for length where length earns nothing?",
    (),
    _cases("""
        longer earns more: the longer response earns more
            stop:1 | on:0.5 end:0.75
        longer earns the same: a short and a long response earn the same
            stop:1 | on:0.5 end:0.5
        longer earns less: the longer response earns less
            stop:1 | on:0.5 end:0.25
        longer costs the same: a short and a long response cost the same
            stop:-1 | on end:-1
        longer costs less: every response costs something, the longer one less
            stop:-1 | on:-0.5 end:-0.25
        three ways: the best of three ways is the shortest
            stop:1 | on:0.25 end:0.25 | far end
        won soon or lost late: a chance won soon or lost late is worth as much as a sure half
            half:0.5 | try win:1 | try lose more off
        length beside success: success and length have nothing to do with each other
            right~0.4 stop:1 | right more so end:1 | wrong halt | wrong far off over
    """),
)
GROUPS = Check(
    "groups",
    "Are groups of unlike size, unlike difficulty or equal scores kept apart?",
    ("group_ids", "group_size"),
    (
        *_cases("""
            an easy and a hard prompt: an easy and a hard prompt share a batch
                good~0.8:2 | bad:1.5 / better~0.2:0.5 | worse
            equal scores: all responses to a prompt score the same
                one~0.3:1 | other:1 / better:1 | worse
        """, sizes=(1, 1)),
        *_cases("""
            groups of unlike size: a prompt has twice as many responses as another
                good~0.8:2 | bad:1.5 / better~0.2:0.5 | worse
        """, sizes=(1, 2)),
    ),
)  # fmt: skip
MASKS = Check(
    "masks and replies",
    "Do padding and tokens that the policy did not write stay out of it?",
    ("response_mask", "turn_ids", "response_ids", "values"),
    _cases("""
        replies of unlike length: a long and a short reply lead to the same score
            ask:0.5 >l >l >l x | tell >r y:0.5
        a reward past a long reply: a reward lies past a long reply
            ask >l >l >l x:0.75 | tell:0.5 >r y
        a cost past a reply: what follows a reply costs more than was paid before it
            early:0.5 >l >l x:-0.75 | none >r y
        a reply at the end: a response ends with a reply
            a:0.5 >l | b c:0.75 >r
    """),
)
DISCOUNT = Check(
    "discount",
    "Does a discount weigh later rewards down?",
    ("gamma",),
    (
        *_cases("""
            discounted below: a discount makes a later reward worth less than an earlier one
                now:0.5 x | wait y:0.75
            still worth more: a later reward is worth more even with a discount
                now:0.5 x | wait y:3
            two tokens later: a discount of two tokens makes a later reward worth less
                now:0.5 x z | wait y w:1.5
            a reply takes no time: a reward past a long reply is worth more even with a discount
                now:0.5 >l x | wait >r >r >r y:1.5
        """, gamma=0.5),
        *_cases("""
            discounted to the same: a discount makes a later reward worth as much as an earlier one
                now:0.5 x | wait y:1
        """, gamma=0.5, per_token=True),
    ),
)  # fmt: skip
PREFIX = Check(
    "shared prefix",
    "Is what responses share left out of what tells them apart?",
    (),
    _cases("""
        the same beginning: responses share a beginning that pays
            p:1 q good:0.5 | p:1 q bad
        two beginnings of one worth: two beginnings of one worth want unlike continuations
            u:1 x:0.5 | u:1 y | v:0.5 z:0.5 | v:0.5 w:1
        a beginning that costs later: a beginning that pays leads to a cost
            u:1 x:-1 | u:1 y:-0.5 | v z | v w:0.5
    """),
)
LARGE_REWARDS = Check(
    "large rewards",
    "Is a large return worth its size, and a rare one its chance?",
    (),
    _cases("""
        a rare large return: a rare large return stands against a sure smaller one
            sure:3 | risk win~0.3:10 | risk lose:1
        a rare large cost: a rare large cost stands against a sure smaller one
            safe:-3 | risk lose~0.3:-10 | risk win:-1
        a chance worth little more: a rare large return is worth little more than a sure one
            sure:3.5 | risk win~0.3:10 | risk lose:1
        a chance worth little less: a rare large return is worth little less than a sure one
            sure:3.9 | risk win~0.3:10 | risk lose:1
        a chance that costs little more: a rare large cost is worth little less than a sure one
            safe:-3.5 | risk lose~0.3:-10 | risk win:-1
        one large reward: one token earns more than three together
            one:5 | three:1 b:1 c:1
        one large cost: one token costs more than three together
            loss:-5 | three:-1 b:-1 c:-1
    """),
)
CHECKS = (
    TOKEN_REWARDS, TURN_REWARDS, LENGTH, GROUPS, MASKS, DISCOUNT, PREFIX, LARGE_REWARDS
)  # fmt: skip
"""All, in the order of the report."""


# --- signatures -----------------------------------------------------------------------------------

GAE_LAMBDA = 1.0
"""Lambda that an estimator is given where it asks for one: the trainers' own default."""

Function = Callable[..., Any]
Estimator = Callable[[Batch], Tensor]
"""Returns advantages (batch, time), float64, 0 where the mask is False."""


@dataclass(frozen=True)
class Part:
    """What an adapter can show of a batch."""

    make: Callable[[Batch], Any]
    reads: tuple[str, ...]
    """What it shows, by the names that `Check.needs` has."""


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """The signature of a family of estimators."""

    keywords: Mapping[str, str]
    """The part that each of its arguments is given, by its name in `PARTS`."""
    marks: tuple[str, ...]
    """Keywords of which a function names one if it is of this family; none if it must be named."""
    read: Callable[[Any, Batch], Any] = lambda result, _: result
    """Turns what the function returns into an array."""


class Config(dict[str, Any]):
    """Settings that a trainer passes as an object or as a mapping."""

    def __getattr__(self, name: str) -> Any:
        """Return a setting; those not known here are absent, as in a trainer's own defaults."""
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the audit sets no {name!r}; it sets {', '.join(self)}") from None


def _group_size(batch: Batch) -> int:
    """Return the rows of each prompt."""
    counts = batch.group_ids.unique(return_counts=True)[1]
    return int(counts[0])


def turn_scores(batch: Batch) -> Tensor:
    """Return each turn's reward at its last token, NaN elsewhere."""
    following = torch.cat([batch.turn_ids[:, 1:], torch.full_like(batch.turn_ids[:, :1], -1)], 1)
    is_last = batch.response_mask & (following != batch.turn_ids)
    return _turn_rewards(batch).gather(1, batch.turn_ids.clamp(min=0)).where(is_last, torch.nan)


def _prompt_names(batch: Batch) -> Any:
    """Return a text a row, as verl names prompts; who has verl has NumPy."""
    import numpy as np

    return np.array([f"prompt {number}" for number in batch.group_ids.tolist()], dtype=object)


def _turn_rewards(batch: Batch) -> Tensor:
    """Return the sum of each turn's token rewards, (batch, turns)."""
    turns = batch.token_rewards.new_zeros(len(batch.turn_ids), int(batch.turn_ids.max()) + 1)
    paid = batch.token_rewards.masked_fill(~batch.response_mask, 0.0)
    return turns.scatter_add(1, batch.turn_ids.clamp(min=0), paid)


def _steps(batch: Batch) -> list[list[float]]:
    """Return each row's rewards of the tokens that the policy wrote."""
    return [
        row[mask].tolist()
        for row, mask in zip(batch.token_rewards, batch.response_mask, strict=True)
    ]


def _on_steps(result: Any, batch: Batch) -> Tensor:
    """Return the advantages of `_steps` at their tokens."""
    advantages = torch.zeros(batch.token_rewards.shape, dtype=torch.float64)
    for row, (mask, own) in enumerate(zip(batch.response_mask, result, strict=True)):
        advantages[row, mask] = torch.tensor(_plain(own), dtype=torch.float64)
    return advantages


def _by_group(batch: Batch) -> list[Any]:
    """Return the scores of each prompt's responses."""
    return [
        batch.scores[batch.group_ids == group].double().numpy()
        for group in batch.group_ids.unique()
    ]


def _on_groups(result: Any, batch: Batch) -> Tensor:
    """Return the advantages of `_by_group` at their rows, (batch,)."""
    by_group = result[0] if isinstance(result, tuple) else result
    advantages = torch.zeros(len(batch.scores), dtype=torch.float64)
    for group, own in zip(batch.group_ids.unique(), by_group, strict=True):
        advantages[batch.group_ids == group] = torch.tensor(_plain(own), dtype=torch.float64)
    return advantages


def _plain(value: Any) -> Any:
    """Return arrays, and lists of them, as lists of numbers."""
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value.tolist() if isinstance(value, Tensor) or "tolist" in dir(value) else value


def _columns(batch: Batch) -> Tensor:
    """Return the number of each token's column, (batch, time)."""
    return torch.arange(batch.response_mask.shape[1]).expand_as(batch.response_mask)


NAMES = (
    *("token_rewards", "response_mask", "response_ids", "scores", "values", "turn_ids"),
    *("state_ids", "log_probs", "top_log_probs", "ref_log_probs", "entropy", "ref_entropy", "kl"),
    *("group_ids", "gamma"),
)
"""Parts of a batch that go by their own names."""
PARTS: Mapping[str, Part] = {
    **{
        name: Part(attrgetter(name), (name,))
        for name in (*NAMES, "sum_pi_squared", "greedy_scores")
    },
    "numeric_mask": Part(lambda batch: batch.response_mask.long(), ("response_mask",)),
    "float_mask": Part(lambda batch: batch.response_mask.float(), ("response_mask",)),
    "positions": Part(
        lambda batch: (batch.response_mask.cumsum(1) - 1).masked_fill(~batch.response_mask, -1),
        ("response_mask",),
    ),
    "turn_scores": Part(turn_scores, ("turn_ids", "token_rewards")),
    "turn_rewards": Part(_turn_rewards, ("turn_rewards",)),
    "steps": Part(_steps, ("token_rewards",)),
    "by_group": Part(_by_group, ("scores", "group_ids")),
    "prompt_names": Part(_prompt_names, ("group_ids",)),
    "prompt_columns": Part(lambda batch: batch.group_ids[:, None], ("group_ids",)),
    "final_values": Part(lambda batch: torch.zeros_like(batch.scores), ()),
    "segment_ends": Part(_columns, ()),
    "num_samples": Part(lambda batch: len(batch.scores), ()),
    "group_size": Part(_group_size, ("group_size",)),
    "gae_lambda": Part(lambda _: GAE_LAMBDA, ()),
    "config": Part(
        lambda batch: Config(gamma=batch.gamma, lam=GAE_LAMBDA, norm_adv_by_std_in_grpo=True),
        ("maybe gamma",),
    ),
}
"""All that a function can be given, by name; a generator is made for each function."""
GENERATOR = "generator"
OWN = "tokengym"
ADAPTERS: Mapping[str, Adapter] = {
    OWN: Adapter(
        keywords={
            **{name: name for name in (*NAMES, GENERATOR)},
            "old_log_probs": "log_probs",
            "input_ids": "response_ids",
            **{name: name for name in ("positions", "turn_scores", "final_values")},
            **{name: name for name in ("segment_ends", "group_size", "gae_lambda")},
        },
        marks=("token_rewards", "scores"),
    ),
    "verl": Adapter(
        keywords={
            "token_level_rewards": "token_rewards",
            "response_mask": "numeric_mask",
            "values": "values",
            "index": "prompt_names",
            "gamma": "gamma",
            "lam": "gae_lambda",
            "lambd": "gae_lambda",
            "config": "config",
            "old_log_probs": "log_probs",
            "sum_pi_squared": "sum_pi_squared",
            "reward_baselines": "greedy_scores",
        },
        marks=("token_level_rewards",),
    ),
    "trl": Adapter(
        keywords={"rewards": "scores", "num_generations": "group_size"}, marks=("num_generations",)
    ),
    "openrlhf": Adapter(
        keywords={
            "rewards": "token_rewards",
            "action_mask": "numeric_mask",
            "values": "values",
            "gamma": "gamma",
            "lambd": "gae_lambda",
        },
        marks=("action_mask",),
    ),
    "turns": Adapter(
        keywords={
            "rewards": "turn_rewards",
            "turn_ids": "turn_ids",
            "action_masks": "response_mask",
            "group_size": "group_size",
            "num_samples": "num_samples",
            "gamma": "gamma",
        },
        marks=("action_masks",),
    ),
    "nemo-rl": Adapter(
        keywords={
            "prompt_ids": "prompt_columns",
            "rewards": "scores",
            "mask": "float_mask",
            "values": "values",
        },
        marks=("prompt_ids",),
    ),
    "steps": Adapter(keywords={"rewards": "steps", "gamma": "gamma"}, marks=(), read=_on_steps),
    "groups": Adapter(
        keywords={"rewards": "by_group", "algorithm_config": "config"},
        marks=("algorithm_config",),
        read=_on_groups,
    ),
}
"""Families of signatures by name: this library's own; verl's and SkyRL's registered functions; a
score a response and the responses of a prompt, as TRL counts; OpenRLHF's token rewards under an
action mask; rewards a turn (AgileRL); NeMo-RL's; a list of step rewards a response (Atropos); a
list of scores a prompt (rLLM)."""


@dataclass(frozen=True, kw_only=True)
class Adapted:
    """An estimator that can be audited."""

    name: str
    adapter: str
    estimate: Estimator
    reads: frozenset[str]
    """What it is given of a batch, by the names that `Check.needs` has."""
    writes: set[str] = field(default_factory=set, compare=False)
    """Arguments that it has changed in place."""

    @cached_property
    def answers(self) -> "Answers":
        """What it has answered."""
        return Answers(self)

    @cached_property
    def heeds_order(self) -> bool:
        """Whether it gives a response another advantage when rows of its prompt change places."""
        order = torch.tensor([3, 0, 4, 1, 5, 2, 7, 6])
        for probe in _probes():
            plain, mixed = _asked(self, probe), _asked(self, probe.take(order))
            if plain is not None and mixed is not None and not _close(plain[order], mixed):
                return True
        return False


class Answers:
    """Answers of an estimator, which reads the same of many batches."""

    def __init__(self, estimator: Adapted) -> None:
        self._estimator = estimator
        self._numbers: dict[Any, int] = {}  # of a response, by what is read of it
        self._of_decisions: dict[Decisions, list[int]] = {}
        self._known: dict[tuple[int, ...], Tensor] = {}

    def numbers(self, decisions: Decisions) -> list[int]:
        """Return a number for each response, the same where all that is read of it is."""
        if decisions not in self._of_decisions:
            reads = self._estimator.reads
            read = [
                value.tolist()
                for name, value in decisions.whole.tensors.items()
                if name not in BY_NAME_ALONE or name in reads
            ]
            self._of_decisions[decisions] = [
                self._numbers.setdefault((decisions.gamma, str(parts)), len(self._numbers))
                for parts in zip(*read, strict=True)
            ]
        return self._of_decisions[decisions]

    def of(self, responses: tuple[int, ...], batch: Batch) -> Tensor:
        """Return the answer to the responses of these numbers; the first are asked for twice.

        Raises:
            AuditError: if both answers differ.
        """
        if responses not in self._known:
            ask, asked_twice = self._estimator.estimate, len(self._known) < ASKED_AGAIN
            again = batch.take(torch.arange(len(responses))) if asked_twice else None
            self._known[responses] = ask(batch)
            if again is not None:
                _refuse_change(self._estimator, self._known[responses], ask(again))
        return self._known[responses]


def _refuse_change(estimator: Adapted, first: Tensor, again: Tensor) -> None:
    """Refuse an estimator whose answers to one batch differ.

    Raises:
        AuditError: if they do.
    """
    if not _close(first.nan_to_num(), again.nan_to_num(), 1e-6):
        raise AuditError(
            f"{estimator.name} cannot be enumerated: it remembers, or draws, as it answers one "
            "batch differently when asked again; pass draws=400 to judge it by "
            "replication"
        )


def adapt(
    function: Function, *, adapter: str | None = None, name: str | None = None, numpy: bool = False
) -> Adapted:
    """Return a function as an estimator of batches.

    Args:
        function: Takes arguments by keyword, and returns advantages: (batch, time), (batch, 1) or
            (batch,), as a tensor or an array, alone or first in a tuple.
        adapter: Name of one of `ADAPTERS`; None finds it by the keywords that the function names.
        name: What the function is called in messages.
        numpy: Pass arrays instead of tensors.

    Raises:
        AuditError: if the function names an argument that the audit does not have.
    """
    name = name or str(getattr(function, "__name__", type(function).__name__))
    if not callable(function):
        raise AuditError(f"{name} must be a function of token rewards or scores, got {function!r}")
    parameters = _parameters(function, name)
    family = _find(adapter, parameters, name)
    keywords = ADAPTERS[family].keywords
    unknown = [p.name for p in parameters if p.name not in keywords and p.default is p.empty]
    if unknown:
        raise AuditError(
            f"{name} needs {unknown[0]!r}, which the policy that is enumerated does not have under "
            f"the adapter {family!r}; {_did_you_mean(unknown[0], keywords)}it has "
            f"{', '.join(keywords)}; wrap the function in one that names these"
        )
    words = {p.name: keywords[p.name] for p in parameters if p.name in keywords}
    if not words:
        raise AuditError(
            f"{name} names no argument of the audit; the adapter {family!r} has "
            f"{', '.join(keywords)}"
        )
    generator = torch.Generator().manual_seed(0)
    parts = {**PARTS, GENERATOR: Part(lambda _: generator, ())}
    given = {word: parts[part] for word, part in words.items()}
    writes: set[str] = set()

    def estimate(batch: Batch) -> Tensor:
        mask = batch.response_mask.clone()  # the function may write into what it is given
        arguments = {word: part.make(batch) for word, part in given.items()}
        before = {w: v.clone() for w, v in arguments.items() if isinstance(v, Tensor)}
        if numpy:
            shown = {w: v.numpy() if isinstance(v, Tensor) else v for w, v in arguments.items()}
        try:
            result = function(**(shown if numpy else arguments))
        except (Exception, KeyboardInterrupt):
            raise
        except BaseException as error:  # sys.exit, pytest.skip
            raise AuditError(f"{name} ended with {type(error).__name__}: {error}") from error
        writes.update(w for w, value in before.items() if not _same(value, arguments[w]))
        return _advantages(ADAPTERS[family].read(result, batch), mask, name)

    reads = frozenset(word for part in given.values() for word in part.reads)
    return Adapted(name=name, adapter=family, estimate=estimate, reads=reads, writes=writes)


def _same(one: Tensor, other: Tensor) -> bool:
    """Return whether no number differs; NaN is equal to NaN."""
    return torch.equal(one, other) or (
        one.is_floating_point() and torch.equal(one.nan_to_num(), other.nan_to_num())
    )


def _parameters(function: Function, name: str) -> list[inspect.Parameter]:
    """Return the parameters that are passed by keyword and not fixed by a `functools.partial`."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError) as error:
        raise AuditError(f"the arguments of {name} cannot be read: {error}; wrap it") from error
    for parameter in parameters:
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise AuditError(f"{name} takes {parameter.name!r} by position alone; name it")
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    fixed = function.keywords if isinstance(function, functools.partial) else ()
    return [p for p in parameters if p.kind in named and p.name not in fixed]


def _find(adapter: str | None, parameters: Sequence[inspect.Parameter], name: str) -> str:
    """Return the name of the adapter that a function's keywords belong to."""
    if adapter is not None:
        if adapter not in ADAPTERS:
            raise AuditError(
                f"unknown adapter {adapter!r}; {_did_you_mean(adapter, ADAPTERS)}"
                f"known: {', '.join(ADAPTERS)}"
            )
        return adapter
    named = [parameter.name for parameter in parameters]
    needed = {parameter.name for parameter in parameters if parameter.default is parameter.empty}
    marked = [
        family for family, known in ADAPTERS.items() if any(mark in named for mark in known.marks)
    ]
    for family in marked:
        if needed <= set(ADAPTERS[family].keywords):
            return family
    if marked:
        return marked[0]  # whose keywords the message then lists
    known = ADAPTERS["tokengym"].keywords
    unknown = [one for one in named if one in needed and one not in known]
    hint = _did_you_mean(unknown[0], known) if len(unknown) == 1 else ""
    raise AuditError(
        f"{name}({', '.join(named)}) has the signature of no adapter; {hint}name one of "
        f"{', '.join(ADAPTERS)}, or wrap it in a function of "
        f"{', '.join(ADAPTERS['tokengym'].keywords)}"
    )


def _advantages(result: Any, mask: Tensor, name: str) -> Tensor:
    """Return what an estimator returned as (batch, time) float64."""
    first = result[0] if isinstance(result, tuple) else result
    try:
        advantages = torch.as_tensor(
            first if isinstance(first, Tensor) else _plain(first), dtype=torch.float64
        ).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise AuditError(
            f"{name} must return advantages as a tensor or an array, got "
            f"{type(first).__name__}: {error}"
        ) from error
    rows, time = mask.shape
    if advantages.shape == (rows,):
        advantages = advantages[:, None]
    if advantages.shape not in ((rows, time), (rows, 1)):
        raise AuditError(
            f"{name} must return advantages of shape {(rows, time)}, {(rows, 1)} or {(rows,)}, got "
            f"{tuple(advantages.shape)} for token rewards of {(rows, time)}"
        )
    return advantages.expand(rows, time).masked_fill(~mask, 0.0)


# --- expectations ---------------------------------------------------------------------------------

GROUP_SIZES = (2, 4, 8, 16)
"""Responses to a prompt."""
ASKED_AGAIN = 64
"""Batches that an estimator is asked about twice, to see whether it remembers, or draws."""
BY_NAME_ALONE = (
    *("values", "response_ids", "log_probs", "top_log_probs", "ref_log_probs", "entropy"),
    *("ref_entropy", "kl", "state_ids", "sum_pi_squared", "greedy_scores"),
)
"""Parts of a batch that an estimator reads only if it names them."""
BATCHES = 200
"""Most batches of one size that are enumerated; larger groups are left out."""
ORDERED_BATCHES = 700
"""The same where the order of rows matters, so that each order is a batch."""


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
    prompt_sizes: tuple[int, ...] = (1,),
    ordered: bool | None = None,
) -> list[Expectation]:
    """Return an estimator's expected gradient for groups of each size that can be enumerated.

    E(s, a) = sum over batches of P(batch) sum over prompts of
              1 / N sum_i sum_t A_it d log pi(y_it | s_it) / d logits(s, a)

    Args:
        estimator: The estimator.
        decisions: The responses and the policy.
        sizes: Group sizes.
        prompt_sizes: Rows of each prompt, in groups.
        ordered: Whether the order of a prompt's rows matters to the estimator, so that every order
            is enumerated; None asks it.
    """
    if ordered is None:
        ordered = heeds_rows(estimator, decisions, prompt_sizes)
    return [
        _expectation(estimator, decisions, size, prompt_sizes, ordered)
        for size in _enumerable(decisions, sizes, prompt_sizes, ordered)
    ]


def _enumerable(
    decisions: Decisions, sizes: Sequence[int], prompt_sizes: tuple[int, ...], ordered: bool
) -> list[int]:
    """Return the group sizes that can be enumerated; where order matters, 3 if 4 cannot be."""
    limit = ORDERED_BATCHES if ordered else BATCHES
    fit = [size for size in sizes if count_batches(decisions, size, prompt_sizes, ordered) <= limit]
    return [2, 3] if ordered and fit == [2] and 4 in sizes else fit


def count_batches(
    decisions: Decisions, size: int, prompt_sizes: tuple[int, ...], ordered: bool = False
) -> int:
    """Return the number of batches, the order of rows aside if it does not matter."""
    counts = decisions.prompts.bincount().tolist()
    return math.prod(
        count ** (size * share) if ordered else math.comb(count + size * share - 1, size * share)
        for count, share in zip(counts, prompt_sizes, strict=True)
    )


@functools.lru_cache(maxsize=1024)
def batches(
    decisions: Decisions, size: int, prompt_sizes: tuple[int, ...], ordered: bool = False
) -> tuple[Tensor, Tensor]:
    """Return the responses of each batch, prompt after prompt, and its probability.

    What is enumerated is the same for all estimators, and made once.

    Returns:
        (batches, rows) int64, and (batches,) float64, summing to 1.
    """
    chances, prompts = decisions.chances.tolist(), decisions.prompts.tolist()
    each = []
    for prompt, share in enumerate(prompt_sizes):
        rows = [row for row, number in enumerate(prompts) if number == prompt]
        groups = []
        draws: Iterator[tuple[int, ...]] = (
            product(rows, repeat=size * share)
            if ordered
            else combinations_with_replacement(rows, size * share)
        )
        for members in draws:
            orders = 1 if ordered else math.factorial(len(members))
            for repeats in Counter(members).values() if not ordered else ():
                orders //= math.factorial(repeats)
            groups.append((members, orders * math.prod(chances[row] for row in members)))
        each.append(groups)
    choices = list(product(*each))
    return (
        torch.tensor([[row for group, _ in choice for row in group] for choice in choices]),
        torch.tensor([math.prod(c for _, c in choice) for choice in choices], dtype=torch.float64),
    )


def _answered(estimator: Adapted, decisions: Decisions, rows: Tensor) -> list[Tensor | Exception]:
    """Return the answer to each batch of (batches, rows), or what was raised."""
    numbers = torch.tensor(estimator.answers.numbers(decisions))[rows].tolist()
    answers: list[Tensor | Exception] = []
    for own, batch in zip(numbers, decisions.whole.take(rows).apart(), strict=True):
        try:
            answers.append(estimator.answers.of(tuple(own), batch))
        except AuditError:
            raise
        except Exception as error:
            answers.append(error)
    return answers


def heeds_rows(
    estimator: Adapted, decisions: Decisions, prompt_sizes: tuple[int, ...] = (1,)
) -> bool:
    """Return whether an answer is another when the rows of a prompt stand in another order."""
    if estimator.heeds_order:
        return True
    rows = batches(decisions, 2, prompt_sizes)[0]
    owners = decisions.prompts[rows[0]]
    turned = torch.cat([(owners == prompt).nonzero()[:, 0].flip(0) for prompt in owners.unique()])
    plain, other = (_answered(estimator, decisions, some) for some in (rows, rows[:, turned]))
    return any(
        not _close(one[turned], two)
        for one, two in zip(plain, other, strict=True)
        if isinstance(one, Tensor) and isinstance(two, Tensor)
    )


def _expectation(
    estimator: Adapted,
    decisions: Decisions,
    size: int,
    prompt_sizes: tuple[int, ...],
    ordered: bool,
) -> Expectation:
    rows, chances = batches(decisions, size, prompt_sizes, ordered)
    answers = _answered(estimator, decisions, rows)
    refusals = {number: each for number, each in enumerate(answers) if isinstance(each, Exception)}
    refusal = ""
    for number, error in refusals.items():
        # Some trainers refuse a group from which nothing can be learned; any other is a fault.
        refusal = f"{type(error).__name__}: {error}"
        if not _has_equal_group(decisions.whole.take(rows[number])):
            raise AuditError(f"{estimator.name} raised {refusal}") from error
    nothing = torch.zeros(rows.shape[1], decisions.ids.shape[1], dtype=torch.float64)
    gains = torch.stack([nothing if isinstance(each, Exception) else each for each in answers])
    is_finite = gains.isfinite().flatten(1).all(1)
    own, push = _batch_gradients(
        decisions, rows, gains.where(is_finite[:, None, None], 0.0), size, prompt_sizes
    )
    gradient = torch.einsum("b,bsv->sv", chances, own)
    square = float((chances * own.pow(2).sum((1, 2))).sum())
    return Expectation(
        group_size=size,
        gradient=gradient,
        push=(chances @ push).sqrt(),
        variance=max(square - float((gradient**2).sum()), 0.0) * size,
        not_finite=float(chances[~is_finite].sum()),
        refused=float(chances[[*refusals]].sum()),
        refusal=refusal,
    )


def _has_equal_group(batch: Batch) -> bool:
    """Return whether all responses to some prompt score the same."""
    return any(
        bool((own := batch.scores[batch.group_ids == group]).max() - own.min() < 1e-6)
        for group in batch.group_ids.unique()
    )


def _batch_gradients(
    decisions: Decisions, rows: Tensor, gains: Tensor, size: int, prompt_sizes: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """Return the gradient of each batch, and the mean square of its contributions by state.

    Args:
        decisions: The responses and the policy.
        rows: (batches, rows) the numbers of their responses.
        gains: (batches, rows, time) advantages.
        size: Responses to a prompt of one row.
        prompt_sizes: Rows of each prompt, in groups.
    """
    probs = decisions.probs
    share = 1.0 / torch.tensor(prompt_sizes, dtype=probs.dtype)[decisions.prompts[rows]] / size
    states, tokens = decisions.responses.states[rows], decisions.responses.tokens[rows]
    cells = (states * probs.shape[1] + tokens).flatten(1)
    written = torch.zeros(len(rows), probs.numel(), dtype=probs.dtype)
    written.scatter_add_(1, cells, (gains * share[..., None]).flatten(1))
    written = written.view(-1, *probs.shape)
    pushed = gains**2 * decisions.lengths[rows] * share[..., None]
    push = torch.zeros(len(rows), len(probs), dtype=probs.dtype)
    push.scatter_add_(1, states.flatten(1), pushed.flatten(1))
    return written - probs * written.sum(2, keepdim=True), push


# --- verdicts -------------------------------------------------------------------------------------

EXACT = 2e-3
"""Largest share of an error that counts as rounding: estimators compute in float32."""
LIMIT = 0.04
"""Largest share of a push that counts as none, in the limit of large groups."""
BLINDNESS = 0.01
"""Largest share of a push that counts as 0, as a share of that of exact advantages."""
COSINE = 0.98
"""Least cosine of the angle between an expected gradient of three ways and the true one."""
ROUNDING = 1e-6
"""Share of a push below which an expected gradient is the rounding of a sum that is 0."""

STAYS = 0.25
"""Largest b of a bias a / G + b that counts as 0, as a share of the largest bias: what the fit
leaves of a division by a deviation is at most 0.19, of squashed advantages at least 0.53."""

EQUAL = "equal"
RESCALED = "rescaled"
VANISHING = "vanishing bias"
UNEVEN = "uneven"
DRAWN = "drawn"
NOT_APPLICABLE = "not applicable"
UNDECIDED = "undecided"
HOLD = (EQUAL, RESCALED, VANISHING, UNEVEN, DRAWN)
"""Verdicts under which a check holds, the best first."""
TILTED = "tilted"
BIASED = "biased"
BLIND = "blind"
REVERSED = "reversed"
NOT_FINITE = "not finite"
REFUSED = "refused"
LEAKS = "leaks"
CLIPPED = "clipped"
ROUNDS = "rounds"
FAIL = (TILTED, BIASED, BLIND, REVERSED, CLIPPED, ROUNDS, REFUSED, LEAKS, NOT_FINITE)
"""Verdicts under which it fails, the worst last."""
VERDICTS = (*HOLD, UNDECIDED, *FAIL)
"""All, the best first."""

SAYS: Mapping[str, str] = {
    EQUAL: "equals the gradient when {when}: {off:.2%} of a push off (limit {limit:.1%})",
    RESCALED: "points along the gradient when {when}, {scales}: {off:.2%} of a push aside "
    "(limit {limit:.1%})",
    VANISHING: "has a bias that falls when {when}: {first:.1%} of a push at G = {small}, "
    "{last:.1%} at G = {large}; {limit}",
    UNEVEN: "weighs decisions unlike when {when}: {least:.2f} to {most:.2f} times the gradient in "
    "large groups (limit above 0)",
    DRAWN: "is {figures} {where} when {when} (limit {limit})",
    UNDECIDED: "is not told from 0 when {when}: {scale} times the gradient {where}",
    TILTED: "points aside from the gradient when {when}: cosine {cosine:.2f} in large groups "
    "(limit {limit})",
    BIASED: "{favours} {towards} when {when}, where the gradient is 0: {share} of a push {where} "
    "(limit {limit:.1%})",
    BLIND: "is nearly 0 when {when}, where the gradient is not: {share:.1%} of a push in large "
    "groups (limit {limit:.1%})",
    REVERSED: "points against the gradient when {when}: {scale} times it {where} (limit above 0)",
    REFUSED: "refuses a batch when {when}: {share:.1%} of groups of {size} (limit 0): {refusal}",
    NOT_FINITE: "is no finite number when {when}: {share:.1%} of groups of {size} (limit 0)",
}
"""What is said of a case: its situation, a figure and the limit."""
IN_LARGE = "in large groups"


def _said(verdict: str, case: Case, **figures: Any) -> tuple[str, str]:
    """Return a verdict with its sentence."""
    return verdict, SAYS[verdict].format(when=case.when, **figures)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Verdict on one case."""

    case: str
    verdict: str
    says: str
    """What a person should know, in one sentence."""
    true: float
    """Length of the true gradient, reward units; 0 where nothing is to be gained."""
    scale: tuple[float | None, ...] = ()
    """Length along the true gradient, in its lengths, by group size; None where that is 0."""
    cosine: tuple[float | None, ...] = ()
    """Of the angle to the true gradient, by group size."""
    bias: tuple[float, ...] = ()
    """What is not along the true gradient, as a share of one response's contribution."""
    noise: float | None = None
    """Responses until noise and signal are equally long, at the largest group; None without one."""
    ideal_noise: float | None = None
    """The same for rewards to go minus exact values."""
    group_sizes: tuple[int, ...] = ()
    refused: str = ""
    """What the function raised for groups of equal scores, which then count as 0."""
    best_stays: bool | None = None
    """Whether a policy near the best response moves on to it; None where there is none."""

    @property
    def holds(self) -> bool:
        """Whether the case is no reason to fail."""
        return self.verdict in HOLD


def read(
    case: Case, decisions: Decisions, found: Sequence[Expectation], near: Expectation | None = None
) -> Reading:
    """Return the verdict on one case.

    Args:
        case: The case.
        decisions: Its tensors.
        found: What the estimator does, by group size.
        near: What it does near the best response, at one size.
    """
    true = decisions.gradient
    length = float(true.norm())
    scale, cosine, bias = [], [], []
    for each in found:
        own, along = float(each.gradient.norm()), float((each.gradient * true).sum())
        scale.append(along / length**2 if length > 1e-12 else None)
        cosine.append(along / length / own if length > 1e-12 and own > 1e-12 else None)
        off = _off(decisions, each.gradient)
        bias.append(float(off.norm()) / max(float(each.push.norm()), 1e-12))
    verdict, says = _verdict(case, decisions, found, scale, bias)
    stays = None
    if near is not None and length > 1e-12:
        climb = _climb(decisions.near_best, near)
        stays = climb > 0.0
        if not stays and verdict in HOLD:
            verdict, leaves = REVERSED, f"leaves the best response when {case.when}"
            where = f"near it at G = {near.group_size}"
            says = f"{leaves}: {climb:.2g} times the gradient {where} (limit above 0)"
    last = found[-1]
    signal = 0.0 if scale[-1] is None else scale[-1] * length
    return Reading(
        case=case.name,
        verdict=verdict,
        says=says,
        true=length,
        scale=tuple(scale),
        cosine=tuple(cosine),
        bias=tuple(bias),
        noise=last.variance / signal**2 if signal > 1e-12 else None,
        ideal_noise=max(decisions.ideal_noise, 0.0) / length**2 if length > 1e-12 else None,
        group_sizes=tuple(each.group_size for each in found),
        refused=next((each.refusal for each in found if each.refused > 0), ""),
        best_stays=stays,
    )


def _off(decisions: Decisions, gradient: Tensor) -> Tensor:
    """Return what of a gradient is not along the true one, each prompt's taken by itself."""
    off = gradient.clone()
    owner = torch.tensor([prompt for prompt, _ in decisions.states])
    for prompt in owner.unique():
        rows = owner == prompt
        true = decisions.gradient[rows]
        square = float((true**2).sum())
        if square > 1e-18:
            off[rows] -= float((gradient[rows] * true).sum()) / square * true
    return off


def _verdict(
    case: Case,
    decisions: Decisions,
    found: Sequence[Expectation],
    scale: Sequence[float | None],
    bias: Sequence[float],
) -> tuple[str, str]:
    """Return verdict and sentence."""
    broken = max(found, key=lambda each: each.not_finite)
    if broken.not_finite > 0:
        return _said(NOT_FINITE, case, share=broken.not_finite, size=broken.group_size)
    off = max(_error(decisions.gradient, each) for each in found)
    if off <= EXACT:
        verdict = _said(EQUAL, case, off=off, limit=EXACT)
    else:
        verdict = _unequal(case, decisions, found, scale, bias)
    worst = max(found, key=lambda each: each.refused)
    if verdict[0] in HOLD and worst.refused > 0 and case.name == "equal scores":
        refusal = {"share": worst.refused, "size": worst.group_size, "refusal": worst.refusal}
        return _said(REFUSED, case, **refusal)
    return verdict


def _unequal(
    case: Case,
    decisions: Decisions,
    found: Sequence[Expectation],
    scale: Sequence[float | None],
    bias: Sequence[float],
) -> tuple[str, str]:
    """Return verdict and sentence on what is not the gradient at every size."""
    first, last = found[0], found[-1]
    limit = _limit(found, decisions.gradient)
    stays = min(
        float(_off(decisions, _extrapolated(found, 2, pushes)).norm()) / max(*bias, 1e-12)
        for pushes in ([float(e.push.norm()) for e in found], [float(last.push.norm())] * 2)
    )
    fault = _worst(case, decisions, limit, found)
    if fault is not None and len(found) > 2:
        # A deviation of few rows falls faster than 1 / G: what one more term mends is no fault.
        curved = _limit(found, decisions.gradient, 3)
        fault = fault if _worst(case, decisions, curved, found) else None
    if fault is not None:
        return fault
    shares = _scales(decisions, limit)
    against = min(
        ((share, each.group_size) for each in found for share in _scales(decisions, each.gradient)),
        default=(0.0, 0),
    )
    figures = {"scale": f"{against[0]:.2f}", "where": f"at G = {against[1]}"}
    is_against = against[0] < -EXACT
    remains = f"{stays:.0%} of its largest stay in large groups (limit {STAYS:.0%})"
    if is_against and stays > STAYS and max(bias) >= EXACT:
        verdict, says = _said(REVERSED, case, **figures)
        return verdict, f"{says}; its bias is {max(bias):.0%} of a push, and {remains}"
    if max(bias) < EXACT:
        scales = _range(scale, found)
        verdict, says = _said(RESCALED, case, scales=scales, off=max(bias), limit=EXACT)
    elif shares and stays > STAYS and max(bias) > BLINDNESS:  # less may rise before it falls
        verdict, says = _said(UNEVEN, case, least=min(shares), most=max(shares))
    else:
        if not shares or stays > STAYS:
            remains = f"limit {BLINDNESS if shares else LIMIT:.0%}"
        ends = {"small": first.group_size, "large": last.group_size, "limit": remains}
        verdict, says = _said(VANISHING, case, first=bias[0], last=bias[-1], **ends)
    small = "; against the gradient in small groups: {scale} times it {where}".format(**figures)
    return verdict, f"{says}{small if is_against else ''}"


def _limit(found: Sequence[Expectation], true: Tensor, sizes: int = 2) -> Tensor:
    """Return the expected gradient in large groups, b of a fit a / G + b to the last sizes.

    What points along the true gradient and falls faster, so that it would come out against it, is
    taken as it is at the largest.

    Args:
        found: What the estimator does, by group size.
        true: The true gradient.
        sizes: How many sizes are fitted: 2, or 3 with a further term in 1 / G^2.
    """
    before, last = found[max(len(found) - 2, 0)], found[-1]
    limit = _extrapolated(found, sizes)
    old, new, far = ((each * true).sum(1) for each in (before.gradient, last.gradient, limit))
    return torch.where(((old > new) & (new > 0) & (far < 0))[:, None], last.gradient, limit)


def _extrapolated(
    found: Sequence[Expectation], sizes: int, pushes: Sequence[float] = (1.0, 1.0, 1.0)
) -> Tensor:
    """Return gradients over pushes at 1 / G = 0 of the polynomial through the last sizes."""
    fitted = found[-sizes:]
    limit = torch.zeros_like(fitted[0].gradient)
    for each, push in zip(fitted, pushes[-len(fitted) :], strict=True):
        weight = math.prod(
            each.group_size / (each.group_size - other.group_size)
            for other in fitted
            if other is not each
        )
        limit += weight / max(push, 1e-12) * each.gradient
    return limit


def _error(true: Tensor, each: Expectation) -> float:
    """Return how far an expected gradient is from the true one, as a share of a push.

    Rounding grows with the advantages; what grows past the true gradient would hide its absence.
    """
    length, off = float(true.norm()), float((each.gradient - true).norm())
    if length > 1e-9 and off > LIMIT * length:
        return max(off / length, LIMIT)
    return off / max(float(each.push.norm()), length, 1e-12)


def _range(scale: Sequence[float | None], found: Sequence[Expectation]) -> str:
    """Return the scales of the smallest and the largest group in words."""
    known = [(value, each.group_size) for value, each in zip(scale, found, strict=True) if value]
    if not known:
        return "and is 0 where that is 0"
    (first, small), (last, large) = known[0], known[-1]
    if abs(first - last) < 0.005 * abs(last):
        return f"{last:.3g} times as long"
    return f"{first:.3g} times as long at G = {small}, {last:.3g} at G = {large}"


def _scales(decisions: Decisions, gradient: Tensor) -> list[float]:
    """Return the length along the true gradient at each state where there is one."""
    squares = (decisions.gradient**2).sum(1)
    along = (gradient * decisions.gradient).sum(1)
    return [float(a / b) for a, b in zip(along, squares, strict=True) if b > 1e-18]


def _towards(decisions: Decisions, token: Tensor) -> str:
    """Return what a token, by its number, stands for."""
    word = decisions.vocabulary[int(token)]
    return MEANINGS.get(word, f"the token {word!r}")


def _worst(
    case: Case, decisions: Decisions, limit: Tensor, found: Sequence[Expectation]
) -> tuple[str, str] | None:
    """Return the worst fault of any state in the limit of large groups."""
    faults: list[tuple[str, str]] = []
    for row, true in enumerate(decisions.gradient):
        own, length = limit[row], float(true.norm())
        size, pushed = float(own.norm()), float(found[-1].push[row])
        share = size / max(pushed, 1e-12)
        if length < 1e-9:
            shares = [float(e.gradient[row].norm()) / max(float(e.push[row]), 1e-12) for e in found]
            most = EXACT if max(shares) < 1.05 * min(shares) else LIMIT  # if the same at all sizes
            if share > most and size > 1e-9:
                bias = {"share": f"{share:.1%}", "where": IN_LARGE, "limit": most}
                towards = _towards(decisions, own.argmax())
                faults.append(_said(BIASED, case, favours="favours", towards=towards, **bias))
            continue
        along = float((own * true).sum()) / length**2
        cosine = along * length / max(size, 1e-12)
        nothing = BLINDNESS * length / float(decisions.ideal_push[row])
        scales = [float((e.gradient[row] * true).sum()) / length**2 for e in found]
        falling = [each.group_size * scale for each, scale in zip(found, scales, strict=True)]
        if share <= nothing and min(falling) > EXACT and falling[-1] > 0.7 * falling[-2]:
            continue  # the gradient over G, as of the group's mean in place of its rows
        if share <= nothing or pushed < 1e-9:
            faults.append(_said(BLIND, case, share=share, limit=nothing))
        elif cosine < -0.5:
            faults.append(_said(REVERSED, case, scale=f"{along:.2f}", where=IN_LARGE))
        elif cosine < COSINE:
            faults.append(_said(TILTED, case, cosine=cosine, limit=COSINE))
    return max(faults, key=lambda fault: FAIL.index(fault[0]), default=None)


def _climb(near: Decisions, found: Expectation) -> float:
    """Return the least scale of any decision near the best response; 0 of rounding alone."""
    scales = [1.0]
    for own, true, push in zip(found.gradient, near.gradient, found.push, strict=True):
        along, length = float((own * true).sum()), float(true.norm())
        if length > 1e-9:
            is_rounding = abs(along) <= ROUNDING * float(push) * length
            scales.append(0.0 if is_rounding else along / length**2)
    return min(scales)


# --- replication ----------------------------------------------------------------------------------

DRAWN_SIZE, BLOCKS, ERRORS = 64, 20, 6.0
"""Responses to a prompt of drawn batches; parts of the draws from whose means errors come, as what
remembers is not independent from batch to batch; and standard errors of an interval."""


def _drawn_gains(estimator: Adapted, decisions: Decisions, rows: Tensor, batch: Any) -> Tensor:
    """Return the answer to one batch; 0 of equal scores that the function refuses."""
    try:
        return estimator.estimate(batch)
    except AuditError:
        raise
    except Exception as error:
        if not _has_equal_group(decisions.whole.take(rows)):
            refusal = f"{type(error).__name__}: {error}"
            raise AuditError(f"{estimator.name} raised {refusal}") from error
    return torch.zeros(len(rows), decisions.ids.shape[1], dtype=torch.float64)


def read_drawn(case: Case, decisions: Decisions, estimator: Adapted, draws: int) -> Reading:
    """Return the verdict of batches that are drawn one after another, each with its interval.

    Args:
        case: The case.
        decisions: Its tensors.
        estimator: It may remember, or draw.
        draws: Batches, `BLOCKS` at least.
    """
    generator, rows = torch.Generator().manual_seed(0), []
    for prompt, groups in enumerate(case.sizes):
        chances, count = decisions.chances * (decisions.prompts == prompt), groups * DRAWN_SIZE
        drawn = torch.multinomial(chances, draws * count, True, generator=generator)
        rows.append(drawn.view(draws, count))
    members = torch.cat(rows, 1)
    each = decisions.whole.take(members).apart()
    gains = torch.stack(
        [_drawn_gains(estimator, decisions, *one) for one in zip(members, each, strict=True)]
    )
    own, push = _batch_gradients(decisions, members, gains, DRAWN_SIZE, case.sizes)
    exact = (decisions.to_go - decisions.values)[members]  # whose luck is known, and is taken off
    luck = _batch_gradients(decisions, members, exact, DRAWN_SIZE, case.sizes)[0]
    luck -= decisions.gradient
    own -= (
        (own * luck).sum((0, 2))[:, None] / (luck**2).sum((0, 2)).clamp(min=1e-18)[:, None] * luck
    )
    means = torch.stack([block.mean(0) for block in own.tensor_split(BLOCKS)])
    mean, error = means.mean(0), ERRORS * means.std(0) / math.sqrt(BLOCKS)
    where = f"in {draws} batches of G = {DRAWN_SIZE}"
    readings, scales, pushes = [], [], []
    for row, true in enumerate(decisions.gradient):
        square, pushed = float((true**2).sum()), max(float(push[:, row].mean().sqrt()), 1e-12)
        if square < 1e-18:
            ahead, behind = mean[row] - error[row], -mean[row] - error[row]
            token = (ahead if ahead.max() > LIMIT * pushed else torch.max(ahead, behind)).argmax()
            share, width = float(mean[row, token]) / pushed, float(error[row, token]) / pushed
            pushes.append(f"{abs(share):.1%} +- {width:.1%}")
            if abs(share) - width > LIMIT:
                towards = _towards(decisions, token)
                bias = {"share": pushes[-1], "where": where, "limit": LIMIT}
                favours = "favours" if share > 0.0 else "disfavours"
                readings.append(_said(BIASED, case, favours=favours, towards=towards, **bias))
            continue
        along = (means[:, row] * true).sum(1) / square
        scale, width = float(along.mean()), ERRORS * float(along.std()) / math.sqrt(BLOCKS)
        scales.append(f"{scale:.3g} +- {width:.2g}")
        if scale - width <= 0.0:
            verdict = REVERSED if scale + width < 0.0 else UNDECIDED
            readings.append(_said(verdict, case, scale=scales[-1], where=where))
    if not bool(gains.isfinite().all()):
        share = 1.0 - float(gains.isfinite().flatten(1).all(1).double().mean())
        readings.append(_said(NOT_FINITE, case, share=share, size=DRAWN_SIZE))
    figures = f"{', '.join(scales)} times the gradient"
    nothing = f"{', '.join(pushes)} of a push, where the gradient is 0,"
    limit = "above 0" if scales else f"{LIMIT:.0%}"
    told = figures if scales else nothing
    readings.append(_said(DRAWN, case, figures=told, where=where, limit=limit))
    verdict, says = max(readings, key=lambda reading: VERDICTS.index(reading[0]))
    length = float(decisions.gradient.norm())
    return Reading(case=case.name, verdict=verdict, says=says, true=length)


# --- known mistakes -------------------------------------------------------------------------------

PROBE_LENGTHS = (4, 4, 3, 4, 2, 4, 3, 4)
"""Tokens of the probe's responses."""
LIKE = 0.05
"""Largest distance of an estimator's figures from those of a known mistake, as a share of them."""

OWN_ALONE = "no reward to go: a token or turn is credited with its own reward alone"
OFF_BY_ONE = "off by one: a token is not credited with its own reward"
BACKWARDS = "sums the wrong way: a token is credited with the rewards before it"
SIGN = "has the sign reversed: a reward makes its own token less likely"
PER_LENGTH = "divides by the length of the response"
CENTRED = "takes a mean off every token or turn before summing, so that their number is charged"
REPEATED = "repeats a reward at every token before summing, so that their number is paid"
OTHER_TURNS = "the baseline of a turn is made of other turns of the same response"
LATE_VALUE = "off by one: the baseline is the value after the token, which knows the token"
PADDING = "counts padded positions"
UNREAD = "reads no values past the end"
VOTES = "lets a row without a token vote"
MASKED_VALUES = "reads values where the mask is False"
UNKNOWN = "of no kind known here"


@dataclass(frozen=True, kw_only=True)
class Parts:
    """All responses to a prompt, cut into what a mistake counts: tokens, or turns."""

    rewards: Tensor
    """(responses, parts) float64."""
    alive: Tensor
    """(responses, parts), 1 where a response has so many parts, else 0."""
    chances: Tensor
    """(responses,) the probability of each."""
    tokens: Tensor
    """(responses, 1) the policy's tokens in each."""
    values_after: Tensor
    """(responses, parts) the exact value after each token; 0 of turns."""

    def mean(self, values: Tensor) -> Tensor:
        """Return the expectation over responses of (responses, ...)."""
        return torch.tensordot(self.chances, values, 1)

    def deviation(self, values: Tensor) -> Tensor:
        """Return the standard deviation of (responses, parts) over all parts, a number."""
        count = self.mean(self.alive).sum()
        mean = self.mean(values * self.alive).sum() / count
        square = self.mean(values**2 * self.alive).sum() / count - mean**2
        return square.clamp(min=0.0).sqrt()


def _after(values: Tensor) -> Tensor:
    """Return the sums over each part and those after it."""
    return values.flip(1).cumsum(1).flip(1)


def _each_part(x: Parts, values: Tensor) -> Tensor:
    """Return the mean over the responses that have a part, (parts,)."""
    return x.mean(values * x.alive) / x.mean(x.alive).clamp(min=1e-12)


def _other_parts(x: Parts) -> Tensor:
    """Return the mean of the same response's other parts."""
    others = x.alive.sum(1, keepdim=True) - 1.0
    return (x.rewards.sum(1, keepdim=True) - x.rewards) / others.clamp(min=1.0)


def _spread_of_each_part(x: Parts) -> Tensor:
    """Return the rewards over the deviation of their part, 0 where that is 0."""
    centred = (x.rewards - _each_part(x, x.rewards)) * x.alive
    deviation = _each_part(x, centred**2).sqrt()
    return torch.where(deviation > 1e-9, centred / deviation.clamp(min=1e-9), 0.0)


Construction = Callable[[Parts], Tensor]
_TOKENS: Sequence[tuple[str, Construction]] = (
    (OWN_ALONE, lambda x: x.rewards),
    (OFF_BY_ONE, lambda x: _after(x.rewards) - x.rewards),
    (BACKWARDS, lambda x: x.rewards.cumsum(1)),
    (SIGN, lambda x: -_after(x.rewards)),
    (PER_LENGTH, lambda x: x.rewards.sum(1, keepdim=True) / x.tokens * x.alive),
    (PER_LENGTH, lambda x: _after(x.rewards) / x.tokens),
    (REPEATED, lambda x: _after(x.rewards.sum(1, keepdim=True) * x.alive)),
    (CENTRED, lambda x: _after((x.rewards - _each_part(x, x.rewards)) * x.alive)),
    (CENTRED, lambda x: _after(
        (x.rewards - x.mean(x.rewards).sum() / x.mean(x.alive).sum()) * x.alive)),
    (CENTRED, lambda x: _after(
        (x.rewards - x.mean(x.rewards.sum(1) / x.alive.sum(1))) * x.alive)),
    (CENTRED, lambda x: _after(_spread_of_each_part(x))),
    (LATE_VALUE, lambda x: _after(x.rewards) - x.values_after),
)  # fmt: skip
_TURNS: Sequence[tuple[str, Construction]] = (
    (OWN_ALONE, lambda x: x.rewards),
    (OWN_ALONE, _spread_of_each_part),
    *(pair for pair in _TOKENS if pair[0] in (BACKWARDS, CENTRED)),
    (OTHER_TURNS, lambda x: x.rewards - _other_parts(x)),
)
"""How each mistake makes advantages of rewards, in large groups: what a baseline takes off alike
has no expected gradient, and a deviation is one number."""
_SCALES: Sequence[Callable[[Parts, Tensor], Tensor]] = (
    lambda x, own: torch.ones(()),
    lambda x, own: x.deviation(x.rewards.sum(1, keepdim=True) * x.alive[:, :1]),
    lambda x, own: x.deviation(x.rewards),
    lambda x, own: x.deviation(own),
)
"""What advantages may be divided by in a case: nothing, or the deviation of scores, of rewards, or
of the advantages themselves."""


def named_faults(
    estimator: Adapted, pays: str = "tokens", non_negative: bool = False
) -> tuple[str, ...]:
    """Return the names of the known mistakes whose own construction reproduces an estimator.

    A mistake is named if its expected gradients are those of the estimator over every case that
    applies, up to one positive factor and a deviation to divide by. Of one that reads turns, what
    it does to tokens is asked where there is one turn.

    Args:
        estimator: The estimator.
        pays: What it is promised of token rewards.
        non_negative: Whether it promises that no reward is below 0.
    """
    names = [clipping(estimator)]
    leak = reads_masked(estimator)
    names += [name for name in (PADDING, MASKED_VALUES) if name in leak]
    cases = [
        (decisions, found)
        for check in (TOKEN_REWARDS, TURN_REWARDS, LENGTH, PREFIX)
        if not _missing(check, estimator, pays)
        for case in check.cases
        if len(case.prompts[0]) <= 3 and _applies(case, estimator, non_negative, False)
        for decisions in [case.build(pays=pays)]
        if (found := _in_large_groups(estimator, decisions)) is not None
    ]
    by_turns = bool({"turn_ids", "turn_rewards"} & estimator.reads)
    for constructions, turns in ((_TOKENS, False), (_TURNS, True))[: 1 + by_turns]:
        parts = [
            (decisions, *_parts(decisions, turns), found)
            for decisions, found in cases
            if turns or not by_turns or int(decisions.turn_ids.max()) == 0
        ]
        for name, construct in constructions:
            if name != LATE_VALUE or "values" in estimator.reads:
                names += [name] if _reproduces(construct, parts) else []
    unlike = _told_apart(estimator, names)
    return tuple(dict.fromkeys(name for name in names if name and name not in unlike))


ALIKE = (OWN_ALONE, BACKWARDS, LATE_VALUE)
"""Mistakes with one expected gradient: what was earned before a token is known where it is chosen,
and the rewards after it are those that the value after it expects."""


def _told_apart(estimator: Adapted, names: Sequence[str]) -> set[str]:
    """Return which of `ALIKE` an estimator's own answers contradict.

    The second token's or turn's advantage moves with the reward of the first one, with the value
    after it, or with neither.
    """
    if len({*ALIKE} & {*names}) < 2:
        return set()
    by_turns = bool({"turn_ids", "turn_rewards"} & estimator.reads)
    probe, before, token = (_conversation(), 0, 3) if by_turns else (_probe(), 0, 1)

    def moved(name: str, column: int) -> float:
        tensor = getattr(probe, name).clone()
        tensor[0, column] += 0.01
        changed = (
            _paid(probe, tensor) if name == "token_rewards" else replace(probe, **{name: tensor})
        )
        answers = [_asked(estimator, each) for each in (probe, changed)]
        if answers[0] is None or answers[1] is None:
            return 0.0
        return float((answers[1] - answers[0])[0, token])

    least = 0.3 * abs(moved("token_rewards", token))
    found = OWN_ALONE
    if moved("token_rewards", before) > least:
        found = BACKWARDS
    elif "values" in estimator.reads and moved("values", token + 1) < -least:
        found = LATE_VALUE
    return {*ALIKE} - {found}


def _in_large_groups(estimator: Adapted, decisions: Decisions) -> Tensor | None:
    """Return the expected gradient in large groups; None where it is not known."""
    ordered = heeds_rows(estimator, decisions)
    sizes = _enumerable(decisions, GROUP_SIZES, (1,), ordered)[-2:]
    found = expectations(estimator, decisions, sizes, ordered=ordered)
    known = len(found) == 2 and not any(each.refused or each.not_finite for each in found)
    return _limit(found, decisions.gradient) if known else None


def _parts(decisions: Decisions, turns: bool) -> tuple[Parts, Tensor]:
    """Return the parts of all responses, and (responses, time) the part of each token."""
    mask = decisions.responses.mask
    places = decisions.turn_ids if turns else mask.cumsum(1) - 1
    places = places.masked_fill(~mask, 0)
    count = places.max(1, keepdim=True).values + 1
    number = torch.arange(int(count.max()))
    rewards = torch.zeros(len(mask), len(number), dtype=torch.float64)
    rewards.scatter_add_(1, places, decisions.paid.masked_fill(~mask, 0.0))
    values = torch.zeros_like(rewards)
    if not turns:
        values.scatter_add_(1, places, decisions.values.masked_fill(~mask, 0.0))
    return Parts(
        rewards=rewards,
        alive=(number < count).double(),
        chances=decisions.chances,
        tokens=mask.sum(1, keepdim=True).double(),
        values_after=torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], 1),
    ), places


def _reproduces(
    construct: Construction, cases: Sequence[tuple[Decisions, Parts, Tensor, Tensor]]
) -> bool:
    """Return whether a mistake has the expected gradients of an estimator.

    Args:
        construct: Makes the mistake.
        cases: Of each, the responses, their parts, the part of each token, and the gradient.
    """
    whole = float(sum((found**2).sum() for *_, found in cases))
    for scale in _SCALES:
        along, square = 0.0, 0.0
        for decisions, parts, places, found in cases:
            advantages = construct(parts)
            deviation = float(scale(parts, advantages))
            weights = decisions.chances[:, None] * advantages.gather(1, places)
            own = weighted_gradient(decisions.probs, decisions.responses, weights)
            own = own / deviation if deviation > 1e-9 else torch.zeros_like(own)
            along += float((own * found).sum())
            square += float((own**2).sum())
        if along > 0 and whole - along**2 / square <= LIKE**2 * whole:
            return True
    return False


ROUNDED, BEYOND = 0.25, 1000.0
"""Limits of `rounding`: a deviation plus 1e-6 makes 0.06 of rounding, plus 1e-9 makes 60."""
FACTORS = (1.0, 3.0, 10.0, 30.0, 100.0, 1000.0, -1.0, -10.0, -100.0)
"""How many times as large the probe's rewards are made."""
TINY, HUGE = 1e-3, 1e4
"""Factors at which no clip binds, and at which every clip does."""


def clipping(estimator: Adapted) -> str:
    """Return at what an estimator clips advantages or rewards, or nothing.

    Its own answers to tiny rewards, made as large and clipped, must be its answers to large ones.
    A clip beyond the largest reward of the cases is not told.
    """
    probe = _probe()

    def answer(rewards: Tensor, scores: Tensor, values: Tensor) -> Tensor | None:
        return _asked(
            estimator, replace(probe, token_rewards=rewards, scores=scores, values=values)
        )

    def times(factor: float) -> Tensor | None:
        return answer(
            probe.token_rewards * factor, probe.scores * factor, probe.values * abs(factor)
        )

    tiny, twice, huge = times(TINY), times(2.0 * TINY), times(HUGE)
    if tiny is None or twice is None or huge is None:
        return ""
    if not _close(twice, 2.0 * tiny) or _close(huge, tiny * (HUGE / TINY)):
        return ""  # not linear in tiny rewards, or linear in huge ones too
    answers = [times(factor) for factor in FACTORS]

    ends = torch.stack([end for end in (huge, times(-HUGE)) if end is not None])
    low, high = float(ends.min()), float(ends.max())
    if _are_close(
        answers, [_map(times(TINY * f), lambda a: (a / TINY).clamp(low, high)) for f in FACTORS]
    ):
        return _clips("advantages", low, high)

    for what, paid in (("token rewards", probe.token_rewards), ("scores", probe.scores)):
        low, high = (side * float(paid.max()) * _last_linear(times, side) for side in (-1.0, 1.0))
        clipped = []
        for factor in FACTORS:
            kept = (paid * factor).clamp(low, high)
            shares = kept / (paid * factor) if paid.ndim == 1 else None
            rewards = kept if shares is None else probe.token_rewards * factor * shares[:, None]
            found = answer(rewards * TINY, rewards.sum(1) * TINY, probe.values * abs(factor) * TINY)
            clipped.append(_map(found, lambda a: a / TINY))
        if _are_close(answers, clipped):
            return _clips(what, low, high)
    return ""


def _map(answer: Tensor | None, change: Callable[[Tensor], Tensor]) -> Tensor | None:
    """Return a changed answer; None of none."""
    return None if answer is None else change(answer)


def _are_close(some: Sequence[Tensor | None], others: Sequence[Tensor | None]) -> bool:
    """Return whether all answers are there and the same up to a hundredth."""
    return all(
        one is not None and other is not None and _close(one, other, 1e-2)
        for one, other in zip(some, others, strict=True)
    )


def _last_linear(times: Callable[[float], Tensor | None], side: float) -> float:
    """Return the largest factor of rewards at which answers are in proportion to tiny ones.

    Args:
        times: Answers to rewards that are so many times as large.
        side: 1.0, or -1.0 for costs.
    """
    least, most, tiny = TINY, HUGE, times(side * TINY)
    while most > least * 1.0005:
        middle = math.sqrt(least * most)
        found = times(side * middle)
        is_linear = (
            tiny is not None and found is not None and _close(found, tiny * (middle / TINY), 1e-4)
        )
        least, most = (middle, most) if is_linear else (least, middle)
    return least if least < 0.9 * HUGE else math.inf


def _clips(what: str, low: float, high: float) -> str:
    """Return a sentence on bounds within the rewards of the cases, or nothing."""
    sides = [
        f"{side} {bound:.3g}"
        for side, bound in (("below", low), ("above", high))
        if abs(bound) < LARGE
    ]
    return f"clips {what} {' and '.join(sides)}" if sides else ""


def reads_masked(estimator: Adapted) -> str:
    """Return what is read where the mask is False, or nothing."""
    probe = _probe()
    plain = _asked(estimator, probe)
    if plain is None:
        return ""
    noise = torch.where(probe.response_mask, probe.values, 3.0)
    for name, words, other in (
        (PADDING, "3 columns more", _padded(probe, 3)),
        (MASKED_VALUES, "3 in place of 0", replace(probe, values=noise)),
    ):
        moved = _asked(estimator, other)
        if moved is not None and not _close(plain, moved[:, : plain.shape[1]]):
            change = float((plain - moved[:, : plain.shape[1]]).abs().max())
            limit = CLOSE * float(plain.abs().max())
            return f"{name}: {words} move an advantage by {change:.2g} (limit {limit:.2g})"
    return ""


def lost_rows(estimator: Adapted) -> tuple[str, str]:
    """Return what is broken beside a row without a token, and whether its score moves the others.

    Rows are drawn apart: a vote of those that are lost by chance takes nothing from the expected
    gradient, and where what is written decides which are lost, so does any other baseline.
    """
    if "response_mask" not in estimator.reads:
        return "", ""
    probe, lost = _probe(), torch.arange(len(PROBE_LENGTHS)) == 2
    answers = [_asked(estimator, probe)]
    for score in (0.0, 5.0):
        tensors: dict[str, Any] = {
            name: value.masked_fill(lost.view(-1, *[1] * (value.ndim - 1)), 0)
            for name, value in probe.tensors.items()
            if name != "group_ids"
        }
        tensors["turn_ids"][lost] = -1
        tensors["scores"][lost] = score
        answers.append(_asked(estimator, replace(probe, **tensors)))
    plain, without, with_score = (None if each is None else each[~lost] for each in answers)
    if plain is None or without is None or with_score is None or not plain.isfinite().all():
        return "", ""
    broken = ~without.isfinite().all(1)
    if broken.any():
        rows = f"in {int(broken.sum())} of {len(broken)} other rows"
        return f"is no finite number beside a row without a token: {rows} (limit 0)", ""
    if _close(without, with_score):
        return "", ""
    moved = float((with_score - without).abs().max())
    return "", (
        f"{VOTES}: a score of 5 in place of 0 moves others by up to {moved:.2g}; no bias where "
        "rows are lost by chance"
    )


def rounding(estimator: Adapted) -> str:
    """Return what an estimator makes of the rounding of equal scores, or nothing.

    Scores that binary numbers do not hold must be answered as their neighbours that they do, and a
    score beside equal others by no more than `BEYOND` times what unlike scores are.
    """
    unlike = _asked(estimator, _scored([0.0, 1.0] * 4))
    most = 0.0 if unlike is None else float(unlike.abs().max())
    shapes = () if unlike is None else ((3, 0), (5, 0), (6, 0), (7, 0), (6, 1), (8, 1))
    for (size, odd), worth in product(shapes, (0.1, 0.3, 0.7, 0.95)):
        near = round(worth * 32.0) / 32.0
        plain, other = (
            _asked(estimator, _scored([0.0] * odd + [each] * (size - odd)))
            for each in (worth, near)
        )
        if plain is None or other is None:
            continue
        rows, beside = f"answers {size - odd} scores of", " beside a 0" if odd else ""
        found, exact = (each.flatten()[each.abs().argmax()].item() for each in (plain, other))
        if float((plain - other).abs().max()) > most * ROUNDED:
            return (
                f"takes rounding for a deviation: {rows} {worth}{beside} with {found:.3g}, of "
                f"{near} with {exact:.3g} (limit {most * ROUNDED:.3g} apart)"
            )
        if abs(exact) > most * BEYOND:
            return (
                f"goes beyond what scores allow: {rows} {near}{beside} with {exact:.3g} "
                f"(limit {most * BEYOND:.3g})"
            )
    return ""


def _scored(scores: Sequence[float]) -> Batch:
    """Return responses of one token to one prompt."""
    probe = _made([[0]] * len(scores), time=1)
    paid = torch.tensor(scores, dtype=torch.float32)[:, None]
    return replace(_paid(probe, paid), values=torch.full_like(paid, 0.5))


def order_matters(estimator: Adapted) -> str:
    """Return what changes when the rows of two prompts are interleaved, or nothing.

    Each prompt's own rows keep their order. Whose scores move whose advantages must stay; how far
    may depend on a row's number.
    """
    # Who reads blocks of one size may refuse groups of unlike size.
    for groups, order in (
        ([0, 0, 0, 1, 1, 1, 1, 1], [3, 0, 4, 1, 5, 2, 6, 7]),
        ([0, 0, 0, 0, 1, 1, 1, 1], [4, 0, 1, 5, 2, 6, 7, 3]),
    ):
        probe, mixed = replace(_probe(), group_ids=torch.tensor(groups)), torch.tensor(order)
        plain, other = _who_moves(estimator, probe), _who_moves(estimator, probe.take(mixed))
        if plain is None or other is None:
            continue
        unlike = int((plain[mixed][:, mixed] != other).sum())
        if unlike:
            return (
                f"gives advantages to other scores when the rows of two prompts are interleaved: "
                f"{unlike} of {other.numel()} pairs of rows (limit 0), in the order {order}"
            )
    return ""


def _who_moves(estimator: Adapted, probe: Batch) -> Tensor | None:
    """Return whether each row's score (rows) moves each row's advantages (columns)."""
    plain, moved = _asked(estimator, probe), []
    for row in range(len(probe.scores)):
        rewards = probe.token_rewards.clone()
        rewards[row, 0] += 1.7
        other = _asked(estimator, _paid(probe, rewards))
        if plain is None or other is None:
            return None
        change = (other - plain).abs().amax(1)
        moved.append(change > 1e-4 * float(change.max()))
    return torch.stack(moved)


def heeds_gamma(estimator: Adapted) -> bool:
    """Return whether an estimator's answer depends on the discount, per token or per turn."""
    for probe in _probes():
        plain, discounted = _asked(estimator, probe), _asked(estimator, replace(probe, gamma=0.5))
        if plain is not None and discounted is not None and not _close(plain, discounted):
            return True
    return False


# --- probes ---------------------------------------------------------------------------------------


@functools.cache
def _probe() -> Batch:
    """Return responses of unlike length to one prompt, of one turn each."""
    return _made([[0] * size for size in PROBE_LENGTHS], time=5)


@functools.cache
def _conversation() -> Batch:
    """Return conversations of one or two turns of two tokens, with a reply between."""
    return _made([[0, 0, -1, 1, 1], [0, 0, -1, 1, 1], [0, 0], [0, 0, -1, 1, 1]] * 2, time=6)


def _probes() -> tuple[Batch, Batch]:
    return _probe(), _conversation()


def _made(turns: Sequence[Sequence[int]], time: int) -> Batch:
    """Return a batch with given turns; rewards and values are unlike everywhere.

    Args:
        turns: Per row the number of each token's turn, -1 where a reply stands.
        time: Columns.
    """
    shape = (len(turns), time)
    ids = torch.full(shape, -1)
    for row, own in enumerate(turns):
        ids[row, : len(own)] = torch.tensor(own)
    mask = ids >= 0
    places = torch.arange(shape[0] * time, dtype=torch.float32).view(shape)

    def written(values: Tensor) -> Tensor:
        return values.masked_fill(~mask, 0.0)

    rewards = written(1.5 + torch.sin(places * places))
    size = torch.tensor([len(own) for own in turns])[:, None]
    exists = torch.arange(time)[None] < size
    return Batch(
        token_rewards=rewards,
        response_mask=mask,
        values=written(torch.cos(places * 1.7)),
        turn_ids=ids,
        response_ids=(1 + (places.long() * 7) % 5).masked_fill(~exists, 0),
        scores=rewards.sum(1),
        group_ids=torch.zeros(len(turns), dtype=torch.long),
        log_probs=written(-0.2 - torch.cos(places) ** 2),
        top_log_probs=torch.stack([written(torch.full(shape, -0.5)), written(places - 99.0)], 2),
        ref_log_probs=written(-0.3 - torch.cos(places * 1.3) ** 2),
        entropy=written(0.2 + torch.cos(places * 1.1) ** 2),
        ref_entropy=written(torch.full(shape, math.log(3.0))),
        kl=written(torch.sin(places) ** 2),
        state_ids=places.long().masked_fill(~mask, -1),
        sum_pi_squared=written(torch.full(shape, 0.5)),
        greedy_scores=torch.zeros(len(turns)),
        gamma=1.0,
    )


def _paid(batch: Batch, token_rewards: Tensor) -> Batch:
    """Return a batch with other rewards."""
    return replace(batch, token_rewards=token_rewards, scores=token_rewards.sum(1))


def _padded(batch: Batch, columns: int) -> Batch:
    """Return a batch with more padding."""

    def padding(name: str, value: Tensor) -> Tensor:
        shape = (len(value), columns, *value.shape[2:])
        return value.new_full(shape, -1 if name in ("turn_ids", "state_ids") else 0)

    tensors: dict[str, Any] = {
        name: torch.cat([value, padding(name, value)], 1)
        for name, value in batch.tensors.items()
        if value.ndim > 1
    }
    return replace(batch, **tensors)


def _asked(estimator: Adapted, batch: Batch) -> Tensor | None:
    """Return advantages, or None where the function refuses the probe."""
    try:
        return estimator.estimate(batch.take(torch.arange(len(batch.scores))))
    except AuditError:
        raise
    except Exception:
        return None


CLOSE = 1e-3
"""Share of the largest advantage up to which answers to probes are the same."""


def _close(one: Tensor, other: Tensor, share: float = CLOSE) -> bool:
    """Return whether advantages are the same up to a share of the largest."""
    largest = max(float(one.abs().max()), 1e-6)
    return bool(((one - other).abs() <= share * largest).all())


# --- the audit ------------------------------------------------------------------------------------

SENTENCES = 2
"""Most cases of a failing check that are told."""
NEAR_BEST_BATCHES = 60
"""Most batches that are enumerated for a policy near the best response."""


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """Verdict on one of the eight questions."""

    name: str
    question: str
    verdict: str
    """One of `verdicts.HOLD` or `verdicts.FAIL`, or "not applicable"."""
    says: str
    """One sentence for a person, whose subject is the estimator."""
    cases: tuple[Reading, ...] = ()

    @property
    def lines(self) -> list[str]:
        """``says`` by its parts, each on a line that can be read alone."""
        return self.says.split("; ")

    @property
    def fails(self) -> bool:
        """Whether the estimator does something wrong."""
        return self.verdict in FAIL

    @property
    def applies(self) -> bool:
        """Whether the question applies to an estimator that reads what this one does."""
        return self.verdict != NOT_APPLICABLE


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What an audit found."""

    name: str
    adapter: str
    """Family of signatures by which the function was called."""
    reads: tuple[str, ...]
    """What it is given."""
    pays: str
    non_negative: bool
    group_sizes: tuple[int, ...]
    checks: tuple[CheckResult, ...]
    faults: tuple[str, ...]
    """Names of the known mistakes whose own construction reproduces it; none where no check
    fails."""
    writes: tuple[str, ...]
    """Arguments that the function changes in place, which others of a trainer read."""
    votes: str
    """Whether the score of a row without a token moves other rows' advantages, in a sentence."""
    seconds: float

    @property
    def holds(self) -> bool:
        """Whether no check fails."""
        return not any(check.fails for check in self.checks)

    @property
    def refusals(self) -> tuple[str, ...]:
        """What the function raised for groups of equal scores, which then count as 0."""
        said = (case.refused for check in self.checks for case in check.cases if case.refused)
        return tuple(dict.fromkeys(said))

    @property
    def kinds(self) -> tuple[str, ...]:
        """Names of the mistakes, or that none is known; nothing where no check fails."""
        return () if self.holds else self.faults or (UNKNOWN,)

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on what is no fault by itself."""
        refused = "refuses groups of equal scores, which count as 0"
        notes = [f"{refused}: {said}" for said in self.refusals]
        notes += [self.votes] if self.votes else []
        notes += [f"changes {', '.join(self.writes)} in place"] if self.writes else []
        return tuple(notes)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON: numbers, texts and lists."""
        return {"holds": self.holds, **asdict(self)}

    def __str__(self) -> str:
        """Return a sentence on each check, those that fail first, and the kinds of mistakes."""
        checks = sorted(self.checks, key=lambda check: not check.fails)
        lines = [
            f"{check.name}: {check.verdict}: " + "\n    ".join(check.lines) for check in checks
        ]
        mistakes = [f"mistake: {kind}" for kind in self.kinds]
        return "\n".join([self.name, *lines, *mistakes, *self.notes])


def check_estimator(
    function: Function | Adapted,
    *,
    adapter: str | None = None,
    name: str | None = None,
    pays: Literal["tokens", "outcome", "advantages"] = "tokens",
    non_negative: bool = False,
    group_sizes: Sequence[int] = GROUP_SIZES,
    checks: Sequence[str] = (),
    numpy: bool = False,
    draws: int = 0,
) -> Audit:
    """Hold an advantage estimator against exact gradients, as `check_env` holds an environment.

    Every batch that a small policy can draw is enumerated, so that the expected gradient has no
    sampling error. The objective is the sum over the response's tokens of A log pi, averaged over
    responses; what a loss divides by afterwards is not part of an estimator.

    Args:
        function: Gets by name those that it names of ``token_rewards``, ``response_mask``,
            ``values``, ``turn_ids``, ``response_ids`` (batch, time), ``scores``, ``group_ids``
            (batch,), ``group_size`` and ``gamma``; returns advantages (batch, time), or one per
            response. Functions with the signatures of known trainers are called by theirs.
        adapter: Name of one of `ADAPTERS`; None finds it by the keywords.
        name: What the function is called in the report.
        pays: What its documentation promises of token rewards: any, one "outcome" a response at its
            last token, or "advantages" that a credit rule has measured already.
        non_negative: Whether it promises that no reward is below 0; cases with costs are left out.
        group_sizes: Responses to a prompt, at least two sizes, each at least 2, in rising order.
        checks: Names of the checks to make; all by default.
        numpy: Pass arrays instead of tensors.
        draws: Batches of each case that are drawn in place of enumerating all, for a function that
            remembers or draws; its verdicts are those of an interval, and no mistake is named.

    Returns:
        The verdicts; ``holds`` is what a test asserts.

    Raises:
        AuditError: if the function cannot be called, raises, or returns another shape, remembers
            or draws without ``draws``, or if none of the checks applies to it or is decided.

    Example:
        >>> def reward_to_go(token_rewards, response_mask):
        ...     return (token_rewards * response_mask).flip(1).cumsum(1).flip(1)
        >>> check_estimator(reward_to_go, group_sizes=(2, 4)).holds
        True
    """
    sizes = _sizes(group_sizes)
    _check_words(pays, checks)
    if draws and draws < BLOCKS:
        raise AuditError(f"draws must be 0 or at least {BLOCKS}, got {draws}; pass 400")
    if isinstance(function, Adapted) and (adapter is not None or numpy):
        raise AuditError(
            f"adapter and numpy have no effect with {function.name}, which is adapted already; "
            "leave them out"
        )
    estimator = (
        function
        if isinstance(function, Adapted)
        else adapt(function, adapter=adapter, name=name, numpy=numpy)
    )
    started = perf_counter()
    with _settled_process():
        asked = [None if draws else _asked(estimator, probe) for probe in _probes()]
        results = tuple(
            _check(check, estimator, pays, non_negative, sizes, draws)
            for check in CHECKS
            if not checks or check.name in checks
        )
        if not any(check.applies for check in results):
            raise AuditError(
                f"none of the checks {', '.join(map(repr, checks))} applies: {estimator.name} "
                f"{results[0].says}; leave checks out to make all that apply"
            )
        for first, probe in zip(asked, _probes(), strict=True):
            again = None if first is None else _asked(estimator, probe)
            if first is not None and again is not None:
                _refuse_change(estimator, first, again)
        failed = any(check.fails for check in results)
        open_ones = [check for check in results if check.verdict == UNDECIDED]
        if open_ones and not failed:
            raise AuditError(
                f"{draws} draws decide too little: {estimator.name} {open_ones[0].says}; pass "
                f"draws={4 * draws}"
            )
        faults = named_faults(estimator, pays, non_negative) if failed and not draws else ()
        votes = "" if draws else lost_rows(estimator)[1]
    return Audit(
        name=name or estimator.name,
        adapter=estimator.adapter,
        reads=tuple(sorted(estimator.reads)),
        pays=pays,
        non_negative=non_negative,
        group_sizes=sizes,
        checks=results,
        faults=faults,
        writes=tuple(sorted(estimator.writes)),
        votes=votes,
        seconds=perf_counter() - started,
    )


@contextmanager
def _settled_process() -> Iterator[None]:
    """Judge the same whatever the process has set: dtype, gradients, autocast, device, threads."""
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    torch.set_default_dtype(torch.float32)
    torch.set_num_threads(1)  # batches are small: more threads wait for each other
    try:
        with ExitStack() as settings:
            settings.enter_context(torch.inference_mode(False))
            settings.enter_context(torch.no_grad())
            settings.enter_context(torch.autocast("cpu", enabled=False))
            if torch.get_default_device().type != "cpu":  # it slows each operation down
                settings.enter_context(torch.device("cpu"))
            yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_num_threads(threads)


def _sizes(group_sizes: Sequence[int]) -> tuple[int, ...]:
    """Return group sizes as plain whole numbers.

    Raises:
        AuditError: if they are no whole numbers, or not two or more that rise from 2 on.
    """
    try:
        sizes = tuple(map(index, group_sizes))
    except TypeError:
        sizes = ()
    if len(sizes) < 2 or min(sizes) < 2 or list(sizes) != sorted(set(sizes)):
        raise AuditError(
            f"group_sizes must be two or more rising sizes from 2 on, got {group_sizes!r}; "
            f"pass {list(GROUP_SIZES)}"
        )
    return sizes


def _check_words(pays: str, checks: Sequence[str]) -> None:
    """Refuse arguments of `check_estimator` that name nothing.

    Raises:
        AuditError: naming the value and the remedy.
    """
    if pays not in PAYS:
        raise AuditError(f"pays must be one of {', '.join(PAYS)}, got {pays!r}")
    known = [check.name for check in CHECKS]
    for word in checks:
        if word not in known:
            raise AuditError(
                f"unknown check {word!r}; {_did_you_mean(word, known)}known: "
                f"{', '.join(map(repr, known))}"
            )


def _check(
    check: Check,
    estimator: Adapted,
    pays: str,
    non_negative: bool,
    sizes: tuple[int, ...],
    draws: int,
) -> CheckResult:
    """Return the verdict on one question."""
    missing = _missing(check, estimator, pays)
    if missing:
        return _result(check, NOT_APPLICABLE, missing)
    turns = check.name == "discount" and "turn_ids" in estimator.reads
    readings = [
        read_drawn(case, case.build(pays=pays, turns=turns), estimator, draws)
        if draws
        else _case(case, estimator, pays, turns, sizes)
        for case in check.cases
        if _applies(case, estimator, non_negative, turns)
    ]
    readings = readings or [Reading(case="", verdict=EQUAL, says=UNREAD, true=0.0)]
    worst = max(readings, key=lambda reading: (VERDICTS.index(reading.verdict), _size(reading)))
    verdict, says = worst.verdict, worst.says
    worse, leak = ("", "") if draws else _leak(check, estimator)
    if leak and VERDICTS.index(verdict) < VERDICTS.index(worse):
        verdict, says = worse, leak
    if verdict in FAIL:
        failing = sorted(
            (each for each in readings if not each.holds), key=lambda each: each is not worst
        )
        sentences = list(dict.fromkeys([*([leak] if leak else []), *(e.says for e in failing)]))
        says = "; ".join(sentences[:SENTENCES])
        if len(sentences) > SENTENCES:
            says += f"; {len(sentences) - SENTENCES} more"
    return _result(check, verdict, says, tuple(readings))


def _result(check: Check, verdict: str, says: str, cases: tuple[Reading, ...] = ()) -> CheckResult:
    return CheckResult(
        name=check.name, question=check.question, verdict=verdict, says=says, cases=cases
    )


def _missing(check: Check, estimator: Adapted, pays: str) -> str:
    """Return why a question does not apply, or nothing."""
    reads = estimator.reads
    if "gamma" in check.needs and "maybe gamma" in reads and heeds_gamma(estimator):
        reads = reads | {"gamma"}
    if check.needs and not {*check.needs} & reads:
        return f"is given no {' or '.join(check.needs)}"
    if check.name == "token rewards" and pays == "outcome":
        return "is promised one reward a response"
    return ""


def _applies(case: Case, estimator: Adapted, non_negative: bool, turns: bool) -> bool:
    """Return whether a case is of the input that an estimator is promised."""
    if non_negative and not case.non_negative:
        return False
    if turns and case.per_token:
        return False
    if case in MASKS.cases and not estimator.reads & {"response_mask", "turn_ids", "response_ids"}:
        return False
    if case.name == TIMELESS and not estimator.reads & {"response_mask", "turn_ids"}:
        return False  # it cannot know what a reply is
    return len(set(case.sizes)) == 1 or "group_ids" in estimator.reads


def _case(
    case: Case, estimator: Adapted, pays: str, turns: bool, sizes: tuple[int, ...]
) -> Reading:
    """Return the verdict on one decision."""
    decisions = case.build(pays=pays, turns=turns)
    ordered = heeds_rows(estimator, decisions, case.sizes)
    found = expectations(estimator, decisions, sizes, prompt_sizes=case.sizes, ordered=ordered)
    if len(found) < 2:
        raise AuditError(
            f"group_sizes {list(sizes)} leave fewer than two that can be enumerated; begin with "
            f"{list(GROUP_SIZES[:3])}"
        )
    near = None
    if float(decisions.gradient.norm()) > 1e-9:
        fits = [
            size
            for size in sizes
            if count_batches(decisions, size, case.sizes, ordered) <= NEAR_BEST_BATCHES
        ]
        size = max(fits, default=sizes[0])
        near = expectations(
            estimator, decisions.near_best, (size,), prompt_sizes=case.sizes, ordered=ordered
        )[0]
    return read(case, decisions, found, near)


def _size(reading: Reading) -> float:
    """Return how far a verdict goes, to name the worst of several alike."""
    scales = [abs(math.log(abs(scale))) for scale in reading.scale if scale]
    return max([*reading.bias, *scales], default=0.0)


def _leak(check: Check, estimator: Adapted) -> tuple[str, str]:
    """Return verdict and sentence on what an answer depends on and must not; nothing of nothing."""
    if check is MASKS:
        leak, (broken, _) = reads_masked(estimator), lost_rows(estimator)
        return (LEAKS, leak) if leak else (NOT_FINITE, broken)
    if check is GROUPS and "group_ids" in estimator.reads:
        return LEAKS, order_matters(estimator)
    if check is LARGE_REWARDS:
        clips = clipping(estimator)
        limit = f"{clips} (limit {LARGE:.0f}, the largest reward of the cases)"
        return (CLIPPED, limit) if clips else (ROUNDS, rounding(estimator))
    return LEAKS, ""


# --- the plug-in of pytest ------------------------------------------------------------------------


def load_function(subject: str) -> Function:
    """Return a function named as "FILE.py:FUNCTION", or with "::"; the file becomes a module.

    Raises:
        AuditError: if there is no such file or function, or the file cannot be imported, which is
            then the cause.
    """
    file, colon, function = subject.replace("::", ":").rpartition(":")
    if not colon:
        file = function
    path = FilePath(file).resolve()
    names = (path.stem, f"audited_{path.stem}", f"audited_{zlib.crc32(bytes(path)):08x}")
    known = next(name for name in names if _is_free(name, path))
    spec = importlib.util.spec_from_file_location(known, path) if path.is_file() else None
    if spec is None or spec.loader is None:
        raise AuditError(
            f"name FILE.py:FUNCTION, got {subject!r}; there is no Python file {file!r}"
        )
    if not colon:
        raise AuditError(f"name a function of {file}, {file}:FUNCTION, got {subject!r}")
    module = sys.modules.get(spec.name)
    if module is None:
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        if str(path.parent) not in sys.path:
            sys.path.insert(0, str(path.parent))
        try:
            spec.loader.exec_module(module)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # what a file raises, sys.exit and pytest.skip
            del sys.modules[spec.name]
            raise AuditError(
                f"{file} cannot be imported: {type(error).__name__}: {error}"
            ) from error
    if function not in vars(module):
        raise AuditError(
            f"{file} has no {function!r}; {_did_you_mean(function, vars(module))}"
            "name a function that it has"
        )
    return getattr(module, function)


def _is_free(name: str, path: FilePath) -> bool:
    """Return whether a module's name is not taken by another file."""
    module = sys.modules.get(name)
    return module is None or getattr(module, "__file__", None) == str(path)


def pytest_addoption(parser: Any) -> None:
    """Add the options of the plug-in to pytest's."""
    group = parser.getgroup("audit", "audit of advantage estimators")
    group.addoption(
        "--audit", action="append", default=[], metavar="FILE.py:FUNCTION",
        help="audit this estimator; without paths of tests, nothing else is run",
    )  # fmt: skip
    group.addoption("--audit-adapter", choices=[*ADAPTERS], help="family of its signature")
    group.addoption("--audit-pays", choices=PAYS, default="tokens", help="what it is promised")
    group.addoption("--audit-draws", type=int, default=0, help="judge by so many drawn batches")
    group.addoption("--audit-non-negative", action="store_true", help="no reward is below 0")


def pytest_ignore_collect(collection_path: FilePath, config: Any) -> bool | None:
    """Leave out the tests of a folder where only estimators were named."""
    del collection_path
    named = config.args_source is type(config).ArgsSource.ARGS
    return True if config.getoption("--audit") and not named else None


def pytest_collection_modifyitems(session: Any, config: Any, items: list[Any]) -> None:
    """Add a test for each check of each estimator that was named."""
    import pytest

    for subject in config.getoption("--audit"):
        file, _, function = subject.replace("::", ":").rpartition(":")

        def make(part: str, run: Callable[[], None], node: str = f"{file}::{function}") -> Any:
            name = f"{node.rpartition('::')[2]}[{part}]"
            nodeid = f"{node}[{part}]"
            return _item_class().from_parent(session, name=name, nodeid=nodeid, run=run)

        try:
            audited = functools.partial(_audit_of, load_function(subject), subject, config)
        except AuditError as error:
            if error.__cause__ is None:
                raise pytest.UsageError(str(error)) from error
            items.append(make("import", functools.partial(_raise, error)))
            continue
        once = functools.cache(audited)
        items += [make(each.name, functools.partial(_report, once, each.name)) for each in CHECKS]


def _raise(error: AuditError) -> None:
    raise error


def _audit_of(function: Function, subject: str, config: Any) -> "Audit | AuditError":
    """Return the audit of an estimator under a command line's options, or why there is none."""
    try:
        return check_estimator(
            function,
            adapter=config.getoption("--audit-adapter"),
            name=subject,
            pays=config.getoption("--audit-pays"),
            non_negative=config.getoption("--audit-non-negative"),
            draws=config.getoption("--audit-draws"),
        )
    except AuditError as error:
        return error


def _report(audited: Callable[[], "Audit | AuditError"], name: str) -> None:
    """Skip or fail a test as a check of an audit says."""
    import pytest

    audit = audited()
    if isinstance(audit, AuditError):
        raise audit
    (result,) = (each for each in audit.checks if each.name == name)
    if not result.applies:
        pytest.skip(result.says)
    if result.fails:
        mistakes = (f"mistake: {kind}" for kind in audit.kinds)
        raise AuditError("; ".join([f"{result.verdict}: {result.says}", *mistakes]))


@functools.cache
def _item_class() -> Any:
    """Return the class of a test; pytest is imported only where it runs."""
    import pytest

    class AuditItem(pytest.Item):
        """One check of one estimator."""

        def __init__(self, *, run: Callable[[], None], **more: Any) -> None:
            super().__init__(**more)
            self.run = run

        def runtest(self) -> None:
            """Audit the estimator, once for all its checks."""
            self.run()

        def repr_failure(self, excinfo: Any, style: Any = None) -> Any:
            """Return the sentence of the check, without the frames of the audit."""
            if isinstance(excinfo.value, AuditError):
                return f"{self.nodeid}: {excinfo.value}"
            return super().repr_failure(excinfo, style)

        def reportinfo(self) -> tuple[Any, None, str]:
            """Return where the test is from, and its name."""
            return self.path, None, self.name

    return AuditItem


if __name__ == "__main__":
    sys.stderr.write(
        "error: this file is a plug-in of pytest; write python -m pytest -p tokengym_audit "
        "--audit FILE.py:FUNCTION, or tokengym audit FILE.py:FUNCTION of tokengym-lab\n"
    )
    sys.exit(2)
