"""What other tools call a thing, and what is written for it here: one table, asked first.

An unknown option or argument is looked up in spellings.csv before near matches are, since a
name that another tool has is no slip of the keyboard: ``--timesteps`` is closer to a setting that
it does not mean.
"""

import csv
import re
from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

TABLE = Path(__file__).parent / "spellings.csv"
VALUE, AGENT = "{}", "{agent}"
"""Stand for the value that was given, in what is to be written; the latter for a learner's name."""
USUAL = "N"
"""Stands for it where none is at hand."""


class Spelling(NamedTuple):
    """A row of the table: a thing by the names that other tools have for it."""

    names: tuple[str, ...]
    """Names as arguments, or options with "_" for "-"; a short option with its dash."""
    here: str
    """What it is here, a noun phrase."""
    option: str
    """What is written on a command line; empty where there is nothing to write there."""
    argument: str
    """What is written in Python; empty likewise."""

    def fits(self, written: str, known: Collection[str]) -> bool:
        """Return whether all that is to be written exists where the name was used.

        A call has its arguments; whether they exist is not a question of where it is named.
        """
        bare = re.sub(r"\([^()]*(\([^()]*\)[^()]*)*\)", "", written)
        names = re.findall(r"--([a-z-]+)|(?<![:\w])(\w+)=", bare)
        return bool(written) and all((option or name) in known for option, name in names)


@cache
def spellings() -> tuple[Spelling, ...]:
    """Return the rows of the table.

    Of several with one name the first counts that can be written where it is asked.
    """
    with TABLE.open(encoding="utf-8", newline="") as file:
        return tuple(
            Spelling(tuple(row["names"].split()), row["here"], row["option"], row["argument"])
            for row in csv.DictReader(file)
        )


def answer(name: str, known: Collection[str], value: Any = None, *, is_option: bool) -> str:
    """Return the line for a name that another tool has, "" for any other.

    Args:
        name: Name of an unknown argument, or an option without its two dashes.
        known: Names that exist there: of arguments, or of options without dashes.
        value: What was given with it; None where nothing plain was.
        is_option: Whether it was on a command line.

    Example:
        >>> answer("n_timesteps", {"tokens"}, "500", is_option=True)
        'here it is the tokens of a run, since a timestep is one token: write --tokens 500'
        >>> answer("reward_funcs", {"scorer"}, "score.py:one", is_option=False)
        'here it is the scorer: write scorer="score.py:one"'
    """
    key = name.replace("-", "_") if not name.startswith("-") else name
    for one in spellings():
        written = one.option if is_option else one.argument
        if key in one.names and one.fits(written, known):
            is_plain = isinstance(value, str | int | float) and 0 < len(str(value)) < 60
            shown = str(value) if is_plain else USUAL
            is_text = not is_option and is_plain and isinstance(value, str)
            filled = written.replace(f"={VALUE}", f'="{shown}"') if is_text else written
            filled = filled.replace(VALUE, shown)
            filled = filled.replace(AGENT, _learner(shown) if is_plain else USUAL)
            return f"here it is {one.here}: write {filled}"
    return ""


def _learner(value: str) -> str:
    """Return the word of a learner that another tool has under a name, see `WORDS`."""
    if ":" in value:
        return value
    return word_answer(value).removeprefix("write ") or value.lower()


def in_place_of_seeds(listed: str, *, is_option: bool) -> str:
    """Return what is written in place of a list of seeds, "" where it lists fewer than two.

    Example:
        >>> in_place_of_seeds("[3, 4, 5]", is_option=False)
        'seeds=3, first_seed=3'
    """
    seeds = [int(seed) for seed in re.findall(r"\d+", listed)]
    if len(seeds) < 2:
        return ""
    count, first = len(seeds), min(seeds)
    if is_option:
        return f"--seeds {count} --first-seed {first}"
    return f"seeds={count}, first_seed={first}"


# --- words, which are values of options and arguments ---------------------------------------------


WORDS = {
    r"(?:stable_baselines3|stable-baselines3):(\w+.*)": r"write sb3:\1",
    r"sb3-contrib:(\w+.*)": r"write sb3_contrib:\1",
    r"(?i:a2c)": "write sb3:A2C",
    r"(?i:dqn)": "write sb3:DQN",
    r"(?i:qrdqn)": "write sb3_contrib:QRDQN",
    r"(?i:trpo)": "write sb3_contrib:TRPO",
    r"(?i:ppo_lstm|RecurrentPPO)": "write sb3_contrib:RecurrentPPO",
    r"([^\W\d][\w.+-]*),\s*([^\W\d][\w.+-]*)": (
        r'names are apart, not joined by a comma: write \1 \2, in Python ["\1", "\2"]'
    ),
    r"(?:n_|num_|total_|global_)?timesteps?|global_step": (
        "write tokens, since a timestep is one token"
    ),
    r"lin_(\d.*)": r"write \1, which falls to 0 by learning_rate_schedule='linear', the default",
}
"""What to write, by patterns of whole words: of rewards, agents, a learning rate, a plot's axis."""


def word_answer(word: str) -> str:
    """Return what to write for a word that is spelled as elsewhere, "" for any other.

    Example:
        >>> word_answer("stable_baselines3:A2C")
        'write sb3:A2C'
    """
    for pattern, said in WORDS.items():
        if found := re.fullmatch(pattern, word):
            return found.expand(said)
    return ""
