"""Prompts and responses of one's choice, played by an environment's rules without its reward."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any, TypeAlias

import numpy as np

from tokengym.agents.policy.sampler import Observation, Sampler
from tokengym.agents.policy.sampling import RowDraws
from tokengym.agents.rollouts.playing import Agent, as_sampler, play_round
from tokengym.agents.rollouts.rounds import (
    Environments,
    RoundReward,
    as_rounds,
    environment_attribute,
)
from tokengym.base.chat import Chat
from tokengym.envs import Episode, PromptSet, TokenGenerationVectorEnv
from tokengym.envs.prompts.table import EncodedPrompt
from tokengym.envs.settings import GenerationSettings

ROWS = 256
"""Most responses continued at once."""
PromptChoice: TypeAlias = int | EncodedPrompt | Episode
"""A prompt id, a prompt that is not in the environment's set, or an episode for its prompt."""


def copy_without_reward(
    envs: Environments, num_envs: int, **changes: Any
) -> TokenGenerationVectorEnv:
    """Return a private copy of a token-generation environment, without reward, as a batch.

    It has the tokenizer, prompts, lengths, legal tokens and stop strings of the innermost
    environment but for ``changes``, shares no random state with it, and does not touch it. Rows are
    not reset by themselves.
    """
    settings = environment_attribute(envs, "settings")
    if not isinstance(settings, GenerationSettings):
        raise TypeError(
            f"env must be a token-generation environment, got {type(envs).__name__}; make it "
            "with gym.make_vec"
        )
    arguments: dict[str, Any] = {
        field.name: getattr(settings, field.name) for field in fields(settings)
    }
    for name in ("max_prompt_tokens", "tokenizer", "prompts"):
        arguments[name] = environment_attribute(envs, name)
    return TokenGenerationVectorEnv(
        num_envs=num_envs, autoreset_mode="Disabled", **{**arguments, **changes}
    )


class GivenPrompts:
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
        self._single = copy_without_reward(envs, 1)
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
    def settings(self) -> GenerationSettings:
        """The environment's settings."""
        return self._single.settings

    def play(
        self,
        sampler: Sampler,
        prompts: Sequence[PromptChoice],
        *,
        beginnings: Sequence[Sequence[int] | Episode] | None = None,
        deterministic: bool = False,
    ) -> list[Episode]:
        """Play one episode from each prompt.

        Args:
            sampler: Chooses the tokens; see `tokengym.agents.rollouts.playing.as_sampler`.
            prompts: Prompts to play; the same one may come many times.
            beginnings: (prompts,) the first tokens of each response, or an unfinished episode,
                which the sampler continues; they must not end it. None begins all anew.
            deterministic: The likeliest token instead of a sampled one.

        Returns:
            (len(prompts),) episodes in their order, without score.
        """
        episodes: list[Episode] = []
        for start in range(0, len(prompts), self.max_rows):
            rows = slice(start, start + self.max_rows)
            begun = None if beginnings is None else beginnings[rows]
            envs, options = self.begin(prompts[rows], begun)
            played = play_round(
                sampler, as_rounds(envs), options=options, deterministic=deterministic
            )
            assert played is not None  # only on_step abandons rounds
            episodes += played.episodes
        return episodes

    def begin(
        self,
        prompts: Sequence[PromptChoice],
        beginnings: Sequence[Sequence[int] | Episode] | None = None,
    ) -> tuple[TokenGenerationVectorEnv, dict[str, Any]]:
        """Return an environment with a row for each prompt, and the options of its ``reset``."""
        choices = [_prompt_of(one) if isinstance(one, Episode) else one for one in prompts]
        envs = self.envs(choices)
        encoded = [envs.encoded_prompt(one) if isinstance(one, int) else one for one in choices]
        return envs, {"prompts": encoded} | ({"responses": beginnings} if beginnings else {})

    def recognise(self, observation: Observation) -> list[int | EncodedPrompt]:
        """Return the prompts that the rows of an observation begin with.

        A prompt of the environment is known by its tokens, with its reference; the text of any
        other is decoded from its tokens.

        Args:
            observation: ``input_ids`` and ``attention_mask``, (rows, length), responses empty.
        """
        masks = np.asarray(observation["attention_mask"], dtype=bool)
        rows = zip(np.asarray(observation["input_ids"]), masks, strict=True)
        texts = [tuple(ids[mask].tolist()) for ids, mask in rows]
        return [
            self.find(ids, self.tokenizer.decode(list(ids), skip_special_tokens=True))
            for ids in texts
        ]

    def find(self, prompt_ids: tuple[int, ...], text: str) -> int | EncodedPrompt:
        """Return the prompt with these tokens; one that is not in the set has the given text."""
        prompt = self._single.find_prompt(prompt_ids, text)
        return prompt if prompt.prompt_id < 0 else prompt.prompt_id

    def envs(self, prompts: Sequence[int | EncodedPrompt]) -> TokenGenerationVectorEnv:
        """Return an environment with a row and room for each prompt, begun.

        It is kept, unless a prompt of the caller's own is longer than any of the set.
        """
        lengths = [len(prompt.ids) for prompt in prompts if isinstance(prompt, EncodedPrompt)]
        count, longest = len(prompts), max(lengths, default=0)
        if longest > self._single.max_prompt_tokens:
            # All prompts of the set as wide as that one would take memory for nothing.
            few = self.prompts[:1] if len(lengths) == count else self.prompts
            wide = copy_without_reward(self._single, count, max_prompt_tokens=longest, prompts=few)
            wide.reset(seed=0)
            return wide
        # Kept by its number of rows: making one encodes every prompt of the set again.
        if count not in self._batches:
            self._batches[count] = copy_without_reward(self._single, count)
            self._batches[count].reset(seed=0)
        return self._batches[count]


def _prompt_of(episode: Episode) -> EncodedPrompt:
    """Return an episode's prompt for an environment that need not have it."""
    messages = episode.messages
    assert isinstance(messages, Chat)
    annotations = (episode.reference, episode.query_type, episode.metadata)
    return EncodedPrompt(episode.prompt, tuple(episode.prompt_ids), -1, *annotations, messages)


def temperature_of(agent: Agent) -> float | None:
    """Return an agent's own temperature of sampling, that of its policy; None if it has none."""
    return getattr(getattr(agent, "policy", agent), "temperature", None)


@contextmanager
def at_temperature(agent: Agent, temperature: float | None) -> Iterator[None]:
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
    owner: Any = getattr(agent, "policy", agent)
    before = temperature_of(agent)
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


class PolicyContinuations:
    """Finishes responses with an agent's policy, by the rules of an environment.

    The environment is not stepped, and neither its random state nor the agent's is touched. The
    seeds say how a response is continued, whatever else is asked for, where the agent has a
    sampler; one with ``predict`` alone draws as it does.
    """

    def __init__(self, envs: Environments, agent: Agent, *, seed: int) -> None:
        self._agent, self._seed, self._envs = agent, seed, envs
        self._rules: TokenGenerationVectorEnv | None = None
        self._uncounted = 0

    def finish(self, prefixes: Sequence[Episode], seeds: Sequence[Sequence[int]]) -> list[Episode]:
        """Return each response continued to its end; see `tokengym.rewards.Continuations`."""
        if self._rules is None:  # one prompt stands for the set, which would be encoded again
            options: dict[str, Any] = {"overlong": "left", "prompt_format": None}
            options |= {"prompts": [prefixes[0].prompt], "chat_template": self._replies_in_chat()}
            self._rules = copy_without_reward(self._envs, 1, **options)
        # Responses of similar length end together, and need the least padding.
        order = sorted(range(len(prefixes)), key=lambda row: len(prefixes[row].response_ids))
        player = GivenPrompts(self._rules, max_rows=ROWS)
        finished = list(prefixes)
        for start in range(0, len(order), ROWS):
            rows = order[start : start + ROWS]
            begun = [prefixes[row] for row in rows]
            draws = RowDraws([[self._seed, *seeds[row]] for row in rows])
            ended = player.play(as_sampler(self._agent, draws), begun, beginnings=begun)
            for row, episode in zip(rows, ended, strict=True):
                self._uncounted += episode.num_written - prefixes[row].num_written
                finished[row] = replace(
                    prefixes[row],
                    response=episode.response,
                    response_ids=episode.response_ids,
                    finish_reason=episode.finish_reason,
                    turns=episode.turns,
                    written=episode.written,
                )
        return finished

    def _replies_in_chat(self) -> bool:
        """Say whether a partner's replies are put into the tokenizer's chat template."""
        settings = environment_attribute(self._envs, "settings")
        if getattr(settings, "partner", None) is None:
            return False
        prompts = environment_attribute(self._envs, "prompts")
        return bool(settings.chat_template) or any(prompt.messages for prompt in prompts)

    def count_tokens(self) -> int:
        """Return the tokens that were sampled since the last call."""
        count, self._uncounted = self._uncounted, 0
        return count


def bind_policy(envs: Environments, agent: Agent, *, seed: int = 0) -> PolicyContinuations | None:
    """Let an environment's credit continue responses with an agent's policy.

    Rules such as ``mc`` need it. Learners of this package bind themselves at the start of every
    round; for any other agent, call it before the environment is stepped.

    Args:
        envs: The environment, with its reward; not one whose rows are in other processes.
        agent: Anything that `tokengym.agents.collect` plays; its policy of the moment is used.
        seed: Seed of the continuations.

    Returns:
        What was bound; None if no credit of the environment needs a policy.
    """
    rewards = RoundReward(envs).of_policy
    if not rewards:
        return None
    continuations = PolicyContinuations(envs, agent, seed=seed)
    for reward in rewards:
        reward.continuations = continuations
    return continuations
