"""Prompts that reasoning-gym generates, and the verdict of its verifiers.

The library is the extra ``tokengym-lab[reasoning]``. It is imported when a data set of it is named.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import warnings
from collections.abc import Mapping
from dataclasses import fields, replace
from functools import lru_cache
from types import ModuleType
from typing import Any, NamedTuple

from tokengym.base import Registry, Split, did_you_mean
from tokengym.envs import DatasetError, Prompt, PromptSet

INSTALL = "pip install 'tokengym-lab[reasoning]'"
SIZE = 256
"""Prompts of each split, unless ``size`` says otherwise."""
MAX_SIZE = 100_000
"""Largest ``size``."""
EVALUATES = re.compile(r"\b(eval|exec|parse_expr|sympify)\(")
"""Marks of a module of the library that evaluates text as code."""
LITERALS = {"binary_matrix", "n_queens", "spiral_matrix", "string_insertion"}
"""Data sets whose verifiers evaluate an answer as Python; they get lists of constants alone."""
ARITHMETIC = {"countdown", "puzzle24"}
"""Data sets whose verifiers have sympy evaluate an answer; they get + - * / of integers alone."""
ITS_OWN = {
    "basic_arithmetic",
    "bitwise_arithmetic",
    "codeio",
    "number_sorting",
    "propositional_logic",
}
"""Data sets that evaluate what the library itself wrote, and nothing of an answer."""
_LITERAL_NODES = (ast.List, ast.Tuple, ast.UnaryOp, ast.unaryop, ast.Name, ast.expr_context)
_ARITHMETIC_NODES = (
    ast.BinOp,
    ast.Add,
    ast.Sub,
    ast.Mult,
    ast.Div,
    ast.UnaryOp,
    ast.USub,
    ast.UAdd,
)
_TRIES = 4
"""Items that are generated for each prompt at most; the others repeat a question."""
_CHECKED = 4
"""Items that are generated twice, to see that the generator is reproducible."""
_WORDS: Registry[None] = Registry("dataset", error=DatasetError)


class Generated(NamedTuple):
    """A data set of the library, and the prompts that are taken from it."""

    name: str
    """Its name in the library."""
    dataset: Any
    """The library's object, which also verifies."""
    prompts: PromptSet
    """Distinct questions in the order of their items; those of even position are for training."""
    items: Mapping[str, dict[str, Any]]
    """The library's items by question."""


def generated_prompts(word: object, split: Split) -> PromptSet:
    """Return a split of a data set of reasoning-gym.

    Item i is drawn from the seed plus i. Questions that an earlier item asked are left out; of the
    others every second is for training and the rest for testing, so that the splits share neither
    an item nor a question.

    Args:
        word: Name of the data set, with options: "spell_backward:max_word_len=5". ``size`` is the
            number of prompts of each split, ``seed`` that of the generator, ``level`` one of the
            library's curriculum for the data set; the others are fields of its configuration.
        split: "train", "test" or "all".

    Returns:
        Prompts whose ``reference`` is the library's answer, and whose ``metadata`` are the word
        (``dataset``) and the item (``item``), which `verdict` reads.
    """
    if not isinstance(word, str):
        raise DatasetError(
            f"dataset must be the name of a data set of reasoning-gym, got {type(word).__name__}; "
            "prompts of your own go to tokengym/TokenGeneration-v0"
        )
    chosen = {"train": slice(0, None, 2), "test": slice(1, None, 2), "all": slice(None)}[split]
    return generated(word).prompts[chosen]


def verdict(metadata: Mapping[str, Any], response: str) -> float:
    """Return the score that the library's verifier gives a response, most often in [0, 1].

    An answer that a verifier would run as code counts as no answer. The item is the generated one
    of that question, so that nothing of a stored episode is evaluated either.

    Args:
        metadata: Of the prompt, see `generated_prompts`.
        response: Text; of one with ``<answer>`` tags what is within the last pair counts.
    """
    from reasoning_gym.utils import extract_answer

    word = metadata["dataset"]
    known, question = generated(word), metadata["item"]["question"]
    if question not in known.items:
        raise DatasetError(
            f"dataset {word!r} has no question {question[:40]!r}; it was made by other options or "
            "another version of reasoning-gym"
        )
    answer = extract_answer(response)
    answer = (response if answer is None else answer).strip()
    safe = is_safe(answer, known.name)
    return float(known.dataset.score_answer(answer if safe else None, known.items[question]))


def is_safe(answer: str, name: str) -> bool:
    """Return whether a verifier that evaluates an answer runs no code by it.

    Args:
        answer: Text without spaces at its ends.
        name: Name of the data set. Only those of `LITERALS` and `ARITHMETIC` evaluate answers.

    Example:
        >>> [is_safe(answer, "n_queens") for answer in ("[['Q', '_']]", "exit()", "_ Q")]
        [True, False, True]
        >>> [is_safe(answer, "countdown") for answer in ("(7 - 4) * 8", "9**9**9", "9!")]
        [True, False, False]
    """
    if name not in LITERALS | ARITHMETIC:
        return True
    try:
        nodes = [*ast.walk(ast.parse(answer, mode="eval").body)]
    except SyntaxError:  # of Python, whose eval fails likewise; sympy knows other notations
        return name in LITERALS
    except (MemoryError, RecursionError, ValueError):
        return False
    constants = [node.value for node in nodes if isinstance(node, ast.Constant)]
    if name in ARITHMETIC and any(type(value) is not int for value in constants):
        return False
    allowed = _LITERAL_NODES if name in LITERALS else _ARITHMETIC_NODES
    return all(isinstance(node, (*allowed, ast.Constant)) for node in nodes)


@lru_cache(maxsize=32)
def generated(word: str) -> Generated:
    """Return a data set and its prompts, generated once per process; see `generated_prompts`."""
    name, options = (parsed := _WORDS.parse(word)).name, dict(parsed.options)
    size = options.pop("size", SIZE)
    if not isinstance(size, int) or not 1 <= size <= MAX_SIZE:
        raise DatasetError(f"dataset {word!r}: size must be from 1 to {MAX_SIZE}, got {size!r}")
    factory = _factory(name)
    make = factory.DATASETS[name][0]
    config = _configured(factory, name, options, items=2 * size * _TRIES)
    places: dict[str, int] = {}
    items: list[dict[str, Any]] = []
    try:
        dataset, again = make(config), make(config)
        for index in range(2 * size * _TRIES):
            item = dataset[index]
            if places.setdefault(item["question"], index) == index:
                items.append(item)
            if len(items) == 2 * size:
                break
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise _unfit(name, f"makes no question of the options {options} ({reason})") from error
    if any(again[index]["question"] != asked for asked, index in [*places.items()][:_CHECKED]):
        raise _unfit(name, "asks other questions each time it is made")
    if len(items) < 2:
        raise _unfit(name, f"has {len(items)} question, too few for two splits")
    return Generated(
        name,
        dataset,
        PromptSet(
            Prompt(item["question"], item["answer"], metadata={"dataset": word, "item": item})
            for item in items
        ),
        {item["question"]: item for item in items},
    )


def _unfit(name: str, why: str) -> DatasetError:
    return DatasetError(f"dataset {name!r} of reasoning-gym {why}; take another, or other options")


def _factory(name: str) -> ModuleType:
    """Return the library's registry, which has a data set of that name."""
    try:
        with warnings.catch_warnings():  # of cellpylib, which it imports
            warnings.simplefilter("ignore", SyntaxWarning)
            from reasoning_gym import factory
    except ImportError:
        raise DatasetError(
            f"dataset {name!r} needs the package reasoning-gym; run {INSTALL}"
        ) from None
    if name not in factory.DATASETS:
        raise DatasetError(
            f"reasoning-gym has no dataset {name!r}; {did_you_mean(name, factory.DATASETS)}"
            f"{len(factory.DATASETS)} are in reasoning_gym.factory.DATASETS, and prompts of your "
            "own go to tokengym/TokenGeneration-v0"
        )
    module = sys.modules[factory.DATASETS[name][0].__module__]
    looked_at = name in LITERALS | ARITHMETIC | ITS_OWN
    if not looked_at and EVALUATES.search(inspect.getsource(module)):
        raise _unfit(name, "evaluates a model's answer as code")
    return factory


def _configured(factory: ModuleType, name: str, options: dict[str, Any], *, items: int) -> Any:
    """Return the configuration of a data set, of a level of its curriculum if there is one."""
    made_of = factory.DATASETS[name][1]
    level = options.pop("level", None)
    known = ["size", "level", *(one.name for one in fields(made_of) if one.name != "size")]
    for option in options:
        if option not in known:
            raise DatasetError(
                f"dataset {name!r} has no option {option!r}; {did_you_mean(option, known)}"
                f"it has {', '.join(known)}"
            )
    try:
        config = made_of() if level is None else _of_level(factory, name, level)
        config = replace(config, **{"seed": 0, **options, "size": items})
        config.validate()
    except DatasetError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise _unfit(name, f"refuses the options {options} ({reason})") from error
    return config


def _of_level(factory: ModuleType, name: str, level: Any) -> Any:
    """Return the configuration of one level of a data set's curriculum."""
    if not factory.has_curriculum(name):
        raise _unfit(name, "has no curriculum, and so no level")
    curriculum = factory.create_curriculum(name)
    highest = max(len(one.levels) for one in curriculum.attributes.values()) - 1
    if not isinstance(level, int) or not 0 <= level <= highest:
        raise DatasetError(f"dataset {name!r} has the levels 0 to {highest}, got {level!r}")
    curriculum.set_global_level(level)
    return curriculum.generate_configuration({"seed": 0})
