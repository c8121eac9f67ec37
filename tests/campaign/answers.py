"""Words of reasoning-gym: answers that would be code, and names of data sets that do not exist."""

import functools
import tempfile
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from tests.campaign.hostile import hostile_text
from tests.campaign.outcome import LostError, Outcome, try_cases
from tokengym.base.errors import DatasetError
from tokengym.envs import Episode
from tokengym.lab.envs.reasoning import ARITHMETIC, ITS_OWN, LITERALS, generated_prompts
from tokengym.rewards.scorers import find_scorer

DATASETS = sorted({*LITERALS, *ARITHMETIC, *ITS_OWN, "spell_backward", "gcd", "chain_sum"})
CODE = (
    *("{run}", "[{run}]", "({run},)", "1 + {run}", "[(x := {run})]", "[{run} for _ in 'a']"),
    *("(lambda: {run})()", "f'{{{run}}}'", "[*{run}]", "{{**{run}}}", "not {run}", "{run}.a"),
    *("[].__class__.__base__.__subclasses__()[{run}]", "1 if {run} else 2", "[[{run}]]"),
    *("9**9**9", "9 ** -9 ** 9", "1 / 0", "9" * 20 + "!", "1e999999999", "(" * 300, "[" * 99),
    *("Symbol('x').func({run})", "[1][{run}]", "-{run}", "7 * 4 #", "7 * 4\n{run}", "\x00"),
)
"""Answers; ``{run}`` is an expression that leaves a file behind."""
WORDS = (
    *("{name}:size={huge}", "{name}:level={huge}", "{name}:seed={huge}", "{name}:x={text}"),
    *("{text}", "{name}.py:Evil", "../{name}", "{name}:size=nan", "{name}:size=true"),
    *("{name}:min_value={huge}", "{name}:level=-1", "{name}:", "{name}:size=", ":size=2"),
    *("os", "reasoning_gym", "__import__", "factory:DATASETS", "composite:datasets={text}"),
)


@functools.cache
def metadata_of(name: str) -> Any:
    """Return the metadata of one prompt of a data set."""
    return generated_prompts(f"{name}:size=4", "all")[0].metadata


def an_answer(random: np.random.Generator) -> None:
    """Have a verifier judge an answer that is code, or no answer at all."""
    name = str(random.choice(DATASETS))
    metadata = metadata_of(name)
    with tempfile.TemporaryDirectory() as scratch:
        ran = Path(scratch, "ran")
        text = CODE[random.integers(len(CODE))] if random.integers(4) else hostile_text(random)
        text = text.replace("{run}", f"__import__('pathlib').Path({str(ran)!r}).touch()")
        text = (text, f"<answer>{text}</answer>", f"so\n<answer>\n{text}\n</answer>")[
            random.integers(3)
        ]
        ids: dict[str, Any] = {"prompt_ids": [1], "response_ids": [2]}
        episode = Episode(prompt="?", response=text, metadata=metadata, **ids)
        scorer: Any = find_scorer("reasoning-gym")
        score = float(scorer.score([episode]).values[0])
        if ran.exists():
            raise LostError(f"{name}: {text[:60]!r} ran")
        if not 0.0 <= score <= 1.0:
            raise LostError(f"{name}: {text[:60]!r} scores {score}")


def a_word(random: np.random.Generator) -> None:
    """Name a data set that does not exist, or options that it does not take."""
    word = WORDS[random.integers(len(WORDS))].format(
        name=random.choice(DATASETS),
        huge=random.choice([10**9, 10**18, -(10**9), 2**63, 10**30]),
        text=hostile_text(random),
    )
    try:
        gym.make("tokengym/ReasoningGym-v0", dataset=word)
    except DatasetError as error:
        if "\n" in str(error):
            raise LostError(f"{word[:60]!r}: {error}") from error


def one_word(random: np.random.Generator) -> None:
    """Try one answer, or one data set."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (an_answer, an_answer, a_word)[random.integers(3)](random)


def answers(count: int, seed: int) -> Outcome:
    """Try ``count`` answers and names of data sets."""
    return try_cases("answers", one_word, count, seed)
