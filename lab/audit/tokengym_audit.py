"""Audit of advantage estimators against exact policy gradients, in one file on PyTorch alone.

Install it (``pip install tokengym-audit``), or copy this file beside the tests of a trainer:

    pytest -p tokengym_audit --audit my.py:estimator

or, parametrised:

    @pytest.mark.parametrize("name", ["grpo", "rloo"])
    def test_estimator(name):
        audit = tokengym_audit.check_estimator(getattr(my, name), pays="outcome")
        assert audit.holds, str(audit)

An estimator is asked for the advantages of random small trees. A tree's chances are counts, so
that its rows are its distribution, and the expected update of each state is known exactly.

- Trees: what is drawn, and what is true of it.
- Grounds: trees as batches.
- Signatures: how the functions of known trainers are called.
- Verdict: how far the expected update of any state is from being along the true gradient.
- The smallest tree that fails, in words.
- `check_estimator`, and the plug-in of pytest.
"""

import difflib
import functools
import importlib.util
import inspect
import math
import random
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, lru_cache
from operator import attrgetter
from pathlib import Path as FilePath
from time import perf_counter
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


# --- trees ----------------------------------------------------------------------------------------

MOST_WAYS = 4
"""Most tokens between which a state chooses."""
LEAST = 2
"""Fewest rows of a way."""
EQUAL = 0.95
"""Score of a prompt whose responses all score alike: no binary number."""
TIE = 1e-5
"""Difference of worths up to which ways are alike."""
REFERENCE = (2.0, 1.0, 3.0, 1.5)
"""Weights of a state's ways under the reference."""
AHEAD, TOWARDS = 0.05, (1.0, -1.0, 0.5, -0.5)
"""How far ratios of the first token are from 1, where a policy is ahead of its rows, and which way
each goes. It is within what losses clip. Ratios of later tokens are 1, so that a token's ratio and
its response's are one at the first and a factor of the state after it: the gradient is the same by
both."""


@dataclass(frozen=True)
class Way:
    """A token of the policy, and what may follow it."""

    count: int
    """Rows that take it; a way's chance is its share of those of its state."""
    reward: float
    then: tuple["Way", ...] = ()
    reply: int = 0
    """Tokens that the partner writes after it."""


Ways = tuple[Way, ...]


def _exact(value: float) -> float:
    """Return the nearest number of which sums of a few are exact in float32, and so are ties."""
    return round(value * 2.0**18) / 2.0**18


def _split(draw: random.Random, total: int, ways: int, rare: bool) -> list[int]:
    """Return counts of unlike size that sum to a total; one is as rare as can be."""
    shares = [draw.choice((0.3, 1.0, 1.0, 3.0)) * draw.uniform(0.5, 1.5) for _ in range(ways)]
    if ways > 1 and (draw.random() < 0.4 or rare):
        shares[draw.randrange(ways)] = 0.0
    free = total - ways * LEAST
    counts = [LEAST + int(free * share / sum(shares)) for share in shares]
    counts[shares.index(max(shares))] += total - sum(counts)
    return counts


def _worths(draw: random.Random, counts: Sequence[int], scale: float) -> list[float]:
    """Return what each way is worth: all alike, two alike, a rare prize or cost, or all unlike."""
    kind = draw.choice(("alike", "pair", "prize", "unlike", "unlike"))
    own = [round(draw.uniform(-1, 1) * scale, 2) for _ in counts]
    if kind == "alike":
        own = [0.0] * len(own)
    if kind == "pair" and len(own) > 1:
        own[1] = own[0]
    if kind == "prize":
        own[counts.index(min(counts))] += draw.choice((8.0, 8.0, -8.0)) * scale
    return own


def _grow(
    draw: random.Random,
    count: int,
    depth: int,
    worth: float,
    scale: float,
    gamma: float,
    replies: bool,
    *,
    root: bool = True,
    rare: bool = False,
) -> Ways:
    """Return ways whose mean worth is given, so that a gamble can be worth a sure thing exactly.

    Args:
        draw: What draws.
        count: Rows.
        depth: Most tokens of a response.
        worth: Mean worth.
        scale: Size of the rewards.
        gamma: Discount per token.
        replies: Whether partners write.
        root: Whether this is the first state, which is a choice.
        rare: Whether one way is as rare as can be.
    """
    most = min(MOST_WAYS, count // LEAST)
    ways = 1 if most < 2 or (not root and draw.random() < 0.2) else draw.randint(2, most)
    counts = _split(draw, count, ways, rare)
    own = _worths(draw, counts, scale)
    shift = worth - sum(c * w for c, w in zip(counts, own, strict=True)) / count
    found = []
    for rows, above in zip(counts, own, strict=True):
        whole = _exact(above + shift)
        if depth == 1 or draw.random() < (0.35 if ways > 1 else 0.5):
            found.append(Way(rows, whole, reply=int(replies and draw.random() < 0.2)))
            continue
        now = _exact(draw.choice((0.0, 0.0, round(draw.uniform(-1, 1) * scale, 2), whole)))
        reply = draw.choice((0, 1, 3)) if replies else 0
        rest = (whole - now) / gamma
        then = _grow(draw, rows, depth - 1, rest, scale, gamma, replies, root=False)
        found.append(Way(rows, now, then, reply))
    return tuple(found)


def _lengthened(ways: Ways, tokens: int) -> Ways:
    """Return ways of which the first response ends with more tokens, and is paid after them."""
    first, *others = ways
    if first.then:
        return (replace(first, then=_lengthened(first.then, tokens)), *others)
    last = first
    for _ in range(tokens):
        last = Way(first.count, 0.0, (last,))
    return (last, *others)


def _each_a_turn(ways: Ways) -> Ways:
    """Return ways with a reply after each token that is not the last."""
    return tuple(replace(w, then=_each_a_turn(w.then), reply=3 * bool(w.then)) for w in ways)


def _at_the_end(ways: Ways, earned: float = 0.0) -> Ways:
    """Return ways that pay a response's sum at its last token."""
    return tuple(
        replace(way, reward=0.0, then=_at_the_end(way.then, earned + way.reward))
        if way.then
        else replace(way, reward=earned + way.reward)
        for way in ways
    )


def _least_reward(ways: Ways) -> float:
    return min(min(way.reward, _least_reward(way.then) if way.then else way.reward) for way in ways)


Step = tuple[tuple[int, ...], int, float] | None
"""A token: the ways before it, its own, its reward; None is a token of a reply."""


def _responses(ways: Ways, before: tuple[int, ...] = ()) -> Iterator[tuple[list[Step], int]]:
    """Yield the steps of every response, and its rows."""
    for number, way in enumerate(ways):
        own: list[Step] = [(before, number, way.reward), *[None] * way.reply]
        if not way.then:
            yield own, way.count
        for rest, count in _responses(way.then, (*before, number)):
            yield [*own, *rest], count


class Tree:
    """All responses of a tree as tensors (responses, time), and what is true of its states."""

    def __init__(self, ways: Ways, gamma: float, *, ahead: bool = False) -> None:
        every = list(_responses(ways))
        self.ways, self.gamma = ways, gamma
        self.counts = torch.tensor([count for _, count in every])
        numbers: dict[tuple[int, ...], int] = {}
        longest = max(len(steps) for steps, _ in every)
        told: list[list[tuple[int, int, int, int, float]]] = []
        for steps, _ in every:
            own, turn, last = [], 0, True
            for step in steps:
                if step is None:
                    turn, last = turn + last, False
                    own.append((-1, -1, 0, 9, 0.0))
                    continue
                before, number, reward = step
                state, last = numbers.setdefault(before, len(numbers)), True
                own.append((state, turn, number, number + 1, reward))
            told.append([*own, *[(-1, -1, 0, 0, 0.0)] * (longest - len(own))])
        columns = torch.tensor(told, dtype=torch.float64).unbind(2)
        self.state_ids, self.turn_ids, self.way, self.ids = (c.long() for c in columns[:4])
        self.rewards = columns[4]
        self.prefixes = list(numbers)
        """What was written before each state."""
        self.mask = self.state_ids >= 0
        self.chances = self.counts.double() / self.counts.sum()
        to_go, following = torch.zeros_like(self.rewards), torch.zeros(len(every)).double()
        for time in reversed(range(longest)):
            now = self.rewards[:, time] + gamma * following
            following = torch.where(self.mask[:, time], now, following)
            to_go[:, time] = following
        self.reach = self.by_way(torch.ones_like(to_go))
        """(states, ways) the chance of taking each."""
        self.old_pi = self.reach / self.reach.sum(1, keepdim=True)
        """(states, ways) chances under the policy that wrote the rows."""
        self.ratio = torch.ones_like(self.old_pi)
        """(states, ways) of the policy to that one."""
        if ahead:
            first = self.old_pi[0]
            apart = (torch.tensor(TOWARDS) - (first @ torch.tensor(TOWARDS).double())) * (first > 0)
            self.ratio[0] += AHEAD * apart / apart.abs().max().clamp(min=1e-12)
        self.pi = self.old_pi * self.ratio
        self.worth = self.by_way(to_go) / self.reach.clamp(min=1e-12)
        """(states, ways) the expected reward to go of each."""
        self.value = (self.pi * self.worth).sum(1)
        true = (self.worth - self.value[:, None]).where(self.pi > 0, 0.0)
        self.true = true.where(true.abs() > TIE, 0.0)
        """(states, ways) the true advantage of each: the gradient is along it."""

    def by_way(self, of: Tensor) -> Tensor:
        """Return the expectation (states, ways) of what the tokens of a way have."""
        own = self.mask
        found = torch.zeros(int(self.state_ids.max()) + 1, MOST_WAYS, dtype=torch.float64)
        weighted = (self.chances[:, None] * of)[own]
        return found.index_put_((self.state_ids[own], self.way[own]), weighted, accumulate=True)

    def tensors(self, pays: str) -> dict[str, Tensor]:
        """Return what an estimator may read of each response.

        Args:
            pays: What token rewards are: see `PAYS`.
        """
        mask, states = self.mask, self.state_ids.clamp(min=0)
        values = self.value[states].masked_fill(~mask, 0.0)
        paid = self.rewards
        if pays == "advantages":
            after, following = torch.zeros_like(values), torch.zeros(len(mask)).double()
            for time in reversed(range(mask.shape[1])):
                after[:, time] = following
                following = torch.where(mask[:, time], values[:, time], following)
            paid = (self.rewards + self.gamma * after - values).masked_fill(~mask, 0.0)
            paid[:, 0] += values[:, 0]
        is_way = self.pi > 0
        of_reference = torch.tensor(REFERENCE, dtype=torch.float64) * is_way
        of_reference = of_reference / of_reference.sum(1, keepdim=True)
        logs = self.pi.clamp(min=1e-30).log().where(is_way, 0.0)
        ref_logs = of_reference.clamp(min=1e-30).log().where(is_way, 0.0)
        old_logs = logs - self.ratio.log()

        def of_state(values: Tensor) -> Tensor:
            return values[states].masked_fill(~mask, 0.0).float()

        def of_token(values: Tensor) -> Tensor:
            return values[states, self.way].masked_fill(~mask, 0.0).float()

        top = self.pi.sort(1, descending=True).values.log()[states]
        scores = self.rewards.sum(1)
        return {
            "token_rewards": paid.float(),
            "response_mask": mask,
            "values": values.float(),
            "turn_ids": self.turn_ids,
            "response_ids": self.ids,
            "scores": scores.float(),
            "log_probs": of_token(logs),
            "old_log_probs": of_token(old_logs),
            "top_log_probs": top.masked_fill(~mask[..., None], 0.0).float(),
            "ref_log_probs": of_token(ref_logs),
            "entropy": of_state(-(self.pi * logs).sum(1)),
            "ref_entropy": of_state(-(of_reference * ref_logs).sum(1)),
            "kl": of_state((self.pi * (logs - ref_logs)).sum(1)),
            "state_ids": self.state_ids,
            "sum_pi_squared": of_state((self.pi**2).sum(1)),
            "greedy_scores": scores[self.chances.argmax()].float().expand(len(mask)),
        }


# --- grounds --------------------------------------------------------------------------------------

PAYS = ("tokens", "outcome", "advantages")
"""What token rewards may be: each token's own; the response's sum at its last token, as a trainer
with one score a response has; or each token's exact advantage, the prompt's value at the first."""
SIZES = (100, 40, 60)
"""Rows of a prompt, so that the rarest chances are .02, .05 and .03."""
LOST = (3, 8)
"""Places in a prompt at which rows without a token stand, where there are any."""
UNDER_MASK = 3.0
"""Value where the mask is False, in padded batches."""


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
    """(batch,) int64, the number of each row's prompt."""
    log_probs: Tensor
    """(batch, time), nats, of the tokens under the policy."""
    old_log_probs: Tensor
    """(batch, time), nats, under the policy that wrote them."""
    top_log_probs: Tensor
    """(batch, time, tokens), nats, of all allowed tokens there, the likeliest first, then -inf."""
    ref_log_probs: Tensor
    """(batch, time), nats, under the reference."""
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
    seed: int = 0
    """Of the generator that the estimator is given."""


@dataclass(frozen=True, kw_only=True)
class Ground:
    """Trees, one a prompt, and how their rows lie in a batch."""

    trees: tuple[Ways, ...]
    seed: int = 0
    """Of the order of rows, and of what the estimator draws."""
    gamma: float = 1.0
    pays: str = "tokens"
    pad: int = 0
    """Columns behind the longest response."""
    lost: int = 0
    """Rows of each prompt without a token, at most two."""
    mixed: bool = False
    """Whether rows of different prompts alternate."""
    ahead: bool = False
    """Whether the policy has learned since the rows were written."""

    @cached_property
    def grown(self) -> tuple[Tree, ...]:
        """The trees, with what is true of them."""
        paid = [_at_the_end(ways) if self.pays == "outcome" else ways for ways in self.trees]
        return tuple(Tree(ways, self.gamma, ahead=self.ahead) for ways in paid)

    @cached_property
    def table(self) -> dict[str, Tensor]:
        """Every response of every prompt by name, with two rows without a token behind each's."""
        time = max(tree.mask.shape[1] for tree in self.grown) + self.pad
        parts: list[dict[str, Tensor]] = []
        for number, tree in enumerate(self.grown):
            rows, columns = tree.mask.shape
            own = {"group_ids": torch.full((rows + len(LOST),), number)}
            for name, value in tree.tensors(self.pays).items():
                fill = -1 if name in ("turn_ids", "state_ids") else 0
                wide = value.new_full((rows + len(LOST), *value.shape[1:]), fill)
                wide[:rows] = value
                if value.ndim > 1:
                    more = value.new_full((len(wide), time - columns, *value.shape[2:]), fill)
                    wide = torch.cat([wide, more], 1)
                own[name] = wide
            own["scores"][-1] = 5.0
            own["state_ids"][own["state_ids"] >= 0] += 100 * number
            if self.pad:
                own["values"][~own["response_mask"]] = UNDER_MASK
            parts.append(own)
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    @cached_property
    def starts(self) -> list[int]:
        """Where each prompt's responses begin in the table."""
        sizes = [len(tree.counts) + len(LOST) for tree in self.grown]
        return [sum(sizes[:number]) for number in range(len(sizes))]

    @cached_property
    def members(self) -> list[Tensor]:
        """Each prompt's rows, as numbers of the table, in their order: the distribution."""
        generator, found = torch.Generator().manual_seed(self.seed), []
        for start, tree in zip(self.starts, self.grown, strict=True):
            rows = torch.arange(len(tree.counts)).repeat_interleave(tree.counts)
            order: list[int] = rows[torch.randperm(len(rows), generator=generator)].tolist()
            for number in range(self.lost):
                order.insert(LOST[number], len(tree.counts) + number)
            found.append(start + torch.tensor(order))
        return found

    def batch(self, members: Sequence[Tensor], draw: int = 0) -> tuple[Batch, Tensor]:
        """Return rows as a batch, and the place of each in it.

        Args:
            members: Each prompt's rows, as numbers of the table.
            draw: Another seed of what the estimator draws.
        """
        rows = torch.cat(list(members))
        places = torch.arange(len(rows))
        if self.mixed:
            owners = torch.cat([torch.full((len(m),), k) for k, m in enumerate(members)])
            generator = torch.Generator().manual_seed(self.seed)
            owners = owners[torch.randperm(len(rows), generator=generator)]
            places = owners.argsort(stable=True)
        lie = torch.empty_like(rows)
        lie[places] = rows
        tensors = {name: value[lie] for name, value in self.table.items()}
        return Batch(**tensors, gamma=self.gamma, seed=self.seed + draw), places


@lru_cache(maxsize=1024)
def ground(
    seed: int,
    *,
    sees_replies: bool = True,
    discounts: bool = False,
    by_turn: bool = False,
    blocks: bool = False,
    masks: bool = True,
    pays: str = "tokens",
    non_negative: bool = False,
    ahead: bool = False,
    forest: int = 0,
) -> Ground:
    """Return the trees of one batch.

    Args:
        seed: Number of the batch.
        sees_replies: Whether the estimator can know what a reply is.
        discounts: Whether it reads the discount.
        by_turn: Whether it reads turns, which may discount by turns.
        blocks: Whether it takes rows of a prompt for neighbours of one number.
        masks: Whether it can know a row without a token.
        pays: What token rewards are: see `PAYS`.
        non_negative: Whether no reward is below 0.
        ahead: Whether it corrects for a policy that has learned since.
        forest: Added to the seed of what is drawn; what is there by construction stays.
    """
    discounted = discounts and seed % 3 == 1
    gamma = (0.5, 0.9)[seed % 2] if discounted else 1.0
    prompts = (1, 2, 1, 3)[seed % 4]
    size = SIZES[seed // 2 % len(SIZES)]
    trees: list[Ways] = []
    draw = random.Random(forest + seed)
    while len(trees) < prompts:
        scale = draw.choice((0.3, 1.0, 1.0, 3.0))
        worth = draw.choice((0.95, 3.7, 12.0) if non_negative else (-1.0, 0.0, 0.5, 0.95, 3.7))
        count = size if blocks or not trees else size // 2
        ways = _grow(
            draw, count, draw.choice((1, 2, 3, 4)), worth, scale, gamma,
            sees_replies and seed % 4 != 0, rare=not trees and seed % 4 == 0,
        )  # fmt: skip
        if trees and seed % 10 == 1:
            ways = (Way(count // 2, EQUAL), Way(count - count // 2, EQUAL))
        if seed % 8 == 6:  # nothing is to be gained by the first token
            ways = (Way(count, 0.0, ways),)
        if seed % 8 == 3 and gamma == 1.0:
            ways = _lengthened(ways, 5)
        ways = _each_a_turn(ways) if discounted and by_turn else ways
        # Something is to be gained: a scale to hold rounding against.
        gains = bool(trees) or bool(Tree(ways, gamma).true.any())
        if gains and (not non_negative or _least_reward(ways) >= 0.0):
            trees.append(ways)
    return Ground(
        trees=tuple(trees),
        seed=forest + seed,
        gamma=gamma,
        pays=pays,
        pad=seed % 3,
        lost=len(LOST) * (masks and seed % 5 == 4),
        mixed=not blocks,
        ahead=ahead and seed % 2 == 1,
    )


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
    """What it shows: by the names of `Batch`, `turn_rewards`, `group_size`, or "maybe gamma"."""


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
    *(
        "state_ids",
        "log_probs",
        "old_log_probs",
        "top_log_probs",
        "ref_log_probs",
        "entropy",
        "ref_entropy",
        "kl",
    ),
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
    "generator": Part(lambda batch: torch.Generator().manual_seed(batch.seed), ()),
    "advantages": Part(lambda batch: gains(batch), ()),
    "config": Part(
        lambda batch: Config(gamma=batch.gamma, lam=GAE_LAMBDA, norm_adv_by_std_in_grpo=True),
        ("maybe gamma",),
    ),
}
"""All that a function can be given, by name."""
OWN = "tokengym"
PLACES = ("advantage", "weights", "loss")
"""What a function is for: it makes advantages, multiplies them, or makes a loss of them."""
OF_PLACES = {"advantages": "advantages"}
"""What a weight or a loss is given besides."""
ADAPTERS: Mapping[str, Adapter] = {
    OWN: Adapter(
        keywords={
            **{name: name for name in (*NAMES, "generator")},
            "input_ids": "response_ids",
            **{name: name for name in ("positions", "turn_scores", "final_values")},
            **{name: name for name in ("segment_ends", "group_size", "gae_lambda")},
            "paid": "scores",
        },
        marks=("token_rewards", "scores", "paid"),
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
            "old_log_probs": "old_log_probs",
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
    """What it is given: by the names of `Batch`, `turn_rewards`, `group_size`, or "maybe gamma"."""
    place: str = "advantage"
    writes: set[str] = field(default_factory=set, compare=False)
    """Arguments that it has changed in place."""


def adapt(
    function: Function,
    *,
    adapter: str | None = None,
    name: str | None = None,
    numpy: bool = False,
    place: str = "advantage",
) -> Adapted:
    """Return a function as an estimator of batches.

    Args:
        function: Takes arguments by keyword, and returns (batch, time), (batch, 1) or (batch,), as
            a tensor or an array, alone or first in a tuple.
        adapter: Name of one of `ADAPTERS`; None finds it by the keywords that the function names.
        name: What the function is called in messages.
        numpy: Pass arrays instead of tensors.
        place: What it returns: one of `PLACES`.

    Raises:
        AuditError: if the function names an argument that the audit does not have.
    """
    name = name or str(getattr(function, "__name__", type(function).__name__))
    if not callable(function):
        raise AuditError(f"{name} must be a function of token rewards or scores, got {function!r}")
    if place not in PLACES:
        raise AuditError(f"place must be one of {', '.join(PLACES)}, got {place!r}")
    if place != "advantage" and (adapter not in (None, OWN) or (numpy and place == "loss")):
        raise AuditError(f"adapter and numpy have no effect at place {place!r}; leave them out")
    parameters = _parameters(function, name)
    family = OWN if place != "advantage" else _find(adapter, parameters, name)
    words = _words(parameters, family, place, name)
    given = {word: PARTS[part] for word, part in words.items()}
    writes: set[str] = set()

    def estimate(batch: Batch) -> Tensor:
        mask = batch.response_mask.clone()  # the function may write into what it is given
        arguments = {word: part.make(batch) for word, part in given.items()}
        before = {w: v.clone() for w, v in arguments.items() if isinstance(v, Tensor)}
        weighed = gains(batch) if place == "weights" else None
        if place == "loss":
            arguments["log_probs"] = arguments["log_probs"].clone().requires_grad_()
        shown = {
            w: v.numpy() if numpy and isinstance(v, Tensor) else v for w, v in arguments.items()
        }
        try:
            with torch.set_grad_enabled(place == "loss"):
                result = function(**shown)
        except (Exception, KeyboardInterrupt):
            raise
        except BaseException as error:  # sys.exit, pytest.skip
            raise AuditError(f"{name} ended with {type(error).__name__}: {error}") from error
        writes.update(w for w, value in before.items() if not _same(value, arguments[w]))
        if place == "loss":
            return _descent(result, arguments["log_probs"], mask, name)
        advantages = _advantages(ADAPTERS[family].read(result, batch), mask, name)
        return advantages if weighed is None else advantages * weighed

    reads = frozenset(word for part in given.values() for word in part.reads)
    reads -= {"gamma"} if place != "advantage" else set()
    return Adapted(
        name=name, adapter=family, estimate=estimate, reads=reads, place=place, writes=writes
    )


def _words(
    parameters: Sequence[inspect.Parameter], family: str, place: str, name: str
) -> dict[str, str]:
    """Return the part that each argument is given.

    Raises:
        AuditError: if there is none for one of them, or for none.
    """
    keywords = {**ADAPTERS[family].keywords, **(OF_PLACES if place != "advantage" else {})}
    unknown = [p.name for p in parameters if p.name not in keywords and p.default is p.empty]
    if unknown:
        near = _did_you_mean(unknown[0], keywords)
        if unknown[0] in OF_PLACES:
            near = "for a weight pass place='weights' (--place weights), for a loss place='loss'; "
        raise AuditError(
            f"{name} needs {unknown[0]!r}, which a tree does not have under the adapter "
            f"{family!r}; {near}it has {', '.join(keywords)}; wrap the function in one that "
            "names these"
        )
    words = {p.name: keywords[p.name] for p in parameters if p.name in keywords}
    if not words or (place == "loss" and "log_probs" not in words):
        raise AuditError(
            f"{name} names no {'log_probs' if words else 'argument of the audit'}; the adapter "
            f"{family!r} has {', '.join(keywords)}"
        )
    return words


def gains(batch: Batch) -> Tensor:
    """Return what is weighed, (batch, time): rewards to go less the mean of the prompt's scores.

    It is one number a row where the score is paid at the last token.
    """
    same = (batch.group_ids[:, None] == batch.group_ids).to(batch.scores.dtype)
    paid = batch.token_rewards.masked_fill(~batch.response_mask, 0.0)
    above = paid.flip(1).cumsum(1).flip(1) - (same @ batch.scores / same.sum(1))[:, None]
    return above * batch.response_mask


def _descent(result: Any, log_probs: Tensor, mask: Tensor, name: str) -> Tensor:
    """Return the advantages (batch, time) that a loss amounts to: what multiplies d log pi."""
    loss = result[0] if isinstance(result, tuple) else result
    if not isinstance(loss, Tensor) or not loss.requires_grad:
        raise AuditError(f"{name} must return a loss with its gradient by log_probs")
    weights = mask.to(loss.dtype) if loss.shape == mask.shape else torch.ones_like(loss)
    (gradient,) = torch.autograd.grad(loss, log_probs, weights)
    return -gradient.double().masked_fill(~mask, 0.0)


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


# --- verdict --------------------------------------------------------------------------------------

BATCHES, CHECKED = 40, 6
"""Batches of trees; and those that are asked again with more padding."""
EXACT = 1e-3
"""A fault above which the other readings are asked for as well."""
TOLERANCE = 5e-3
"""Largest part aside of the true gradient, as a share of the advantages' deviation in a state."""
ROUNDING = 1e-3
"""Share of a batch's largest advantage below which a deviation is taken for rounding."""
NOTHING = 1e-5
"""Share of a prompt's largest advantage up to which what is along the gradient is none: blind."""
AT = (0, 1, 2, 3, -1)
"""Where the one row more stands among its prompt's: who trains each second row is met at both."""
DRAWS = 16
"""Draws over which a fault of what draws is averaged, to see whether it stays."""
MORE = 24
"""As many places where none of those was trained, as of who leaves out half by chance."""

HOLDS = "holds"
KINDS: Mapping[str, float] = {
    "tilted": 0.0,
    "biased": 0.0,
    "blind": 2.0,
    "reversed": 3.0,
    "reads padding": 4.0,
    "raises": 5.0,
    "not finite": 9.0,
}
"""Faults, from the least to the worst, and the size of one that has no other."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """How far an estimator's expected update is from the gradient."""

    size: float = 0.0
    """Of what is aside, in deviations of the advantage; beyond 1 a number of the kind."""
    kind: str = ""
    tree: int = 0
    """The prompt in whose tree it is."""
    state: int = 0
    taken: tuple[float, ...] = ()
    """What each way of that state is taken for, as a worth."""
    says: str = ""
    """Of what is in no state: what was found."""

    @property
    def fails(self) -> bool:
        """Whether it is more than rounding."""
        return self.size > TOLERANCE


class _RaisedError(Exception):
    """A function raised an error."""


@contextmanager
def _drawing(seed: int) -> Iterator[None]:
    """Draw the same in every batch: of torch, of Python and, where it is there, of NumPy."""
    numpy = sys.modules.get("numpy")
    states = torch.get_rng_state(), random.getstate(), numpy and numpy.random.get_state()
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    if numpy:
        numpy.random.seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        random.setstate(states[1])
        if numpy:
            numpy.random.set_state(states[2])


@dataclass
class Judge:
    """An estimator on one ground: three readings of its limit in large groups.

    - *all*: all rows once. Exact for what is a function of the whole group.
    - *twice*: all rows twice over; what falls as 1 / N is taken off. For what is nearly so.
    - *one more*: one row more, which is each response in turn while the others stay. Exact for
      whatever the own row does not move.

    A right estimator is exact in one of them, so that the least fault counts.
    """

    estimator: "Adapted"
    ground: Ground
    draws: int = 1
    """Over how many draws answers are averaged."""
    places: Sequence[int] = AT
    """Where one row more stands."""
    asked: int = 0
    """Batches so far."""

    def ask(self, members: Sequence[Tensor], draw: int = 0) -> Tensor:
        """Return the advantages of rows, prompt after prompt.

        Raises:
            _RaisedError: if the function raises.
        """
        found = [self._ask(members, draw + each) for each in range(self.draws)]
        return found[0] if self.draws == 1 else torch.stack(found).mean(0)

    def _ask(self, members: Sequence[Tensor], draw: int) -> Tensor:
        self.asked += 1
        batch, places = self.ground.batch(members, draw)
        with _drawing(self.ground.seed + draw):
            try:
                return self.estimator.estimate(batch)[places]
            except AuditError:
                raise
            except Exception as error:
                raise _RaisedError(f"{type(error).__name__}: {error}") from error

    def is_luck(self, fault: Fault) -> bool:
        """Return whether a fault of what draws goes away as draws are averaged."""
        members = self.ground.members
        if fault.size > 1.0 or not _differ(self.ask(members), self.ask(members, 1)):
            return False
        return Judge(self.estimator, self.ground, DRAWS).fault().size < 0.5 * fault.size

    def fault(self, *, padding: bool = False) -> Fault:
        """Return the worst fault over the trees, the least over the readings.

        Args:
            padding: Whether it is asked again with more padding.
        """
        try:
            return self._fault(padding)
        except _RaisedError as error:
            return Fault(size=KINDS["raises"], kind="raises", says=str(error))

    def _fault(self, padding: bool) -> Fault:
        members = self.ground.members
        gains = self.ask(members)
        if not bool(gains.isfinite().all()):
            return _not_finite(gains)
        if padding and not _differ(gains, self.ask(members, 1)):  # else it remembers, or draws
            padded = Judge(self.estimator, replace(self.ground, pad=self.ground.pad + 2))
            wide, repeated = (padded.ask(padded.ground.members, draw) for draw in (0, 1))
            wide = wide[:, : gains.shape[1]]
            if _differ(gains, wide) and not _differ(wide, repeated[:, : gains.shape[1]]):
                moved = _number(float((gains - wide).abs().max()))
                says = f"an advantage moves by {moved} when two columns of padding are added"
                return Fault(size=KINDS["reads padding"], kind="reads padding", says=says)
        largest = float(gains.abs().max())
        moments = self._by_response(members, gains)
        twice: tuple[Tensor, Tensor] | None = None
        worst = Fault()
        for number in range(len(self.ground.grown)):
            fault = self._of_tree(number, moments, largest)
            if fault.size > EXACT:
                if twice is None:
                    doubled = [rows.repeat(2) for rows in members]
                    far = self._by_response(doubled, self.ask(doubled))
                    twice = (2 * far[0] - moments[0], far[1])
                fault = min(fault, self._of_tree(number, twice, largest), key=_size)
            if fault.size > EXACT and self.places:
                again = self._one_more(number, largest, self.places)
                if again.kind == "blind":
                    again = self._one_more(number, largest, range(MORE))
                fault = min(fault, again, key=_size)
            worst = max(worst, fault, key=_size)
        return worst

    def _by_response(self, members: Sequence[Tensor], gains: Tensor) -> tuple[Tensor, Tensor]:
        """Return each response's mean advantages, and of their squares, (responses, time)."""
        rows = torch.cat(list(members))
        size = len(self.ground.table["group_ids"])
        count = torch.zeros(size, dtype=torch.float64)
        count = count.index_add(0, rows, torch.ones(len(rows)).double()).clamp(min=1)[:, None]
        zeros = torch.zeros(size, gains.shape[1], dtype=torch.float64)
        return zeros.index_add(0, rows, gains) / count, zeros.index_add(0, rows, gains**2) / count

    def _of_tree(self, number: int, moments: tuple[Tensor, Tensor], largest: float) -> Fault:
        tree, start = self.ground.grown[number], self.ground.starts[number]
        rows, time = tree.mask.shape
        own = [each[start : start + rows, :time] for each in moments]
        return _fault_of(tree, own[0], own[1], largest, number)

    def _one_more(self, number: int, largest: float, places: Sequence[int]) -> Fault:
        """Return the fault where one row is each response in turn, and all others stay."""
        tree, start = self.ground.grown[number], self.ground.starts[number]
        every = [torch.cat([rows, rows[:1]]) for rows in self.ground.members]
        others, before = self.ground.members[number], sum(map(len, every[:number]))
        gains = torch.zeros(tree.mask.shape, dtype=torch.float64)
        squares = torch.zeros_like(gains)
        for each in places:
            place = each % (len(others) + 1)
            for response in range(len(tree.counts)):
                own = torch.tensor([start + response])
                every[number] = torch.cat([others[:place], own, others[place:]])
                found = self.ask(every)
                if not bool(found.isfinite().all()):
                    return _not_finite(found)
                row = found[before + place, : gains.shape[1]]
                gains[response] += row / len(places)
                squares[response] += row**2 / len(places)
        return _fault_of(tree, gains, squares, largest, number)


def _size(fault: Fault) -> float:
    return fault.size


def _not_finite(gains: Tensor) -> Fault:
    count = int((~gains.isfinite()).any(1).sum())
    says = f"{count} of {len(gains)} rows have an advantage that is no finite number"
    return Fault(size=KINDS["not finite"], kind="not finite", says=says)


def _differ(one: Tensor, other: Tensor) -> bool:
    """Return whether answers are apart by more than rounding."""
    return not float((one - other).abs().max()) <= ROUNDING * float(one.abs().max())


def _fault_of(tree: Tree, gains: Tensor, squares: Tensor, largest: float, number: int) -> Fault:
    """Return the worst fault of any state: how far its expected update is from the gradient.

    Args:
        tree: The tree.
        gains: (responses, time) mean advantage of each.
        squares: (responses, time) mean of its square.
        largest: Largest advantage of the batch.
        number: The tree's prompt.
    """
    found = tree.by_way(gains) / tree.reach.clamp(min=1e-12) / tree.ratio
    mean = (tree.pi * found).sum(1, keepdim=True)
    apart = (found - mean).where(tree.pi > 0, 0.0)
    spread = tree.by_way(squares).sum(1) / tree.reach.sum(1) - mean[:, 0] ** 2
    square = (tree.pi * tree.true**2).sum(1)
    along = (tree.pi * apart * tree.true).sum(1) / square.clamp(min=1e-30)
    off = (tree.pi * (apart - along[:, None] * tree.true) ** 2).sum(1).sqrt()
    measure = spread.clamp(min=0).sqrt().clamp(min=max(ROUNDING * largest, 1e-12))
    ahead = along * square.sqrt()
    gain = square > 0
    sizes = off / measure
    own = max(float(gains.abs().max()), ROUNDING * largest)
    sizes = sizes.where(~(gain & (ahead <= NOTHING * own)), KINDS["blind"])
    sizes = sizes.where(~(gain & (ahead < -NOTHING * largest)), KINDS["reversed"])
    state = int(sizes.argmax())
    size = float(sizes[state])
    kind = {KINDS["blind"]: "blind", KINDS["reversed"]: "reversed"}.get(
        size, "tilted" if gain[state] else "biased"
    )
    unit = along[state].abs() if gain[state] else (along * square).sum() / square.sum()
    unit = unit if float(unit) > NOTHING * largest else torch.ones(()).double()
    taken = (tree.value[state] + apart[state] / unit)[tree.pi[state] > 0]
    return Fault(size=size, kind=kind, tree=number, state=state, taken=tuple(taken.tolist()))


def _asks(estimator: "Adapted", pays: str, non_negative: bool) -> Callable[..., Ground]:
    """Return the grounds for what an estimator reads, by their number."""
    reads = estimator.reads
    discounts = "gamma" in reads or ("maybe gamma" in reads and _heeds_gamma(estimator))
    return functools.partial(
        ground,
        sees_replies=bool(reads & {"response_mask", "turn_ids", "response_ids"}),
        discounts=discounts,
        by_turn=bool(reads & {"turn_ids", "turn_rewards"}),
        blocks="group_size" in reads or "group_ids" not in reads,
        masks="response_mask" in reads,
        pays=pays,
        non_negative=non_negative,
        ahead=estimator.place == "loss" and "old_log_probs" in reads,
    )


def _heeds_gamma(estimator: "Adapted") -> bool:
    """Return whether an estimator's answer depends on the discount, per token or per turn."""
    batch, _ = (made := ground(3, blocks=True, masks=False)).batch(made.members)
    try:
        plain, discounted = (estimator.estimate(replace(batch, gamma=g)) for g in (1.0, 0.5))
    except AuditError:
        raise
    except Exception:
        return False
    return _differ(plain, discounted)


def judge(
    estimator: "Adapted",
    *,
    pays: str = "tokens",
    non_negative: bool = False,
    batches: int = BATCHES,
    forest: int = 0,
) -> tuple[Fault, Ground | None]:
    """Return the first fault that is more than rounding, or the largest that is none, and where.

    Args:
        estimator: The estimator.
        pays: What it is promised of token rewards.
        non_negative: Whether it is promised that no reward is below 0.
        batches: How many batches of trees.
        forest: Added to the seed of what is drawn.

    Raises:
        AuditError: if the function raises in the first batch, or draws too much to be judged.
    """
    asks, worst, where = _asks(estimator, pays, non_negative), Fault(), None
    for number in range(batches):
        lie = asks(number, forest=forest)
        fault = Judge(estimator, lie).fault(padding=number < CHECKED)
        if fault.kind == "raises" and number == 0:
            raise AuditError(f"{estimator.name} raised {fault.says}")
        if fault.size > worst.size:
            worst, where = fault, lie
        if fault.fails:
            if Judge(estimator, lie).is_luck(fault):
                raise AuditError(
                    f"{estimator.name} draws too much to be judged: what it shows goes away as "
                    f"{DRAWS} draws are averaged; judge it with its draws held, or averaged"
                )
            break
    return worst, where


# --- the smallest tree that fails -----------------------------------------------------------------

ASKED = 400
"""Most batches that are asked to find a smaller tree."""
LETTERS = "abcd"


def smallest(
    estimator: "Adapted", fault: Fault, lie: Ground, least_reward: float
) -> tuple[Fault, Ground]:
    """Return a fault of the same kind on the smallest ground that was found.

    It is looked for by the readings of all rows, and then confirmed by every one.

    Args:
        estimator: The estimator.
        fault: What was found.
        lie: Where.
        least_reward: No reward of a smaller tree is below it.
    """
    for places in ((), AT[:2]):
        _, small = _descended(estimator, fault, lie, least_reward, places)
        found = Judge(estimator, small).fault(padding=fault.kind == "reads padding")
        if found.kind == fault.kind and found.fails:
            return found, small
    return fault, lie


def _descended(
    estimator: "Adapted", fault: Fault, lie: Ground, least_reward: float, places: Sequence[int]
) -> tuple[Fault, Ground]:
    """Return what `smallest` does, by some readings."""
    asked, bar, padding = 0, min(fault.size, 10 * TOLERANCE), fault.kind == "reads padding"
    candidates, number, last = list(_simpler(lie)), 0, 0  # where the last one was found
    while asked < ASKED and candidates:
        each = candidates[number % len(candidates)]
        if number - last > len(candidates):
            break
        number += 1
        if min(map(_least_reward, each.trees)) < least_reward:
            continue
        judging = Judge(estimator, each, places=places)
        found = judging.fault(padding=padding)
        asked += judging.asked
        if found.kind == fault.kind and found.size >= bar:
            number = number % len(candidates) - 1
            fault, lie, candidates = found, each, list(_simpler(each))
            last = number
    return fault, lie


def _simpler(lie: Ground) -> Iterator[Ground]:
    """Yield grounds with a little less, the greatest step first."""
    for number in range(len(lie.trees) if len(lie.trees) > 1 else 0):
        yield replace(lie, trees=(*lie.trees[:number], *lie.trees[number + 1 :]))
    for name in ("pad", "lost", "mixed", "ahead"):
        if getattr(lie, name):
            yield replace(lie, **{name: type(getattr(lie, name))()})
    if lie.gamma != 1.0:
        yield replace(lie, gamma=1.0)
    for number, ways in enumerate(lie.trees):
        for other in _simpler_ways(ways, lie.gamma):
            trees = [*lie.trees]
            trees[number] = other
            yield replace(lie, trees=tuple(trees))


def _simpler_ways(ways: Ways, gamma: float) -> Iterator[Ways]:
    """Yield trees with a way, a choice, a reply or a digit less."""
    for number, way in enumerate(ways):
        others = [ways[:number], ways[number + 1 :]]
        if len(ways) > 1:
            yield others[0] + others[1]
        for simpler in _simpler_way(way, gamma):
            yield (*others[0], simpler, *others[1])
    even = 20 // max(len(ways), 1)
    if not any(way.then for way in ways) and any(way.count != even for way in ways):
        yield tuple(replace(way, count=even) for way in ways)


def _simpler_way(way: Way, gamma: float) -> Iterator[Way]:
    """Yield a way that ends sooner, or has a shorter reply, rounder figures, or less behind it."""
    if way.then:
        yield Way(way.count, _worth(way, gamma))
    if len(way.then) == 1:
        yield replace(way.then[0], reward=way.reward + gamma * way.then[0].reward)
    for reply in range(min(way.reply, 2)):
        yield replace(way, reply=reply)
    for then in _simpler_ways(way.then, gamma):
        yield replace(way, then=then, count=sum(other.count for other in then))
    if not way.then and way.count > 10:
        yield replace(way, count=10)
    digits = math.floor(math.log10(abs(way.reward))) if way.reward else 0
    for reward in (0.0, 1.0, round(way.reward), round(way.reward, 1 - digits)):
        if way.reward not in (0.0, 1.0) and reward != way.reward:
            yield replace(way, reward=_exact(reward))


def _worth(way: Way, gamma: float) -> float:
    """Return the expected reward to go of a way."""
    rest = sum(w.count * _worth(w, gamma) for w in way.then)
    return way.reward + gamma * rest / way.count if way.then else way.reward


def _number(value: float) -> str:
    """Return a figure of three digits."""
    return f"{value:.3g}" if abs(value) > 5e-4 else "0"


def _said(fault: Fault, lie: Ground) -> str:
    """Return a fault in a sentence."""
    if not fault.taken:
        return fault.says
    tree = lie.grown[fault.tree]
    ways = [
        f"{LETTERS[way]} (chance {_number(float(tree.pi[fault.state, way]))}) is worth "
        f"{_number(float(tree.worth[fault.state, way]))} and taken for {_number(taken)}"
        for way, taken in zip(
            (tree.pi[fault.state] > 0).nonzero()[:, 0].tolist(), fault.taken, strict=True
        )
    ]
    before = " ".join(LETTERS[way] for way in tree.prefixes[fault.state])
    where = f"after {before}" if before else "at the first token"
    about = f" of prompt {fault.tree + 1}" if len(lie.trees) > 1 else ""
    return f"{where}{about}, {', '.join(ways)}"


def drawn(lie: Ground) -> tuple[str, ...]:
    """Return the trees of a ground as lines of text: chances, tokens, what they pay."""
    lines = []
    for number, tree in enumerate(lie.grown):
        about = [f"prompt {number + 1}: {int(tree.counts.sum())} responses"]
        about += [f"discount {lie.gamma:g}"] if lie.gamma != 1.0 else []
        about += [f"{lie.lost} rows without a token"] if lie.lost else []
        about += [f"{lie.pad} columns of padding"] if lie.pad else []
        about += [f"log_probs up to {AHEAD:g} from old_log_probs"] if lie.ahead else []
        lines += [", ".join(about), *_lines(tree.ways, "  ")]
    return tuple(lines)


def _lines(ways: Ways, indent: str) -> Iterator[str]:
    total = sum(way.count for way in ways)
    for letter, way in zip(LETTERS, ways, strict=False):
        reply = f", then a reply of {way.reply}" if way.reply else ""
        chance = _number(way.count / total)
        yield f"{indent}{letter}  chance {chance}, pays {_number(way.reward)}{reply}"
        yield from _lines(way.then, indent + "  ")


# --- the audit ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What an audit found."""

    name: str
    adapter: str
    """Family of signatures by which the function was called."""
    place: str
    """What it returns: see `PLACES`."""
    reads: tuple[str, ...]
    """What it is given."""
    pays: str
    non_negative: bool
    verdict: str
    """"holds", or one of `KINDS`."""
    size: float
    """The largest fault, as a share of the advantages' deviation; beyond 1 see `KINDS`."""
    says: str
    """What is wrong, on the smallest tree that was found; nothing where it holds."""
    tree: tuple[str, ...]
    """That tree in lines."""
    writes: tuple[str, ...]
    """Arguments that the function changes in place, which others of a trainer read."""
    batches: int
    """Batches of trees that it was to hold in."""
    seconds: float

    @property
    def holds(self) -> bool:
        """Whether nothing is wrong."""
        return self.verdict == HOLDS

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on what is no fault by itself."""
        return (f"changes {', '.join(self.writes)} in place",) if self.writes else ()

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON: numbers, texts and lists."""
        return {"holds": self.holds, **asdict(self)}

    def __str__(self) -> str:
        """Return the verdict with its sentence, and the tree that shows it."""
        share = f"largest fault {self.size:.1g}, limit {TOLERANCE:g}"
        about = f"holds in {self.batches} batches of trees ({share})"
        first = f"{self.name}: {about if self.holds else f'{self.verdict}: {self.says}'}"
        return "\n".join([first, *(f"  {line}" for line in self.tree), *self.notes])


def check_estimator(
    function: "Function | Adapted",
    *,
    place: Literal["advantage", "weights", "loss"] = "advantage",
    adapter: str | None = None,
    name: str | None = None,
    pays: Literal["tokens", "outcome", "advantages"] = "tokens",
    non_negative: bool = False,
    numpy: bool = False,
) -> Audit:
    """Hold an advantage estimator against exact gradients, as `check_env` holds an environment.

    It is asked for the advantages of random small trees, whose rows are their distribution, so
    that its expected update in large groups has no sampling error. The objective is the sum over
    the response's tokens of A log pi, averaged over responses.

    Args:
        function: Gets by name those that it names of ``token_rewards``, ``response_mask``,
            ``values``, ``turn_ids``, ``response_ids`` (batch, time), ``scores``, ``group_ids``
            (batch,), ``group_size``, ``gamma`` and others; returns advantages (batch, time), or one
            per response. Functions with the signatures of known trainers are called by theirs.
        place: What it returns: advantages; "weights" on ``advantages``, which are rewards to go
            less the mean of their prompt's scores; or a "loss" of them, which is judged by its
            gradient, and at ratios other than 1 where it names ``old_log_probs``.
        adapter: Name of one of `ADAPTERS`; None finds it by the keywords.
        name: What the function is called in the report.
        pays: What its documentation promises of token rewards: any, one "outcome" a response at its
            last token, or "advantages" that a credit rule has measured already.
        non_negative: Whether it promises that no reward is below 0.
        numpy: Pass arrays instead of tensors.

    Returns:
        The verdict; ``holds`` is what a test asserts.

    Raises:
        AuditError: if the function cannot be called, raises at once, or returns another shape.

    Example:
        >>> def reward_to_go(token_rewards, response_mask):
        ...     return (token_rewards * response_mask).flip(1).cumsum(1).flip(1)
        >>> check_estimator(reward_to_go).holds
        True
    """
    if pays not in PAYS:
        raise AuditError(f"pays must be one of {', '.join(PAYS)}, got {pays!r}")
    if isinstance(function, Adapted) and (adapter is not None or numpy or place != "advantage"):
        raise AuditError(
            f"adapter, numpy and place have no effect with {function.name}, which is adapted "
            "already; leave them out"
        )
    estimator = (
        function
        if isinstance(function, Adapted)
        else adapt(function, adapter=adapter, name=name, numpy=numpy, place=place)
    )
    started = perf_counter()
    with settled_process():
        fault, where = judge(estimator, pays=pays, non_negative=non_negative)
        says = ""
        tree: tuple[str, ...] = ()
        if fault.fails and where is not None:
            least = 0.0 if non_negative else -math.inf
            fault_, lie = smallest(estimator, fault, where, least)
            says, tree = _said(fault_, lie), drawn(lie)
    return Audit(
        name=name or estimator.name,
        adapter=estimator.adapter,
        place=place,
        reads=tuple(sorted(estimator.reads)),
        pays=pays,
        non_negative=non_negative,
        verdict=fault.kind if fault.fails else HOLDS,
        size=fault.size,
        says=says,
        tree=tree,
        writes=tuple(sorted(estimator.writes)),
        batches=BATCHES,
        seconds=perf_counter() - started,
    )


@contextmanager
def settled_process() -> Iterator[None]:
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
    group.addoption("--audit-place", choices=PLACES, default="advantage", help="what it returns")
    group.addoption("--audit-non-negative", action="store_true", help="no reward is below 0")


def pytest_ignore_collect(collection_path: FilePath, config: Any) -> bool | None:
    """Leave out the tests of a folder where only estimators were named."""
    del collection_path
    named = config.args_source is type(config).ArgsSource.ARGS
    return True if config.getoption("--audit") and not named else None


def pytest_collection_modifyitems(session: Any, config: Any, items: list[Any]) -> None:
    """Add a test for each estimator that was named."""
    import pytest

    for subject in config.getoption("--audit"):
        file, _, function = subject.replace("::", ":").rpartition(":")
        try:
            run = functools.partial(_test, load_function(subject), subject, config)
        except AuditError as error:
            if error.__cause__ is None:
                raise pytest.UsageError(str(error)) from error
            run = functools.partial(_raise, error)
        items.append(
            _item_class().from_parent(session, name=function, nodeid=f"{file}::{function}", run=run)
        )


def _raise(error: AuditError) -> None:
    raise error


def _test(function: Function, subject: str, config: Any) -> None:
    """Fail as the audit of an estimator says under a command line's options."""
    audit = check_estimator(
        function,
        place=config.getoption("--audit-place"),
        adapter=config.getoption("--audit-adapter"),
        name=subject,
        pays=config.getoption("--audit-pays"),
        non_negative=config.getoption("--audit-non-negative"),
    )
    if not audit.holds:
        raise AuditError("\n".join([f"{audit.verdict}: {audit.says}", *audit.tree]))


@functools.cache
def _item_class() -> Any:
    """Return the class of a test; pytest is imported only where it runs."""
    import pytest

    class AuditItem(pytest.Item):
        """One estimator."""

        def __init__(self, *, run: Callable[[], None], **more: Any) -> None:
            super().__init__(**more)
            self.run = run

        def runtest(self) -> None:
            """Audit the estimator."""
            self.run()

        def repr_failure(self, excinfo: Any, style: Any = None) -> Any:
            """Return the sentence, without the frames of the audit."""
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
