"""Episodes of every kind, with sources whose answers depend on one episode alone.

A model's pass gives other last bits in another batch, as the sizes of its matrices change. Here a
score is a number drawn from the text, and a language model reads one text at a time, so that what
differs between a row alone and in a batch is due to what a function makes of it.
"""

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from tests.support.rewards.common import WORDS, make_episode
from tokengym.envs import Episode, Turn
from tokengym.rewards import PolicyReader, Reward, Rule, Scorer, Scores
from tokengym.rewards.scores import KINDS


def drawn(episode: Episode, *more: int) -> np.random.Generator:
    """Return a generator that depends on an episode's tokens."""
    ids = [*episode.prompt_ids, *episode.response_ids]
    return np.random.default_rng([len(episode.prompt_ids), len(ids), *ids, *more])


class Steady(Scorer):
    """Draws scores and attributions of every kind from the tokens; "relevance" is additive."""

    attribution_kinds = frozenset(KINDS)
    reads_text = False

    def __init__(self) -> None:
        self.model = SimpleNamespace(config=SimpleNamespace(to_dict=dict))

    def score(self, episodes: Sequence[Episode], *, attribution: str | None = None) -> Scores:
        values = [drawn(episode).normal() for episode in episodes]
        if attribution is None:
            return Scores(values)
        number = sorted(KINDS).index(attribution)
        rows = [drawn(e, number).normal(size=len(e.response_ids)) for e in episodes]
        if attribution == "attention":
            return Scores(values, attributions=[np.abs(row) for row in rows])
        if attribution == "relevance":
            rows = [row - (row.sum() - v) / len(row) for row, v in zip(rows, values, strict=True)]
        return Scores(values, attributions=rows, signed=True, additive=attribution == "relevance")


class Continues:
    """Finishes a prefix by tokens drawn by its seeds."""

    def finish(self, prefixes: Sequence[Episode], seeds: Sequence[Sequence[int]]) -> list[Episode]:
        finished = []
        for prefix, seed in zip(prefixes, seeds, strict=True):
            more = np.random.default_rng(seed).integers(2, len(WORDS), 3).tolist()
            written = None if prefix.written is None else np.append(prefix.written, [1, 1, 1])
            added: dict[str, Any] = {
                "response_ids": [*prefix.response_ids, *more],
                "written": written,
            }
            finished.append(replace(prefix, **added))
        return finished


def reader(seed: int = 0) -> PolicyReader:
    """Return a small language model that reads one text at a time."""
    torch.manual_seed(seed)
    config = GPT2Config(vocab_size=len(WORDS), n_positions=512, n_embd=16, n_layer=1, n_head=2)
    return PolicyReader(GPT2LMHeadModel(config), batch_size=1)


def played(count: int = 5, seed: int = 0, time: int = 40) -> list[Episode]:
    """Return so many episodes of each kind: plain, cut, of one token, and of several turns."""
    rng = np.random.default_rng(seed)
    episodes = []
    for number in range(count):
        sizes = [int(rng.integers(2, time)), int(rng.integers(2, time)), 1]
        for kind, size in enumerate(sizes):
            ends = kind != 1
            ids = [*rng.integers(2, len(WORDS), size - ends).tolist(), *([1] if ends else [])]
            fields: Any = {"finish_reason": "eos" if ends else "length"}
            episodes.append(_episode(rng, number, ids, **fields))
        episodes.append(_conversation(rng, number))
    return episodes


def _conversation(rng: np.random.Generator, number: int) -> Episode:
    ids, written, turns = list[int](), list[int](), []
    for turn in range(2 + number % 3):
        for role in ("assistant", "user"):
            size = int(rng.integers(1, 9))
            span = len(ids), len(ids) + size
            score = float(rng.normal()) if role == "assistant" and turn != 1 else None
            turns.append(Turn(role, "a text", span, score))
            ids += rng.integers(2, len(WORDS), size).tolist()
            written += [int(role == "assistant")] * size
    turns.pop()  # the conversation ends with the policy
    stop = turns[-1].span[1]
    fields: Any = {"written": written[:stop], "turns": turns, "finish_reason": "eos"}
    return _episode(rng, number, ids[:stop], **fields)


def _episode(rng: np.random.Generator, number: int, ids: list[int], **fields: Any) -> Episode:
    prompt = rng.integers(2, len(WORDS), rng.integers(1, 6)).tolist()
    return make_episode(
        prompt,
        ids,
        reference="the cat sat"[: 7 + 2 * (number % 3)],
        log_probs=-np.abs(rng.normal(size=len(ids))),
        entropy=np.abs(rng.normal(size=len(ids))),
        **fields,
    )


def reward_of(rule: Rule, tokenizer: Any) -> Reward:
    """Return a rule's reward by the sources of this module."""
    bound = rule.with_reference(reader()).bind(tokenizer)
    reward = Reward(Steady(), bound, tokenizer=tokenizer)
    reward.continuations = Continues()
    return reward


def check_alone(rule: Rule, tokenizer: Any, episodes: Sequence[Episode]) -> None:
    """Assert that each episode earns the same bits alone, in the batch, and in its reverse."""
    reward = reward_of(rule, tokenizer)
    together = reward.evaluate(episodes)
    backwards = reward.evaluate(episodes[::-1])[::-1]
    for number, episode in enumerate(episodes):
        (alone,) = reward.evaluate([episode])
        for other in (together[number], backwards[number]):
            assert alone.score == other.score
            assert alone.score_parts == other.score_parts
            np.testing.assert_array_equal(alone.token_rewards, other.token_rewards)
