"""The three families of forks: a maze of rooms, a countdown, the repair of a bracket sequence.

A prompt says all there is to know: `read` makes the automaton of it, and `write` draws one. After
the last colon stand the decisions. ``go`` is one of the family; ``any`` looks like one and changes
nothing, a distractor; ``again`` asks for the decision before it a second time, where ``keep`` keeps
it, so that a wrong fork can be mended and a right one spoilt.

    maze from a to d : a b , b c , c d : go any go go       b ... (any room) ... c ... d
    countdown from 6 : go go again go                       3 ... 2 ... keep ... 1
    brackets : ( go [ go )                                  an opening or closing bracket each
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Literal, NamedTuple, get_args

import numpy as np

from tokengym.envs import PromptError
from tokengym.lab.envs.forks.values import Automaton, Layer, State, Symbol, backward, best

FamilyName = Literal["maze", "countdown", "brackets"]
FAMILIES: tuple[FamilyName, ...] = get_args(FamilyName)
GO, ANY, AGAIN, KEEP = "go", "any", "again", "keep"
FILLERS = ("well", "so", "then", "now")
"""Words that a response may have anywhere; the verifier reads past them."""
ROOMS = ("a", "b", "c", "d")
STEPS = ("1", "2", "3")
PAIRS = {"(": ")", "[": "]"}
BRACKETS = ("(", ")", "[", "]")
DOORS = 5
"""Doors of a maze, each from one room to another."""
MAX_DECISIONS = 10
NUMBERS = tuple(str(number) for number in range(1, 3 * MAX_DECISIONS + 1))


class Rules(NamedTuple):
    """A family's reading of one prompt."""

    start: State
    """State before the first decision."""
    move: Callable[[State, Symbol], State | None]
    """State after a symbol, None where it fails."""
    accepts: Callable[[State], bool]
    """Whether a state solves the task at the end."""


@dataclass(frozen=True)
class Family:
    """One kind of automaton: its symbols, a way to draw it, and a way to read it."""

    symbols: tuple[Symbol, ...]
    """Symbols of a decision."""
    draw: Callable[[np.random.Generator, int], str]
    """(generator, decisions) -> a solvable prompt without distractors."""
    rules: Callable[[Sequence[str]], Rules]
    """Words between the family's name and the last colon -> rules."""


def _draw_maze(rng: np.random.Generator, decisions: int) -> str:
    """Return a maze with the doors of a walk from the start to the exit, and others."""
    walk = [str(rng.choice(ROOMS))]
    for _ in range(decisions):
        walk.append(str(rng.choice([room for room in ROOMS if room != walk[-1]])))
    doors = dict.fromkeys(pairwise(walk))
    others = [(x, y) for x in ROOMS for y in ROOMS if x != y and (x, y) not in doors]
    more = rng.permutation(len(others))[: max(0, DOORS - len(doors))]
    listed = [*doors, *(others[i] for i in more)]
    shuffled = [" ".join(listed[i]) for i in rng.permutation(len(listed))]
    return f"maze from {walk[0]} to {walk[-1]} : {' , '.join(shuffled)} : {_gos(decisions)}"


def _maze_rules(words: Sequence[str]) -> Rules:
    _, start, _, goal, _, *doors = words
    open_doors = set(zip(doors[::3], doors[1::3], strict=True))
    return Rules(
        start, lambda room, to: to if (room, to) in open_doors else None, lambda room: room == goal
    )


def _draw_countdown(rng: np.random.Generator, decisions: int) -> str:
    """Return a number that some steps of 1, 2 and 3 take to 0."""
    return f"countdown from {rng.integers(1, 4, decisions).sum()} : {_gos(decisions)}"


def _countdown_rules(words: Sequence[str]) -> Rules:
    def move(left: State, step: Symbol) -> State | None:
        assert isinstance(left, int)
        return left - int(step) if step in STEPS and int(step) <= left else None

    return Rules(int(words[1]), move, lambda left: left == 0)


def _draw_brackets(rng: np.random.Generator, decisions: int) -> str:
    """Return a balanced sequence in which every other bracket, on average, is a blank."""
    sequence: list[str] = []
    stack: list[str] = []
    for left in range(2 * decisions, 0, -1):
        if stack and (len(stack) == left or rng.random() < 0.5):
            sequence.append(PAIRS[stack.pop()])
        else:
            stack.append(str(rng.choice(list(PAIRS))))
            sequence.append(stack[-1])
    for blank in rng.permutation(len(sequence))[:decisions]:
        sequence[blank] = GO
    return f"brackets : {' '.join(sequence)}"


def _brackets_rules(words: Sequence[str]) -> Rules:
    def move(stack: State, bracket: Symbol) -> State | None:
        assert isinstance(stack, str)
        if bracket in PAIRS:
            return stack + bracket
        return stack[:-1] if stack and PAIRS[stack[-1]] == bracket else None

    return Rules("", move, lambda stack: stack == "")


def _gos(decisions: int) -> str:
    return " ".join([GO] * decisions)


_FAMILIES: dict[FamilyName, Family] = {
    "maze": Family(ROOMS, _draw_maze, _maze_rules),
    "countdown": Family(STEPS, _draw_countdown, _countdown_rules),
    "brackets": Family(BRACKETS, _draw_brackets, _brackets_rules),
}


def symbols(family: FamilyName) -> tuple[Symbol, ...]:
    """Return the symbols of a family's decisions, `KEEP` among them."""
    return (*_FAMILIES[family].symbols, KEEP)


def write(
    family: FamilyName,
    rng: np.random.Generator,
    *,
    decisions: int,
    recoverable: int = 0,
    distractors: int = 0,
) -> str:
    """Draw a prompt that has a solution.

    Args:
        family: Kind of the task.
        rng: Where every choice comes from.
        decisions: Decisions of the family.
        recoverable: How many of them are asked a second time.
        distractors: Decisions that change nothing, at random places.
    """
    head, colon, tail = _FAMILIES[family].draw(rng, decisions).rpartition(":")
    words = tail.split()
    places = [index for index, word in enumerate(words) if word == GO]
    for index in sorted(rng.permutation(places)[:recoverable], reverse=True):
        words.insert(int(index) + 1, AGAIN)
    for _ in range(distractors):
        gaps = [index for index in range(len(words) + 1) if words[index : index + 1] != [AGAIN]]
        words.insert(int(rng.choice(gaps)), ANY)
    return f"{head}{colon} {' '.join(words)}"


@lru_cache(maxsize=4096)
def read(prompt: str) -> Automaton:
    """Return the automaton that a prompt describes."""
    head, _, tail = prompt.rpartition(":")
    name, *words = head.split() or [""]
    if name not in FAMILIES or GO not in tail.split():
        raise PromptError(
            f"prompt {prompt!r} describes no automaton; it must begin with {', '.join(FAMILIES)} "
            f"and have its decisions ({GO!r}) after the last colon"
        )
    family = _FAMILIES[name]
    try:
        rules = family.rules(words)
        return _unfold(family, rules, tail.split())
    except (ValueError, KeyError) as error:
        raise PromptError(
            f"prompt {prompt!r} is damaged ({error}); write() draws prompts of family {name!r}"
        ) from None


class _Slot(NamedTuple):
    """One word of a prompt's decisions, and the brackets that stand after it."""

    word: str
    asked_again: bool
    given: tuple[Symbol, ...]


def _slots(words: Sequence[str]) -> tuple[tuple[Symbol, ...], list[_Slot]]:
    """Return the brackets that stand before the first decision, and the decisions."""
    places = [index for index, word in enumerate(words) if word in (GO, ANY, AGAIN)]
    ends = [*places[1:], len(words)]
    slots = [
        _Slot(words[index], words[end : end + 1] == [AGAIN], tuple(words[index + 1 : end]))
        for index, end in zip(places, ends, strict=True)
    ]
    return tuple(words[: places[0]]), slots


def _unfold(family: Family, rules: Rules, words: list[str]) -> Automaton:
    """Return the automaton of a list of decisions: all states that can be reached."""
    first, slots = _slots(words)
    for before, slot in pairwise([_Slot("", False, ()), *slots]):
        if slot.word == AGAIN and (before.word != GO or before.given):
            raise ValueError(f"{AGAIN!r} must follow the {GO!r} that it asks once more")
    if (start := _past(rules, rules.start, first)) is None:
        raise ValueError(f"{' '.join(first)!r} closes what is not open")
    layers: list[Layer] = []
    states = {start}
    for slot in slots:
        layer = {
            state: {
                symbol: to
                for symbol, reached in _moves(family, rules, slot, state).items()
                if (to := _past(rules, reached, slot.given)) is not None
            }
            for state in states
        }
        layers.append(layer)
        states = {to for row in layer.values() for to in row.values()}
    return Automaton(start, tuple(layers), frozenset(filter(rules.accepts, states)))


def _moves(family: Family, rules: Rules, slot: _Slot, state: State) -> dict[Symbol, State]:
    """Return where the symbols lead that do not fail at a slot."""
    if slot.word == ANY:
        return dict.fromkeys((*family.symbols, KEEP), state)
    before, after = state, None
    if slot.word == AGAIN:
        assert isinstance(state, tuple)
        before, after = state
    reached = {symbol: rules.move(before, symbol) for symbol in family.symbols}
    row = {symbol: to for symbol, to in reached.items() if to is not None}
    if slot.asked_again:  # the second look needs the state before the decision, and the one after
        return {symbol: (state, row.get(symbol)) for symbol in (*family.symbols, KEEP)}
    return row if after is None else row | {KEEP: after}


def _past(rules: Rules, state: State | None, given: Sequence[Symbol]) -> State | None:
    """Return the state after symbols that stand in the prompt."""
    for symbol in given:
        state = None if state is None else rules.move(state, symbol)
    return state


def decisions_of(response: str) -> list[Symbol]:
    """Return the words of a response that are no fillers."""
    return [word for word in response.split() if word not in FILLERS]


def verify(prompt: str, response: str) -> float:
    """Return 1 if a response solves the prompt's task, else 0.

    Example:
        >>> prompt = "countdown from 6 : go go again go"
        >>> verify(prompt, "well 3 so 3 then 2 1"), verify(prompt, "3 3 keep 1")
        (1.0, 0.0)
        >>> verify("brackets : ( go [ go )", "( well )")
        0.0
        >>> verify("brackets : ( go [ go )", ") well ]")
        0.0
        >>> verify("brackets : ( go [ ] go", "( ) ")
        0.0
    """
    return float(read(prompt).accepts(decisions_of(response)))


def solution(prompt: str) -> str:
    """Return one solution of a prompt, without fillers: the first symbol that still solves it.

    Example:
        >>> solution("maze from a to d : a b , b c , c d , b d : go go")
        'b d'
    """
    task = read(prompt)
    values = backward(task, best)
    state, words = task.start, []
    for layer, worth in zip(task.layers, values, strict=False):
        right = [symbol for symbol, q in worth.q_values[state].items() if q > 0]
        if not right:
            raise PromptError(f"prompt {prompt!r} has no solution; write() draws solvable ones")
        words.append(right[0])
        state = layer[state][right[0]]
    return " ".join(words)
