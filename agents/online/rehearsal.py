"""Playing chosen prompts by an environment's rules, apart from the environment itself."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tokengym.agents.rollouts.environments import Environments, Observation, environment_attribute
from tokengym.agents.rollouts.playing import Choice, Player, play_round
from tokengym.agents.rollouts.rounds import GymRounds
from tokengym.envs import Episode, PromptSet, TokenGenerationVectorEnv
from tokengym.envs.prompts.table import EncodedPrompt
from tokengym.envs.settings import GenerationSettings

PromptChoice: TypeAlias = int | EncodedPrompt


class Rehearsal:
    """A private copy of an environment's rules, without its reward, for prompts of one's choice.

    It has the tokenizer, prompts, lengths, legal tokens and stop strings of the innermost
    environment, and touches neither that environment nor its random state.

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
        settings = environment_attribute(envs, "settings")
        if not isinstance(settings, GenerationSettings):
            raise TypeError(
                f"env must be a token-generation environment, got {type(envs).__name__}; make it "
                "with gym.make_vec"
            )
        self.max_rows = max_rows
        self._arguments: dict[str, Any] = {
            **{field.name: getattr(settings, field.name) for field in fields(settings)},
            "max_prompt_tokens": environment_attribute(envs, "max_prompt_tokens"),
            "tokenizer": environment_attribute(envs, "tokenizer"),
            "prompts": environment_attribute(envs, "prompts"),
        }
        self._batches: dict[int, TokenGenerationVectorEnv] = {}
        self._known: dict[tuple[int, ...], int] = {}

    @property
    def tokenizer(self) -> Any:
        """The tokenizer whose ids are the actions."""
        return self._arguments["tokenizer"]

    @property
    def prompts(self) -> PromptSet:
        """The environment's prompts; a prompt id is a position in it."""
        return self._arguments["prompts"]

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
            player: What chooses tokens; see `tokengym.agents.rollouts.playing.as_player`.
            prompts: Prompt ids, or prompts as ids and text; the same one may come many times.
            beginnings: (prompts,) the first tokens of each response, which the player goes on from;
                they must not end it. None begins all responses anew.
            deterministic: The likeliest token instead of a sampled one.

        Returns:
            (len(prompts),) episodes in their order, without score.
        """
        if beginnings is not None:
            player = _Roomy(player, max(map(len, beginnings), default=0))
        episodes: list[Episode] = []
        for start in range(0, len(prompts), self.max_rows):
            part = prompts[start : start + self.max_rows]
            envs = self._batch(len(part))
            template = envs.get_state()[0]
            written = [()] * len(part) if beginnings is None else beginnings[start:][: len(part)]
            states = [
                {**template, **self._beginning(prompt), "response_ids": list(ids)}
                for prompt, ids in zip(part, written, strict=True)
            ]

            def begin(
                envs: TokenGenerationVectorEnv = envs, states: list[dict[str, Any]] = states
            ) -> tuple[Any, dict[str, Any]]:
                return envs.set_state(states)

            played = play_round(player, GymRounds(envs, begin=begin), deterministic=deterministic)
            assert played is not None  # only on_step abandons rounds
            episodes += played.episodes
        return episodes

    def recognise(self, observation: Observation) -> list[PromptChoice]:
        """Return the prompts that the rows of an observation begin with.

        A prompt of the environment is known by its tokens, with its reference; of any other, the
        text is what its tokens decode to.

        Args:
            observation: ``input_ids`` and ``attention_mask``, (rows, length), responses empty.
        """
        input_ids = np.asarray(observation["input_ids"])
        masks = np.asarray(observation["attention_mask"], dtype=bool)
        found: list[PromptChoice] = []
        for row, mask in zip(input_ids, masks, strict=True):
            prompt_ids = tuple(row[mask].tolist())
            known = self._position(prompt_ids)
            if known is None:
                text = self.tokenizer.decode(list(prompt_ids), skip_special_tokens=True)
                found.append(EncodedPrompt(text, prompt_ids, -1, None, None))
            else:
                found.append(known)
        return found

    def prompts_of(self, episodes: Sequence[Episode]) -> list[PromptChoice]:
        """Return the prompts that episodes answered."""
        found: list[PromptChoice] = []
        for episode in episodes:
            ids = tuple(episode.prompt_ids)
            known = self._position(ids)
            if known is None:
                found.append(EncodedPrompt(episode.prompt, ids, -1, None, None))
            else:
                found.append(known)
        return found

    def _position(self, prompt_ids: tuple[int, ...]) -> int | None:
        """Return where a prompt stands in the environment's set; None if it is not in it."""
        if not self._known:
            table = self._batch(1)._mdp.table
            ids = [table[position].ids for position in range(len(table))]
            self._known = {row: position for position, row in reversed(list(enumerate(ids)))}
        return self._known.get(prompt_ids)

    def _batch(self, num_rows: int) -> TokenGenerationVectorEnv:
        """Return an environment of that many rows, begun; they are kept."""
        if num_rows not in self._batches:
            envs = TokenGenerationVectorEnv(
                num_envs=num_rows, autoreset_mode="Disabled", **self._arguments
            )
            envs.reset(seed=0)
            self._batches[num_rows] = envs
        return self._batches[num_rows]

    def _beginning(self, prompt: PromptChoice) -> dict[str, Any]:
        """Return what makes a saved state that of an episode just begun from the prompt."""
        if not isinstance(prompt, EncodedPrompt):
            prompt = self._batch(1)._mdp.table.lookup(prompt)
        return {
            "prompt": prompt.text,
            "prompt_id": prompt.prompt_id,
            "prompt_ids": list(prompt.ids),
            "terminated": False,
            "truncated": False,
        }


class _Roomy:
    """Tells a player of more columns than an observation has.

    A player with a cache lays all texts so that they end in one column, and makes as many columns
    as an observation has. Where some responses are begun and others are not, the longest text sets
    where the shortest goes on, and that one has further to go.
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
