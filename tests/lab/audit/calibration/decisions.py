"""Small decision processes, and what an estimator does to a policy in them, by brute force.

Nothing here is taken from the audit: trees are written out, each ordered batch of responses is
drawn, and the update of every decision is added up with its probability.
"""

import inspect
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch

Estimator = Callable[..., Any]
"""Named inputs in, advantages out; alone or first in a tuple."""


@dataclass(frozen=True)
class Way:
    """One token that may be written at a decision, and what follows it."""

    chance: float
    reward: float = 0.0
    then: tuple["Way", ...] = ()
    reply: int = 0  # tokens of somebody else between this token and the next decision


@dataclass(frozen=True)
class Token:
    """A token of a response. A reply's token has no decision."""

    decision: int
    way: int
    reward: float
    value: float
    turn: int

    @property
    def written(self) -> bool:
        return self.decision >= 0


@dataclass(frozen=True)
class Decision:
    """A point where a token is chosen: how often it is reached, and what each way is worth."""

    reach: float
    chances: tuple[float, ...]
    advantages: tuple[float, ...]


MOST_WAYS = 3
SMALLEST_ADVANTAGE = 0.05  # below it, all that there is may be rounding
Response = tuple[float, tuple[Token, ...]]
"""Probability of the whole response, and its tokens."""


def worth(ways: Sequence[Way], gamma: float) -> float:
    """Expected discounted reward from a decision on; replies take no time."""
    return sum(way.chance * (way.reward + gamma * worth(way.then, gamma)) for way in ways)


class Prompt:
    """A tree of decisions: its responses with their probabilities, and each decision's truth."""

    def __init__(self, ways: Sequence[Way], gamma: float = 1.0, first_decision: int = 0) -> None:
        self.decisions: list[Decision] = []
        self._first = first_decision
        self.responses: list[Response] = list(self._walk(tuple(ways), gamma, 1.0, 0))

    def _walk(
        self, ways: tuple[Way, ...], gamma: float, reach: float, turn: int
    ) -> Iterator[Response]:
        number = self._first + len(self.decisions)
        value = worth(ways, gamma)
        gains = [way.reward + gamma * worth(way.then, gamma) - value for way in ways]
        chances = tuple(way.chance for way in ways)
        self.decisions.append(Decision(reach, chances, tuple(gains)))
        for place, way in enumerate(ways):
            token = Token(number, place, way.reward, value, turn)
            if not way.then:
                yield way.chance, (token,)
                continue
            reply = (Token(-1, 7, 0.0, worth(way.then, gamma), -1),) * way.reply
            later = self._walk(way.then, gamma, reach * way.chance, turn + bool(way.reply))
            for chance, rest in later:
                yield way.chance * chance, (token, *reply, *rest)


@dataclass(frozen=True)
class Case:
    """Prompts in one batch, as many responses to each as stated, and a discount."""

    name: str
    trees: tuple[tuple[Way, ...], ...]
    sizes: tuple[int, ...] = (2,)
    gamma: float = 1.0
    interleaved: bool = False
    lost: float = 0.0  # chance that a response has no token left, whatever was written
    lost_score: float = 0.0  # what such a row is said to score

    def enlarged(self, size: int) -> "Case":
        return replace(self, sizes=(size,) * len(self.trees))


class Batches:
    """Every batch of a case as the named inputs of an estimator."""

    def __init__(self, case: Case, pays_outcome: bool, padding: int = 0, garbage: float = 0.0):
        self.case = case
        self.prompts: list[Prompt] = []
        for tree in case.trees:
            first = sum(len(prompt.decisions) for prompt in self.prompts)
            self.prompts.append(Prompt(tree, case.gamma, first))
        self.decisions = [decision for prompt in self.prompts for decision in prompt.decisions]
        responses = [response for prompt in self.prompts for response in prompt.responses]
        kept, gone = 1.0 - case.lost, case.lost
        self.chances = [chance * kept for chance, _ in responses]
        self.starts = [0]
        for prompt in self.prompts:
            self.starts.append(self.starts[-1] + len(prompt.responses))
        if gone:  # of one prompt, to which a row without a token is one response more
            assert len(self.prompts) == 1
            responses = [*responses, (1.0, ())]
            self.chances.append(gone)
            self.starts[-1] += 1
        width = max(len(tokens) for _, tokens in responses) + padding
        self.written = torch.zeros(len(responses), width, dtype=torch.bool)
        self.rewards = torch.zeros(len(responses), width)
        self.values = torch.full((len(responses), width), garbage)
        self.turns = torch.full((len(responses), width), -1, dtype=torch.int64)
        self.ids = torch.zeros(len(responses), width, dtype=torch.int64)
        self.taken = torch.full((len(responses), width), -1, dtype=torch.int64)
        self.way = torch.zeros(len(responses), width, dtype=torch.int64)
        self.scores = torch.zeros(len(responses))
        for row, (_, tokens) in enumerate(responses):
            if not tokens:
                self.scores[row] = case.lost_score
                continue
            last = max(place for place, token in enumerate(tokens) if token.written)
            paid = sum(token.reward for token in tokens)
            for place, token in enumerate(tokens):
                self.ids[row, place] = 11 + token.way if token.written else 5
                if not token.written:
                    continue
                self.written[row, place] = True
                outcome = paid if place == last else 0.0
                self.rewards[row, place] = outcome if pays_outcome else token.reward
                self.values[row, place] = token.value
                self.turns[row, place] = token.turn
                self.taken[row, place] = token.decision
                self.way[row, place] = token.way
            self.scores[row] = self.rewards[row].sum()
        self.group_ids = self._group_ids()

    def _group_ids(self) -> torch.Tensor:
        rows = [[prompt] * size for prompt, size in enumerate(self.case.sizes)]
        if self.case.interleaved:
            turns = itertools.zip_longest(*rows)
            return torch.tensor([row for turn in turns for row in turn if row is not None])
        return torch.tensor([row for prompt in rows for row in prompt])

    def ordered(self) -> Iterator[tuple[float, tuple[int, ...]]]:
        """Every ordered batch with its probability: the number of each row's response."""
        ranges = [range(self.starts[p], self.starts[p + 1]) for p in self.group_ids.tolist()]
        for rows in itertools.product(*ranges):
            yield math.prod(self.chances[row] for row in rows), rows

    def counted(self) -> Iterator[tuple[float, tuple[int, ...]]]:
        """One batch for all of its orders. For estimators to which the order does not matter."""
        kinds = []
        for prompt, size in enumerate(self.case.sizes):
            numbers = range(self.starts[prompt], self.starts[prompt + 1])
            kinds.append(list(itertools.combinations_with_replacement(numbers, size)))
        for parts in itertools.product(*kinds):
            chance = 1.0
            for part in parts:
                orders = math.factorial(len(part))
                for number in set(part):
                    orders //= math.factorial(part.count(number))
                chance *= orders * math.prod(self.chances[number] for number in part)
            yield chance, self._laid_out(parts)

    def _laid_out(self, parts: Sequence[Sequence[int]]) -> tuple[int, ...]:
        left = [iter(part) for part in parts]
        return tuple(next(left[prompt]) for prompt in self.group_ids.tolist())

    def inputs(self, rows: Sequence[int] | torch.Tensor) -> dict[str, Any]:
        index = torch.as_tensor(rows)
        rewards = self.rewards[index]
        sizes = set(self.case.sizes)
        return {
            "token_rewards": rewards,
            "response_mask": self.written[index],
            "values": self.values[index],
            "turn_ids": self.turns[index],
            "response_ids": self.ids[index],
            "scores": self.scores[index],
            "group_ids": self.group_ids.clone(),
            "group_size": self.case.sizes[0] if len(sizes) == 1 else None,
            "gamma": self.case.gamma,
        }


TRAINERS = {
    "token_level_rewards": "token_rewards",
    "action_mask": "response_mask",
    "num_generations": "group_size",
    "index": "group_ids",
    "lam": "lam",
    "lambd": "lam",
}


@cache
def _names(function: Estimator) -> tuple[str, ...]:
    """What a function names, which is asked for thousands of batches."""
    return tuple(inspect.signature(function).parameters)


def call(function: Estimator, inputs: Mapping[str, Any]) -> torch.Tensor:
    """Advantages (batch, time) of a function that is given what it names."""
    names = _names(function)
    given = dict(inputs, lam=1.0)
    for theirs, ours in TRAINERS.items():
        given[theirs] = given[ours]
    if "index" in names:
        given["index"] = given["group_ids"].numpy().astype(object)
    given["rewards"] = given["scores" if "num_generations" in names else "token_rewards"]
    answer = function(**{name: given[name] for name in names if name in given})
    answer = torch.as_tensor(answer[0] if isinstance(answer, tuple) else answer)
    answer = answer[:, None] if answer.ndim == 1 else answer
    return answer.double().expand(inputs["response_mask"].shape)


@dataclass(frozen=True)
class Effect:
    """What the expected update does at one decision, as shares of the mean absolute advantage.

    Args:
        wrong: Largest part of the update that is not along the truth; the whole update where
            nothing is to be gained.
        along: What the update is along the truth; NaN where nothing is to be gained.
        crossed: Largest preference for a way that is not the better one of two.
    """

    wrong: float
    along: float
    crossed: float


def preferences(
    function: Estimator, batches: Batches, counted: bool = False
) -> list[tuple[Decision, torch.Tensor]]:
    """The mean advantage of every way at every decision with more than one, over all batches.

    Args:
        function: The estimator.
        batches: The case.
        counted: Whether one order of a batch stands for all of them.

    Returns:
        For each decision (ways,), less its mean under the policy, as a share of the mean absolute
        advantage of a token. It is along the true advantages where the update is along the truth.
    """
    drawn = [*(batches.counted() if counted else batches.ordered())]
    chances = torch.tensor([chance for chance, _ in drawn], dtype=torch.float64)
    index = torch.tensor([rows for _, rows in drawn])  # (batches, rows)
    written = batches.written[index]  # (batches, rows, time)
    answers: list[torch.Tensor] = []
    try:
        for rows in index:
            answers.append(call(function, batches.inputs(rows)).clone())
    finally:  # whatever else is wrong with a later batch
        given = torch.stack(answers)[written[: len(answers)]] if answers else torch.zeros(0)
        if not bool(torch.isfinite(given).all()):
            raise ArithmeticError("an advantage is not finite")
    weights = chances[:, None, None].expand(written.shape)[written]
    counts = written.sum(dim=(1, 2))[:, None, None].expand(written.shape)[written]
    size = float((weights * given.abs() / counts).sum())
    update = torch.zeros(len(batches.decisions), MOST_WAYS, dtype=torch.float64)
    places = (batches.taken[index][written], batches.way[index][written])
    update.index_put_(places, weights * given, accumulate=True)
    seen = []
    for decision, total in zip(batches.decisions, update, strict=True):
        if len(decision.chances) > 1:
            chances = torch.tensor(decision.chances, dtype=torch.float64)
            mean = total[: len(chances)] / chances / _rows_that_reach(batches, decision)
            centred = mean - (chances * mean).sum()
            seen.append((decision, centred / max(size, SMALLEST_ADVANTAGE)))
    return seen


def _rows_that_reach(batches: Batches, decision: Decision) -> float:
    for prompt, size in zip(batches.prompts, batches.case.sizes, strict=True):
        if any(decision is own for own in prompt.decisions):
            return size * decision.reach * (1.0 - batches.case.lost)
    raise LookupError("the decision is of no prompt")


def effect(decision: Decision, preference: torch.Tensor) -> Effect:
    """Hold a preference (ways,) against the true advantages of a decision."""
    chances = torch.tensor(decision.chances, dtype=torch.float64)
    truth = torch.tensor(decision.advantages, dtype=torch.float64)
    pairs = itertools.permutations(range(len(truth)), 2)
    crossed = [float(preference[b] - preference[a]) for a, b in pairs if truth[a] > truth[b] - 1e-9]
    if float(truth.abs().max()) < 1e-9:
        return Effect(float(preference.abs().max()), math.nan, max(crossed))
    along = float((chances * preference * truth).sum() / (chances * truth * truth).sum())
    wrong = float((preference - max(along, 0.0) * truth).abs().max())
    return Effect(wrong, along * float(truth.abs().max()), max(0.0, *crossed))
