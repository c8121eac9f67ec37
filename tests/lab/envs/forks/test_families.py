"""The three families: their automata against independent verifiers and brute force."""

import itertools
from typing import Any

import numpy as np
import pytest

from tokengym.envs import PromptError
from tokengym.lab.envs.forks.families import (
    FAMILIES,
    FILLERS,
    read,
    solution,
    symbols,
    verify,
    write,
)
from tokengym.lab.envs.forks.values import Automaton, backward, best


def solves_maze(prompt: str, rooms: list[str]) -> bool:
    head, doors, _ = prompt.split(" : ")
    _, _, here, _, goal = head.split()
    for room in rooms:
        if f"{here} {room}" not in doors.split(" , "):
            return False
        here = room
    return here == goal


def solves_countdown(prompt: str, steps: list[str]) -> bool:
    return set(steps) <= {"1", "2", "3"} and sum(map(int, steps)) == int(prompt.split()[2])


def solves_brackets(prompt: str, filled: list[str]) -> bool:
    """Repeatedly cut out adjacent pairs, which is what balanced means."""
    given = iter(filled)
    words = [word for word in prompt.split(" : ")[1].split() if word not in ("any", "again")]
    text = "".join(next(given) if word == "go" else word for word in words)
    while text != (text := text.replace("()", "").replace("[]", "")):
        pass
    return text == ""


SOLVES: dict[str, Any] = {
    "maze": solves_maze,
    "countdown": solves_countdown,
    "brackets": solves_brackets,
}


def settled(prompt: str, answer: tuple[str, ...]) -> list[str] | None:
    """Return the decisions that count, by the prompt's words; None if ``keep`` stands wrongly."""
    words = [w for w in prompt.rpartition(":")[2].split() if w in ("go", "any", "again")]
    kept: list[str] = []
    for word, symbol in zip(words, answer, strict=True):
        if word == "go":
            kept.append(symbol)
        elif word == "again" and symbol != "keep":
            kept[-1] = symbol
    return None if "keep" in kept else kept


@pytest.mark.parametrize("knobs", [(3, 0, 0), (2, 1, 1), (2, 2, 0), (1, 1, 2)])
@pytest.mark.parametrize("family", FAMILIES)
def test_verifier_and_best_values_are_those_of_brute_force(family: Any, knobs: Any) -> None:
    decisions, recoverable, distractors = knobs
    rng = np.random.default_rng(0)
    for _ in range(3):
        prompt = write(
            family, rng, decisions=decisions, recoverable=recoverable, distractors=distractors
        )
        task = read(prompt)
        values = backward(task, best)
        length = decisions + recoverable + distractors
        right = {
            answer
            for answer in itertools.product(symbols(family), repeat=length)
            if (kept := settled(prompt, answer)) is not None and SOLVES[family](prompt, kept)
        }
        assert right
        for answer in itertools.product(symbols(family), repeat=length):
            spoken = " well ".join(answer)
            assert verify(prompt, spoken) == (answer in right)
            for taken in range(length):
                state = task.run(answer[:taken])
                solvable = any(other[:taken] == answer[:taken] for other in right)
                known = 0.0 if state is None else values[taken].values.get(state, 0.0)
                assert known == solvable
        assert tuple(solution(prompt).split()) in right


@pytest.mark.parametrize("family", FAMILIES)
def test_values_of_a_policy_are_those_of_brute_force(family: Any) -> None:
    """V of random play is the share of all answers that are right."""
    prompt = write(family, np.random.default_rng(1), decisions=3, recoverable=1)
    count = len(symbols(family))
    values = backward(read(prompt), lambda layer, state, q: sum(q.values()) / count)
    answers = itertools.product(symbols(family), repeat=4)
    share = np.mean([verify(prompt, " ".join(answer)) for answer in answers])
    assert values[0].values[read(prompt).start] == pytest.approx(share, abs=1e-12)


def test_what_a_distractor_and_a_second_look_do() -> None:
    assert verify("countdown from 3 : any go", "1 3") == verify(
        "countdown from 3 : any go", "keep 3"
    )
    assert verify("countdown from 3 : go again", "1 3") == 1.0  # mended
    assert verify("countdown from 3 : go again", "3 1") == 0.0  # spoilt
    assert verify("countdown from 3 : go again", "3 keep") == 1.0
    assert verify("countdown from 3 : go", "3") == 1.0
    assert verify("countdown from 3 : go", "3 3") == 0.0  # one too many
    assert verify("countdown from 3 : go go", "3") == 0.0  # one missing


def test_fillers_change_nothing() -> None:
    for filler in FILLERS:
        assert verify("countdown from 3 : go", f"{filler} {filler} 3 {filler}") == 1.0


def test_the_automaton_may_be_anybodys() -> None:
    parity = Automaton(0, ({0: {"x": 1, "y": 0}}, {0: {"x": 1}, 1: {"x": 0}}), frozenset({0}))
    assert [v.values.get(0, 0.0) for v in backward(parity, best)] == [1.0, 0.0, 1.0]
    assert parity.accepts(["x", "x"])
    assert not parity.accepts(["x"])


@pytest.mark.parametrize(
    "prompt",
    [
        *("a film", "maze from a : go", "countdown from x : go", "maze : x"),
        *("brackets : go go [ ] again go go", "countdown from 3 : again go go"),
        "countdown from 3 : go again again",
    ],
)
def test_a_prompt_that_describes_nothing_is_refused(prompt: str) -> None:
    with pytest.raises(PromptError, match="prompt "):
        read(prompt)


def test_a_prompt_without_a_solution_is_refused() -> None:
    with pytest.raises(PromptError, match="no solution"):
        solution("countdown from 9 : go")
