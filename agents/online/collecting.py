"""Several scored responses to each chosen prompt, and the pairs or demonstrations in them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from tokengym.agents.offline.settings import Candidates, Sampling
from tokengym.agents.online.pairing import best_against_worst, best_of
from tokengym.agents.rollouts.environments import (
    Environments,
    Observation,
    bare_envs,
    environment_scorer,
)
from tokengym.agents.rollouts.playing import Choice, Player, PredictPlayer, play_round
from tokengym.agents.rollouts.rounds import GymRounds, Options
from tokengym.envs import Episode, PromptSet, TokenGenerationVectorEnv
from tokengym.envs.prompts.table import EncodedPrompt
from tokengym.rewards import Scorer
from tokengym.rewards.scorers.base import as_scorer

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
            envs = self.envs(prompts[rows])
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

    def envs(self, prompts: Sequence[PromptChoice]) -> TokenGenerationVectorEnv:
        """Return an environment with a row and room for each prompt, begun.

        It is kept, unless a prompt of the caller's own is longer than any of the set.
        """
        lengths = [len(prompt.ids) for prompt in prompts if isinstance(prompt, EncodedPrompt)]
        count, longest = len(prompts), max(lengths, default=0)
        if longest > self._single.max_prompt_tokens:
            # All prompts of the set as wide as that one would take memory for nothing.
            few = self.prompts[:1] if len(lengths) == count else self.prompts
            wide = bare_envs(self._single, count, max_prompt_tokens=longest, prompts=few)
            wide.reset(seed=0)
            return wide
        if count not in self._batches:
            self._batches[count] = bare_envs(self._single, count)
            self._batches[count].reset(seed=0)
        return self._batches[count]


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
            state |= {"reference": prompt.reference, "query_type": prompt.query_type}
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


# --- responses with scores ------------------------------------------------------------------------


Group = tuple[Episode, ...]
"""The scored responses to one prompt."""
Row = dict[str, Any]


class ResponseCollector:
    """Draws several responses to each prompt and scores them.

    Args:
        envs: The environment whose rules and prompts are used; it is not stepped.
        scorer: Scores the responses; None takes the scorer of the environment's reward, not
            normalised.
        sampling: How responses are drawn and paired.
        max_rows: Most episodes played at a time.

    Raises:
        TypeError: if ``envs`` is no token-generation environment.
        ValueError: if there is no scorer.
    """

    def __init__(
        self,
        envs: Environments,
        *,
        scorer: Any | None = None,
        sampling: Candidates | None = None,
        max_rows: int = 128,
    ) -> None:
        self.chosen = ChosenPrompts(envs, max_rows=max_rows)
        self.sampling: Candidates = sampling or Sampling()
        scorer = environment_scorer(envs) if scorer is None else scorer
        if scorer is None:
            raise ValueError(
                "there is nothing to score responses with, got scorer=None and an environment "
                "without reward; pass scorer=, or make the environment with reward='sparse'"
            )
        self.scorer: Scorer = as_scorer(scorer).bind(self.chosen.tokenizer)
        self.num_tokens = 0
        """Response tokens sampled so far."""

    @property
    def prompts(self) -> PromptSet:
        """The environment's prompts; a prompt id is a position in it."""
        return self.chosen.prompts

    def collect(
        self, agent: Any, prompts: Sequence[PromptChoice], *, seed: int | None = None
    ) -> list[Group]:
        """Return the scored responses to each prompt.

        Args:
            agent: Anything `tokengym.agents.collect` plays; one without a ``temperature`` of its
                own must be sampled at temperature None.
            prompts: Prompt ids, or prompts.
            seed: Seed of the sampling; None continues the agent's own random state.

        Returns:
            (prompts,) groups of ``sampling.n`` episodes with ``score``, temperature by temperature.
        """
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        return self.draw(agent, prompts, generator)

    def probe(self, agent: Any, prompts: Sequence[PromptChoice]) -> list[float]:
        """Return the scores of the agent's greedy responses, which tell another agent or scorer.

        Nothing random is drawn, and the tokens are not counted.
        """
        episodes = self.chosen.play(player_of(agent, None), prompts, deterministic=True)
        return [float(value) for value in self.scorer.score_groups([episodes]).values]

    def draw(
        self, agent: Any, prompts: Sequence[PromptChoice], generator: torch.Generator | None
    ) -> list[Group]:
        """Return the scored responses to each prompt; see `collect`.

        Args:
            agent: Writes the responses.
            prompts: Prompt ids, or prompts.
            generator: Source of the sampled tokens; None continues the agent's own.
        """
        return self.score(self.write(agent, prompts, generator))

    def write(
        self,
        agent: Any,
        prompts: Sequence[PromptChoice],
        generator: torch.Generator | None,
        *,
        n: int | None = None,
    ) -> list[Group]:
        """Return responses to each prompt, without scores; see `draw`.

        Args:
            agent: Writes the responses.
            prompts: Prompt ids, or prompts.
            generator: Source of the sampled tokens; None continues the agent's own.
            n: Responses per prompt, a multiple of the number of temperatures; None takes the
                sampling's.
        """
        share = (n or self.sampling.n) // len(self.sampling.temperatures)
        repeated = [prompt for prompt in prompts for _ in range(share)]
        groups: list[list[Episode]] = [[] for _ in prompts]
        for temperature in self.sampling.temperatures:
            with at_temperature(agent, temperature):
                episodes = self.chosen.play(player_of(agent, generator), repeated)
            for place, group in enumerate(groups):
                group += episodes[place * share : (place + 1) * share]
            self.num_tokens += sum(len(episode.response_ids) for episode in episodes)
        return [tuple(group) for group in groups]

    def score(self, groups: Sequence[Group]) -> list[Group]:
        """Return the groups with scores, all responses scored in one call."""
        flat = [episode for group in groups for episode in group]
        if not flat:
            return []
        scores = self.scorer.score_groups(groups)
        scores.check(flat, self.scorer.name)
        scored = iter(
            [
                replace(
                    episode,
                    score=float(scores.values[i]),
                    score_parts={name: float(part[i]) for name, part in scores.parts.items()},
                )
                for i, episode in enumerate(flat)
            ]
        )
        return [tuple(next(scored) for _ in group) for group in groups]


def pair_rows(groups: Sequence[Group], sampling: Sampling, prompts: Sequence[Any]) -> list[Row]:
    """Return one row per prompt whose best and worst response differ.

    Args:
        groups: Scored responses to each prompt.
        sampling: The length penalty and the least gap.
        prompts: (groups,) the prompt of each group; a prompt id is kept.

    Returns:
        Rows with the columns of `tokengym.rewards.pairs.store.PAIR_COLUMNS`.
    """
    rows = []
    for group, prompt in zip(groups, prompts, strict=True):
        choice = best_against_worst(
            [_score(episode) for episode in group],
            [episode.response for episode in group],
            length_penalty=sampling.length_penalty,
            min_gap=sampling.min_gap,
        )
        if choice is None:
            continue
        chosen, rejected = group[choice.chosen], group[choice.rejected]
        rows.append(
            {
                "prompt": chosen.prompt,
                "chosen": chosen.response,
                "rejected": rejected.response,
                "prompt_ids": list(chosen.prompt_ids),
                "chosen_ids": list(chosen.response_ids),
                "rejected_ids": list(rejected.response_ids),
                "chosen_score": _score(chosen),
                "rejected_score": _score(rejected),
                "prompt_id": _prompt_number(prompt),
            }
        )
    return rows


def best_rows(groups: Sequence[Group], sampling: Candidates, prompts: Sequence[Any]) -> list[Row]:
    """Return the best response to each prompt, for supervised fine-tuning (RAFT).

    Args:
        groups: Scored responses to each prompt.
        sampling: The length penalty.
        prompts: (groups,) the prompt of each group; a prompt id is kept.

    Returns:
        Rows as `response_rows` gives them.

    Source: Dong et al. 2023, "RAFT", arXiv:2304.06767.
    """
    best = []
    for group in groups:
        place = best_of(
            [_score(episode) for episode in group],
            [episode.response for episode in group],
            length_penalty=sampling.length_penalty,
        )
        best.append((group[place],))
    return response_rows(best, prompts)


def response_rows(groups: Sequence[Group], prompts: Sequence[Any]) -> list[Row]:
    """Return one row per response: text, ids and score.

    Args:
        groups: Scored responses to each prompt.
        prompts: (groups,) the prompt of each group; a prompt id is kept.

    Returns:
        Rows with the columns of `tokengym.rewards.pairs.store.RESPONSE_COLUMNS`.
    """
    return [
        {
            "prompt": episode.prompt,
            "response": episode.response,
            "prompt_ids": list(episode.prompt_ids),
            "response_ids": list(episode.response_ids),
            "score": _score(episode),
            "finish_reason": episode.finish_reason,
            "prompt_id": _prompt_number(prompt),
        }
        for group, prompt in zip(groups, prompts, strict=True)
        for episode in group
    ]


def prompt_order(num_prompts: int, count: int, *, seed: int, skip: int = 0) -> list[int]:
    """Return prompt ids in consecutive permutations, so that none comes twice before all did.

    Args:
        num_prompts: Prompts of the environment.
        count: Number of ids.
        seed: Seed of the permutations.
        skip: Ids at the start that were used before.

    Raises:
        ValueError: if a number is out of range.

    Example:
        >>> first, rest = prompt_order(5, 3, seed=0), prompt_order(5, 2, seed=0, skip=3)
        >>> sorted(first + rest)
        [0, 1, 2, 3, 4]
    """
    if num_prompts < 1 or count < 0 or skip < 0:
        raise ValueError(
            f"num_prompts must be >= 1, count and skip >= 0, got {num_prompts}, {count} and {skip}"
        )
    rng = np.random.default_rng(seed)
    order: list[int] = []
    while len(order) < skip + count:
        order += rng.permutation(num_prompts).tolist()
    return order[skip : skip + count]


def player_of(agent: Any, generator: torch.Generator | None) -> Player:
    """Return the agent's player, its sampling from the generator where it takes one."""
    if hasattr(agent, "player"):
        player: Player = agent.player(generator)
        return player
    return PredictPlayer(agent)


@contextmanager
def at_temperature(agent: Any, temperature: float | None) -> Iterator[None]:
    """Let an agent sample at another temperature within the context.

    Args:
        agent: One that has a ``temperature``, or a ``policy`` that has one.
        temperature: > 0; None leaves the agent as it is.

    Raises:
        TypeError: if the agent has no temperature.
    """
    if temperature is None:
        yield
        return
    owner = getattr(agent, "policy", agent)
    before = getattr(owner, "temperature", None)
    if before is None:
        raise TypeError(
            f"{type(agent).__name__} has no temperature to set to {temperature}; sample it at its "
            "own with temperatures=(None,)"
        )
    owner.temperature = temperature
    try:
        yield
    finally:
        owner.temperature = before


def _prompt_number(prompt: Any) -> int:
    """Return a prompt's position in its environment's set, -1 if it is in none."""
    return int(getattr(prompt, "prompt_id", prompt))


def _score(episode: Episode) -> float:
    if episode.score is None:
        raise ValueError(f"the response {episode.response[:40]!r} has no score; score it first")
    return episode.score
