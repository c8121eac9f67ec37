"""Playing chosen prompts in a private copy of an environment."""

from collections.abc import Sequence
from functools import cached_property, partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tokengym.agents.rollouts.environments import Environments, Observation, bare_envs
from tokengym.agents.rollouts.playing import Choice, Player, play_round
from tokengym.agents.rollouts.rounds import GymRounds, Options
from tokengym.envs import Episode, PromptSet, TokenGenerationVectorEnv
from tokengym.envs.prompts.table import EncodedPrompt

PromptChoice: TypeAlias = int | EncodedPrompt
"""A prompt id, or a prompt that is not in the environment's set."""
READ_ROWS = 256
"""Prompts read at a time, to know them by their tokens."""


class ChosenPrompts:
    """Plays prompts of one's choice by an environment's rules, without its reward.

    The environment itself is not stepped, and its random state is not touched.

    Args:
        envs: A token-generation environment, single or batched, wrapped or not.
        max_rows: Most episodes played at a time.

    Raises:
        TypeError: if ``envs`` is no token-generation environment.
        ValueError: if ``max_rows`` is not positive.
    """

    def __init__(self, envs: Environments, *, max_rows: int = 64) -> None:
        if max_rows < 1:
            raise ValueError(f"max_rows must be at least 1, got {max_rows}; 64 is usual")
        self.max_rows = max_rows
        self._single = bare_envs(envs, 1)
        self._batches: dict[int, TokenGenerationVectorEnv] = {}

    @property
    def tokenizer(self) -> Any:
        """The tokenizer whose ids are the actions."""
        return self._single.tokenizer

    @property
    def prompts(self) -> PromptSet:
        """The environment's prompts; a prompt id is a position in it."""
        return self._single.prompts

    @property
    def settings(self) -> Any:
        """The environment's settings."""
        return self._single.settings

    def play(
        self,
        player: Player,
        prompts: Sequence[PromptChoice],
        *,
        beginnings: Sequence[Sequence[int]] | None = None,
        deterministic: bool = False,
    ) -> list[Episode]:
        """Play one episode from each prompt.

        Args:
            player: Chooses the tokens; see `tokengym.agents.rollouts.playing.as_player`.
            prompts: Prompts to play; the same one may come many times.
            beginnings: (prompts,) the first tokens of each response, which the player continues;
                they must not end it. None begins all responses anew.
            deterministic: The likeliest token instead of a sampled one.

        Returns:
            (len(prompts),) episodes in their order, without score.
        """
        if beginnings is not None:
            player = _Roomy(player, max(map(len, beginnings), default=0))
        episodes: list[Episode] = []
        for start in range(0, len(prompts), self.max_rows):
            rows = slice(start, start + self.max_rows)
            envs = self._envs(len(prompts[rows]))
            written = None if beginnings is None else beginnings[rows]
            rounds = GymRounds(envs, begin=partial(_begin, envs, prompts[rows], written))
            played = play_round(player, rounds, deterministic=deterministic)
            assert played is not None  # only on_step abandons rounds
            episodes += played.episodes
        return episodes

    def recognise(self, observation: Observation) -> list[PromptChoice]:
        """Return the prompts that the rows of an observation begin with.

        A prompt of the environment is known by its tokens, with its reference; the text of any
        other is decoded from its tokens.

        Args:
            observation: ``input_ids`` and ``attention_mask``, (rows, length), responses empty.
        """
        return [
            self.find(ids, self.tokenizer.decode(list(ids), skip_special_tokens=True))
            for ids in _rows_of(observation)
        ]

    def find(self, prompt_ids: tuple[int, ...], text: str) -> PromptChoice:
        """Return the prompt with these tokens.

        Args:
            prompt_ids: The prompt's tokens.
            text: Text of the prompt, where it is not in the environment's set.
        """
        known = self._known.get(prompt_ids)
        return EncodedPrompt(text, prompt_ids, -1, None, None) if known is None else known

    @cached_property
    def _known(self) -> dict[tuple[int, ...], int]:
        """The position of each prompt, the first of equals, by its tokens."""
        found: dict[tuple[int, ...], int] = {}
        count = min(len(self.prompts), READ_ROWS)
        envs = bare_envs(self._single, count, prompt_sampling="sequential")
        for _ in range(0, len(self.prompts), count):
            observation, infos = envs.reset()
            for ids, place in zip(_rows_of(observation), infos["prompt_id"].tolist(), strict=True):
                found[ids] = min(place, found.get(ids, place))
        return found

    def _envs(self, num_rows: int) -> TokenGenerationVectorEnv:
        """Return an environment of that many rows, begun; they are kept."""
        if num_rows not in self._batches:
            self._batches[num_rows] = bare_envs(self._single, num_rows)
            self._batches[num_rows].reset(seed=0)
        return self._batches[num_rows]


def _begin(
    envs: TokenGenerationVectorEnv,
    prompts: Sequence[PromptChoice],
    beginnings: Sequence[Sequence[int]] | None,
    seed: int | None,
    options: Options | None,
) -> tuple[Any, dict[str, Any]]:
    """Reset each row to its prompt, and to the beginning of its response."""
    del seed, options  # the prompts are chosen
    ids = np.array([getattr(prompt, "prompt_id", prompt) for prompt in prompts])
    for prompt_id in np.unique(ids[ids >= 0]).tolist():
        envs.reset(options={"prompt_id": prompt_id, "reset_mask": ids == prompt_id})
    states = envs.get_state()
    for row, (state, prompt) in enumerate(zip(states, prompts, strict=True)):
        if isinstance(prompt, EncodedPrompt):
            state |= {"prompt": prompt.text, "prompt_id": -1, "prompt_ids": list(prompt.ids)}
            state |= {"response_ids": [], "terminated": False, "truncated": False}
        if beginnings is not None:
            state["response_ids"] = list(beginnings[row])
    return envs.set_state(states)


def _rows_of(observation: Observation) -> list[tuple[int, ...]]:
    """Return the token ids of each row of an observation."""
    masks = np.asarray(observation["attention_mask"], dtype=bool)
    rows = zip(np.asarray(observation["input_ids"]), masks, strict=True)
    return [tuple(ids[mask].tolist()) for ids, mask in rows]


class _Roomy:
    """Tells a player of more columns than an observation has.

    A player with a cache aligns all texts at the end, in as many columns as an observation has.
    Where some responses are begun and others are not, the longest text decides where the shortest
    continues, and that one has further to go.
    """

    def __init__(self, player: Player, columns: int) -> None:
        self._player = player
        self._columns = columns

    def begin(self, observation: Observation) -> None:
        """See `Player.begin`."""
        room = ((0, 0), (self._columns, 0))
        self._player.begin({name: np.pad(value, room) for name, value in observation.items()})

    def act(
        self,
        rows: NDArray[np.integer],
        observation: Observation,
        action_masks: NDArray[np.generic] | None,
        *,
        deterministic: bool,
    ) -> Choice:
        """See `Player.act`."""
        return self._player.act(rows, observation, action_masks, deterministic=deterministic)
