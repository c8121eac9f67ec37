"""Text environments of other suites as partners: reset and step on strings, played again."""

from __future__ import annotations

import random
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from tokengym.envs import Partner, Prompt, PromptSet, Reply, SettingsError

OPEN_GAMES = 512
"""Games that a partner keeps open, to go on with; others are played again from their start."""


class Game:
    """One game, with the random numbers of its own that it draws from the global generators."""

    def __init__(self, env: Any, opening: str, state: Any) -> None:
        self.env, self.opening, self.state = env, opening, state


class TextGame(Partner):
    """Base of a partner over an environment with ``reset`` and ``step`` on strings.

    The game's seed is the column ``seed`` of the prompt's row, and the prompt is what the game
    shows first: `prompts` makes such rows. A partner holds nothing of an episode, so a reply is
    that of the same game played again to this turn; games that go on are kept open meanwhile.
    Their draws from Python's and NumPy's global generators leave those generators as they were.

    Args:
        id: Id of the environment, as its suite has it.
    """

    def __init__(self, id: str) -> None:
        self.id = id
        self._open: OrderedDict[tuple[Any, ...], Game] = OrderedDict()

    @abstractmethod
    def begin(self, seed: int) -> tuple[Any, str]:
        """Return an environment that was reset, and what it shows."""

    @abstractmethod
    def advance(self, env: Any, text: str) -> Reply:
        """Return what an environment answers to a turn."""

    def prompts(self, count: int, *, first: int = 0) -> PromptSet:
        """Return a row per game: what it shows first, and its seed.

        Args:
            count: Games.
            first: Seed of the first; a held-out set begins elsewhere.
        """
        seeds = range(first, first + count)
        return PromptSet(
            [Prompt(self._started(seed).opening, metadata={"seed": seed}) for seed in seeds]
        )

    def reply(
        self, conversation: Any, metadata: Mapping[str, Any], rng: np.random.Generator
    ) -> Reply:
        """Return the game's answer to the last turn, played from its seed."""
        if "seed" not in metadata:
            raise SettingsError(
                f"partner {self.name!r} needs a column 'seed' beside each prompt, got "
                f"{sorted(metadata)}; take the partner's prompts(count)"
            )
        seed = int(metadata["seed"])
        said = [m["content"] for m in conversation if m["role"] == "assistant"]
        game = self._open.pop((seed, *said[:-1]), None)
        if game is None:
            game = self._started(seed)
            for text in said[:-1]:
                self._step(game, text)
        answer = self._step(game, said[-1])
        if not answer.done:
            played = (seed, *said)
            self._open[played] = game
            while len(self._open) > OPEN_GAMES:
                self._open.popitem(last=False)
        return answer

    def _started(self, seed: int) -> Game:
        with _own_random_numbers(None) as kept:
            random.seed(seed)
            np.random.seed(seed % 2**32)
            env, opening = self.begin(seed)
        return Game(env, opening, kept[0])

    def _step(self, game: Game, text: str) -> Reply:
        with _own_random_numbers(game.state) as kept:
            answer = self.advance(game.env, text)
        game.state = kept[0]
        return answer


@contextmanager
def _own_random_numbers(state: Any) -> Iterator[list[Any]]:
    """Put a game's state into the global generators, and give it back with what they were."""
    before = random.getstate(), np.random.get_state()
    kept: list[Any] = []
    if state is not None:
        random.setstate(state[0]), np.random.set_state(state[1])
    try:
        yield kept
    finally:
        kept.append((random.getstate(), np.random.get_state()))
        random.setstate(before[0]), np.random.set_state(before[1])


def installed(module: str, package: str) -> Any:
    """Import a suite that an extra of tokengym-lab brings."""
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError as error:
        raise SettingsError(
            f"partner {package!r} needs a package that cannot be imported ({error}); "
            f"pip install 'tokengym-lab[{package}]'"
        ) from error
