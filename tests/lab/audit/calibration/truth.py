"""What is true of an estimator: whether its expected update goes along the policy gradient.

right: at every decision of every case the expected update is along the true gradient, exactly
    (to a thousandth of the mean absolute advantage), or but for a part that falls as responses to
    a prompt are added, and the advantages do not depend on padding or on what is under the mask.
wrong: somewhere the update prefers a way that is not better than another by two hundredths of the
    mean absolute advantage, or is nothing where something is to be gained, and stays so as
    responses are added; or an advantage is not finite, or depends on padding.
unclear: neither. No estimator of the calibration may be.
"""

import functools
import inspect
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tests.lab.audit.calibration.decisions import (
    Batches,
    Case,
    Effect,
    Estimator,
    Prompt,
    Way,
    call,
    effect,
    preferences,
)

EXACT = 1e-3
CLEARLY_WRONG = 2e-2
VANISHED = 1e-2
NOTHING = 1e-4


def end(chance: float, reward: float) -> Way:
    return Way(chance, reward)


def then(chance: float, reward: float, *ways: Way, reply: int = 0) -> Way:
    return Way(chance, reward, ways, reply)


def line(chance: float, rewards: Sequence[float]) -> Way:
    """A way whose rest is written for certain."""
    if len(rewards) == 1:
        return end(chance, rewards[0])
    return then(chance, rewards[0], line(1.0, rewards[1:]))


def coin(chance: float, gain: float, loss: float = 0.0) -> tuple[Way, Way]:
    return end(chance, gain), end(1 - chance, loss)


def grown(seed: int, depth: int = 3) -> tuple[Way, ...]:
    """A tree of unlike lengths, chances and decimal rewards."""
    draw = random.Random(seed)

    def node(left: int) -> tuple[Way, ...]:
        count = draw.choice((2, 2, 3)) if left == depth else draw.choice((1, 2))
        shares = [draw.uniform(0.4, 1.0) for _ in range(count)]
        return tuple(
            Way(
                share / sum(shares),
                round(draw.uniform(-1, 1.5), 2),
                node(left - 1) if left > 1 and draw.random() < 0.7 else (),
            )
            for share in shares
        )

    return node(depth)


TOKENS = (
    Case(
        "a token pays, a later one decides", ((then(0.5, 1, *coin(0.4, 1)), end(0.5, 1.5)),), (3,)
    ),
    Case("less now, more later", ((line(0.5, (0.4, 0, 3)), line(0.5, (2, 0))),), (3,)),
    Case(
        "nothing to gain after an unlike reward",
        ((then(0.5, 2, *coin(0.4, 0)), then(0.5, 0, *coin(0.4, 0, 0))),),
        (3,),
    ),
    Case("a cost now, a reward later", ((line(0.4, (-1, 2)), line(0.6, (0.5, 0))),), (3,)),
    Case("rewards all along", ((line(0.3, (0.2, 0.3, 0.5)), line(0.7, (0.9,))),), (3,)),
    Case("longer, and as good", ((line(0.5, (0.5, 0.5, 0)), end(0.5, 1)),), (3,)),
    Case("a penalty, then as good", ((line(0.5, (-0.6, 0, 1)), line(0.5, (0.4,))),), (3,)),
)
OUTCOMES = (
    Case("won or lost", (coin(0.3, 1),), (4,)),
    Case("three ways", ((end(0.5, 0.2), end(0.3, 0.95), end(0.2, 0.6)),), (5,)),
    Case("three ways below 0", ((end(0.3, -1), end(0.3, -0.2), end(0.4, -0.7)),), (4,)),
    Case(
        "three ways of unlike length, the best short",
        ((end(0.3, 1), line(0.4, (0, 0, 0.9)), line(0.3, (0, 0, 0, 0, 0.3))),),
        (3,),
    ),
    Case(
        "three ways of unlike length, the best long",
        ((end(0.3, 0.8), line(0.4, (0, 0.4)), line(0.3, (0, 0, 0, 0, 0.9))),),
        (3,),
    ),
    Case(
        "won soon or lost late, and a sure half",
        ((then(0.5, 0, end(0.5, 1), line(0.5, (0, 0, 0, 0))), line(0.5, (0, 0.5))),),
        (3,),
    ),
    Case("long or short, all equal", ((line(0.5, (0, 0, 0.95)), end(0.5, 0.95)),), (3,)),
    Case("long or short below 0, all equal", ((line(0.5, (0, 0, -0.7)), end(0.5, -0.7)),), (3,)),
    Case(
        "long or short, a fair coin each",
        ((then(0.4, 0, then(1, 0, *coin(0.5, 1))), then(0.6, 0, *coin(0.5, 1))),),
        (3,),
    ),
    Case(
        "two rates of success", ((then(0.5, 0, *coin(0.8, 1)), then(0.5, 0, *coin(0.6, 1))),), (3,)
    ),
    Case("a gamble worth more", ((end(0.5, 3.5), then(0.5, 0, *coin(0.37, 10))),), (4,)),
    Case("a gamble worth less", ((end(0.5, 3.5), then(0.5, 0, *coin(0.33, 10))),), (5,)),
    Case("a gamble worth the same", ((end(0.4, 4), then(0.6, 0, *coin(0.4, 10))),), (3,)),
    Case("a risk of a large loss", ((end(0.4, -2.2), then(0.6, 0, *coin(0.4, -5))),), (4,)),
    Case("a risk worth the same", ((end(0.4, -4), then(0.6, 0, *coin(0.4, -10))),), (3,)),
    Case("all equal", ((end(0.3, 0.95), end(0.3, 0.95), end(0.4, 0.95)),), (3,)),
    Case("an easy and a hard prompt", (coin(0.9, 1), coin(0.15, 1)), (2, 2)),
    Case(
        "an easy and a hard prompt, interleaved", (coin(0.9, 1), coin(0.15, 1)), (2, 2), 1.0, True
    ),
    Case("prompts of unlike scale", (coin(0.5, 1), (end(0.5, 4), end(0.5, 5))), (2, 2), 1.0, True),
    Case("groups of unlike size", (coin(0.8, 1), coin(0.3, 1.3, 0.1)), (3, 2)),
    Case("a tree with every way", (grown(3),), (2,)),
    Case("another tree", (grown(8),), (2,)),
    Case("trees of two prompts", (grown(11, 2), grown(23, 2)), (2, 2)),
)
REPLIES = (
    Case(
        "a reply between two decisions",
        ((then(0.5, 0, *coin(0.7, 1), reply=2), then(0.5, 0.3, *coin(0.4, 1), reply=1)),),
        (2,),
    ),
    Case("a long reply, all equal", ((then(0.5, 0, end(1, 0.8), reply=4), end(0.5, 0.8)),), (3,)),
    Case(
        "one turn or two, all equal",
        ((then(0.5, 0.5, then(1, 0.25, end(1, 0.25)), reply=1), line(0.5, (0.6, 0.4))),),
        (3,),
    ),
    Case(
        "an early turn pays, a later one decides",
        ((then(0.4, 1, *coin(0.5, 0.6), reply=1), then(0.6, 0, *coin(0.5, 0.6, 0.2), reply=2)),),
        (2,),
    ),
    Case(
        "less in this turn, more in the next",
        ((then(0.5, 0, then(1, 0, end(1, 2)), reply=1), then(0.5, 1, line(1, (0, 0)), reply=1)),),
        (3,),
    ),
    Case(
        "three turns",
        (
            (
                then(0.6, -0.2, then(0.5, 0.1, *coin(0.5, 1), reply=1), end(0.5, 0.7), reply=1),
                end(0.4, 0.3),
            ),
        ),
        (2,),
    ),
)
DISCOUNTS = (
    Case("sooner is worth more", ((line(0.5, (0, 0, 1.1)), line(0.5, (1, 0))),), (3,), 0.9),
    Case("later is worth more", ((line(0.5, (0, 0, 1.4)), line(0.5, (1, 0))),), (3,), 0.9),
    Case(
        "sooner and later are worth the same", ((line(0.5, (0, 1)), line(0.5, (0.9,))),), (3,), 0.9
    ),
    Case(
        "a reward after two tokens, as good",
        ((line(0.5, (0, 0, 1)), line(0.5, (0, 0.9))),),
        (3,),
        0.9,
    ),
    Case(
        "a discounted choice behind another",
        ((then(0.5, 0.2, line(0.5, (0, 1)), line(0.5, (0.9, 0.1))), end(0.5, 1)),),
        (2,),
        0.9,
    ),
)
DISCOUNTED_REPLIES = (
    Case(
        "a reply takes no time",
        ((then(0.5, 0, end(1, 1), reply=3), line(0.5, (0, 0, 1))),),
        (3,),
        0.9,
    ),
    Case(
        "a reply, worth the same", ((then(0.5, 0, end(1, 1), reply=3), end(0.5, 0.9)),), (3,), 0.9
    ),
)
ASKED_BY_OTHERS = (
    Case(
        "two of three as good, of unlike chance", ((end(0.6, 1), end(0.3, 1), end(0.1, 0)),), (3,)
    ),
    Case("a rare prize", ((end(0.97, 0.5), end(0.03, 10)),), (3,)),
    Case(
        "a free token, then a gamble worth the sure thing",
        ((then(1, 0, end(0.5, 3.7), then(0.5, 0, *coin(0.37, 10))),),),
        (3,),
    ),
)
LOST_ROWS = (
    Case("rows are lost by chance", (coin(0.3, 1),), (4,), lost=0.25),
    Case(
        "rows that are lost by chance score 5",
        ((line(0.5, (0, 0, 0.95)), end(0.5, 0.95)),),
        (3,),
        lost=0.25,
        lost_score=5.0,
    ),
)


@dataclass(frozen=True)
class Truth:
    """What the brute force finds: the label, and the case that shows it."""

    label: str
    case: str = ""
    size: float = 0.0


def cases_of(function: Estimator, pays: str, non_negative: bool) -> list[Case]:
    """The cases that an estimator's arguments and promises say it is for."""
    names = inspect.signature(function).parameters
    sees_mask = {"response_mask", "action_mask", "turn_ids", "response_ids"} & set(names)
    cases = list(OUTCOMES)
    if pays == "tokens" and {"token_rewards", "token_level_rewards", "rewards"} & set(names):
        cases += TOKENS
    if sees_mask:
        cases += REPLIES
    if {"scores", "response_mask"} <= set(names):
        cases += LOST_ROWS
    if "gamma" in names:
        cases += [*DISCOUNTS, *(DISCOUNTED_REPLIES if sees_mask else ())]
    cases += ASKED_BY_OTHERS
    if {"group_size", "num_generations"} & set(names):
        cases = [case for case in cases if len(set(case.sizes)) == 1 and not case.interleaved]
    if non_negative:
        cases = [case for case in cases if not any(_negative(tree) for tree in case.trees)]
    return cases


def _negative(ways: Sequence[Way]) -> bool:
    return any(way.reward < 0 or _negative(way.then) for way in ways)


@functools.lru_cache(maxsize=4096)
def batches_of(case: Case, pays_outcome: bool, padding: int, garbage: float) -> Batches:
    return Batches(case, pays_outcome, padding, garbage)


def judge(function: Estimator, pays: str = "tokens", non_negative: bool = False) -> Truth:
    """The label of an estimator, proved case by case.

    Args:
        function: Takes named inputs, returns advantages.
        pays: "tokens", or "outcome" where it is for one reward a response.
        non_negative: Whether it is for rewards that are not below 0.

    Returns:
        right, wrong or unclear, and the case that decided it.
    """
    outcome = pays == "outcome"
    vanishing: list[tuple[str, float]] = []
    unclear: list[tuple[str, float]] = []
    for case in cases_of(function, pays, non_negative):
        try:
            if leak := _leak(function, case, outcome):
                return Truth("wrong", f"{case.name}: {leak}")
            found = [
                effect(*seen) for seen in preferences(function, batches_of(case, outcome, 0, 0.0))
            ]
        except (ArithmeticError, ValueError, RuntimeError, IndexError) as error:
            return Truth("wrong", f"{case.name}: {error}")
        for place, one in enumerate(found):
            if _is_right(one):
                continue
            label, size = _as_responses_are_added(function, case, place, outcome)
            if label == "wrong":
                return Truth("wrong", case.name, size)
            (vanishing if label == "vanishing" else unclear).append((case.name, size))
    if unclear:
        return Truth("unclear", *unclear[0])
    if vanishing:
        return Truth("right", f"vanishing: {vanishing[0][0]}", vanishing[0][1])
    return Truth("right")


def _is_right(one: Effect, exact: float = EXACT) -> bool:
    return one.wrong < exact and not _is_blind(one)


def _is_blind(one: Effect) -> bool:
    return not math.isnan(one.along) and one.along < NOTHING


def _leak(function: Estimator, case: Case, outcome: bool) -> str:
    """What of padding and what is under the mask changes an advantage, in ten batches."""
    plain = batches_of(case, outcome, 0, 0.0)
    others = {
        "changes with padding": batches_of(case, outcome, 2, 0.0),
        "changes with values under the mask": batches_of(case, outcome, 2, 3.0),
    }
    draws = list(plain.ordered())
    for chance, rows in draws[:: max(1, len(draws) // 10)]:
        del chance
        written = plain.written[torch.tensor(rows)]
        for says, other in others.items():
            wide = call(function, other.inputs(rows))[:, : written.shape[1]]
            narrow = call(function, plain.inputs(rows))[written]
            if _differ(narrow, wide[written]):
                is_finite = bool(torch.isfinite(torch.stack([narrow, wide[written]])).all())
                return says if is_finite else "an advantage is not finite"
    return ""


def _differ(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether advantages are apart; such as are not finite always are."""
    return not bool(((one - other).abs() <= 1e-4).all())


def _as_responses_are_added(
    function: Estimator, case: Case, place: int, outcome: bool
) -> tuple[str, float]:
    """wrong, vanishing or unclear at a decision that is not right with few responses.

    The preferences at three group sizes G are continued to infinitely many responses as
    p + a / G + b / G^2.
    """
    counted = _heeds_no_order(function, case, outcome)
    sizes = _sizes(case, counted)
    seen = []
    for size in sizes:
        larger = batches_of(case.enlarged(size), outcome, 0, 0.0)
        seen.append(preferences(function, larger, counted)[place])
    powers = torch.tensor([[1.0, 1 / size, 1 / size**2] for size in sizes], dtype=torch.float64)
    limit = torch.linalg.solve(powers, torch.stack([preference for _, preference in seen]))[0]
    decision, last = seen[-1]
    now, one = effect(decision, last), effect(decision, limit)
    blind = max(float(p.abs().max()) for p in (last, limit)) < NOTHING
    if blind or min(one.crossed, now.crossed) > CLEARLY_WRONG:
        return "wrong", one.crossed
    if _is_right(one, VANISHED) or (now.wrong < 1e-3):
        return "vanishing", one.wrong
    return "unclear", one.wrong


def _sizes(case: Case, counted: bool) -> tuple[int, int, int]:
    """Group sizes for which all batches can be drawn in about a second."""
    kinds = [len(Prompt(tree).responses) + bool(case.lost) for tree in case.trees]
    if not counted:
        return (2, 4, 6) if max(kinds) == 2 and len(kinds) == 1 else (2, 3, 4)
    if len(kinds) == 1 and kinds[0] <= 3:
        return (10, 20, 40)
    if len(kinds) == 1 and kinds[0] == 4:
        return (6, 12, 20)
    return (4, 8, 16) if max(kinds) <= 2 else (3, 4, 6)


def _heeds_no_order(function: Estimator, case: Case, outcome: bool) -> bool:
    """Whether rows of one prompt that change places take their advantages with them."""
    batches = batches_of(case, outcome, 0, 0.0)
    group = batches.group_ids
    order = torch.arange(len(group))
    for number in group.unique().tolist():
        places = (group == number).nonzero()[:, 0]
        order[places] = places.flip(0)
    draws = list(batches.ordered())
    for _, rows in draws[:: max(1, len(draws) // 40)]:
        moved = [rows[place] for place in order.tolist()]
        written = batches.written[torch.tensor(moved)]
        here = call(function, batches.inputs(rows))[order]
        there = call(function, batches.inputs(moved))
        if _differ(here[written], there[written]):
            return False
    return True
