"""Higher or lower: the partner thinks of a number, and the best play is known."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from tokengym.base import check_number
from tokengym.envs import (
    Partner,
    Prompt,
    PromptSet,
    Reply,
    SettingsError,
    TokenGenerationEnv,
    TokenGenerationVectorEnv,
)
from tokengym.lab.envs.enumerated import word_tokenizer

WORDS = ("<pad>", "<eos>", "<unk>", "guess", "higher", "lower", "what")


class HigherLower(Partner):
    """Thinks of a number, and says whether it is higher or lower than the last guess.

    The number is the column ``secret`` of the prompt's row, which the policy does not see. The
    guess that finds it earns 1, any other costs ``cost``.

    Args:
        cost: Score that a wrong guess takes away, at least 0.

    Example:
        >>> said = [{"role": "assistant", "content": "4"}]
        >>> HigherLower().reply(said, {"secret": 6}, np.random.default_rng(0))
        Reply(text='higher', score=-0.1, done=False)
    """

    name = "higher-lower"

    def __init__(self, cost: float = 0.1) -> None:
        self.cost = cost
        check_number(self, "cost", least=0.0, finite=True)

    def reply(
        self, conversation: Any, metadata: Mapping[str, Any], rng: np.random.Generator
    ) -> Reply:
        """Return "higher", "lower" or the end; "what" to what is no number."""
        if "secret" not in metadata:
            raise SettingsError(
                f"partner 'higher-lower' needs a column 'secret', got {sorted(metadata)}; take "
                "higher_lower_prompts()"
            )
        secret = int(metadata["secret"])
        said = conversation[-1]["content"].split()
        if not said or not said[-1].isdecimal():
            return Reply("what", score=-self.cost)
        guess = int(said[-1])
        if guess == secret:
            return Reply("", score=1.0, done=True)
        return Reply("higher" if secret > guess else "lower", score=-self.cost)


def higher_lower_prompts(most: int = 7) -> PromptSet:
    """Return a row for each number that may be thought of, all with the same text."""
    return PromptSet([Prompt("guess", metadata={"secret": n}) for n in range(1, most + 1)])


def higher_lower_env(
    num_envs: int | None = None, *, most: int = 7, cost: float = 0.1, **settings: Any
) -> TokenGenerationEnv | TokenGenerationVectorEnv:
    """Return the environment of the game, without a reward; a turn is one number.

    Args:
        num_envs: Rows of a batch; None makes a single environment.
        most: Largest number.
        cost: Score that a wrong guess takes away.
        settings: Further arguments of the environment.
    """
    numbers = [str(n) for n in range(1, most + 1)]
    arguments: dict[str, Any] = {
        "tokenizer": word_tokenizer((*WORDS, *numbers)),
        "prompts": higher_lower_prompts(most),
        "partner": HigherLower(cost),
        "max_turns": most,
        "min_new_tokens": 1,
        "max_turn_tokens": 1,
        "max_reply_tokens": 1,
        "max_new_tokens": 2 * most,
        "allowed_token_ids": (tuple(len(WORDS) + n for n in range(most)),),
        **settings,
    }
    if num_envs is None:
        return TokenGenerationEnv(**arguments)
    return TokenGenerationVectorEnv(num_envs=num_envs, **arguments)


@lru_cache(maxsize=1024)
def wrong_guesses(candidates: int) -> int:
    """Return the wrong guesses of the best play, summed over all numbers it may be.

    W(n) = n - 1 + min_g (W(g - 1) + W(n - g)),  W(0) = W(1) = 0

    Args:
        candidates: n, numbers in a row that it may be.

    Example:
        >>> wrong_guesses(7)  # one number at once, two after one, four after two
        10
    """
    if candidates < 2:
        return 0
    halves = (
        wrong_guesses(g - 1) + wrong_guesses(candidates - g) for g in range(1, candidates + 1)
    )
    return candidates - 1 + min(halves)


def best_score(most: int = 7, cost: float = 0.1) -> float:
    """Return the mean score of the best play: 1 - cost times its mean number of wrong guesses.

    Example:
        >>> round(best_score(7), 4)
        0.8571
    """
    return 1.0 - cost * wrong_guesses(most) / most


def best_guesses(least: int, most: int) -> list[int]:
    """Return every best guess where the number is within two bounds.

    Example:
        >>> best_guesses(1, 7), best_guesses(1, 2)
        ([4], [1, 2])
    """
    worth = {
        guess: wrong_guesses(guess - least) + wrong_guesses(most - guess)
        for guess in range(least, most + 1)
    }
    return [guess for guess, wrong in worth.items() if wrong == min(worth.values())]
