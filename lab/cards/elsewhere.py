"""A card's part on a bundle of one's choice, such as that of a real model."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym

from tokengym.base import from_pretrained
from tokengym.envs import Bundle, Task
from tokengym.evaluation.measure import resolve_env, task_reward
from tokengym.lab.cards.parts import NO_ANSWER, NO_TRUTH, REFUSALS, held_to_forks, keeps_contract
from tokengym.rewards import Credit, RewardChoice

PART = "bundle"
"""Name of the part."""


@dataclass(frozen=True, kw_only=True)
class Amounts:
    """Amounts that the part is measured from; a real model is too slow for those of a card."""

    responses: int
    """Responses whose tokens' worth is executed."""
    tokens: int
    """Longest response."""
    continuations: int
    """Continuations of each of their prefixes."""

    @property
    def most_tokens(self) -> int:
        """Most tokens that the continuations can have."""
        return self.responses * self.continuations * self.tokens * (self.tokens + 1) // 2

    @property
    def most_texts(self) -> int:
        """Most texts that are scored for the truth: the continuations and the responses."""
        return self.responses * (self.continuations * self.tokens + 1)


AMOUNTS: Mapping[str, Amounts] = {
    "quick": Amounts(responses=4, tokens=4, continuations=4),
    "standard": Amounts(responses=8, tokens=16, continuations=8),
    "full": Amounts(responses=32, tokens=16, continuations=16),
}
"""Amounts by the card's size."""


@dataclass(frozen=True, kw_only=True)
class TransferTask:
    """A bundle that a rule is measured on, and the language model that writes there.

    Raises:
        BundleError: if there is no such bundle.
    """

    bundle: str
    """Name of a bundle that ships with the package, or folder of one."""
    model: str | None = None
    """Folder, GGUF file, registered name or hub name; None takes the bundle's policy."""

    def __post_init__(self) -> None:
        Bundle.of(self.bundle)

    def check(self) -> None:
        """Refuse a language model that is not there; none of its weights are loaded.

        Raises:
            PretrainedError: naming the model, or the package that has it.
            BundleError: if the bundle has none.
        """
        from transformers import AutoConfig

        from_pretrained(AutoConfig, self.model or Bundle.of(self.bundle).policy)

    @property
    def env(self) -> str:
        """Id of the environment that the bundle was made for."""
        return resolve_env(bundle=self.bundle)

    @property
    def name(self) -> str:
        """The bundle and the model, without the folders that they are in."""
        bundle = Path(self.bundle).name
        return bundle if self.model is None else f"{bundle}, {Path(self.model).name}"

    def files(self) -> list[Path]:
        """Return the files and folders here that its figures depend on."""
        named = [] if self.model is None else [Path(self.model)]
        return [Bundle.of(self.bundle).path, *(path for path in named if path.exists())]

    def cost(self, amounts: Amounts) -> str:
        """Return in words what is done at most."""
        return (
            f"{amounts.responses} responses of up to {amounts.tokens} tokens, each prefix "
            f"continued {amounts.continuations} times: up to {amounts.most_tokens:,} tokens are "
            f"sampled and {amounts.most_texts:,} texts scored"
        )

    def measure(self, subject: str, amounts: Amounts, seed: int) -> dict[str, Any]:
        """Return whether a rule keeps the contract there, and its agreement with executed forks.

        Args:
            subject: The rule.
            amounts: How much is played.
            seed: Seed of prompts and sampling.
        """
        kwargs: dict[str, Any] = {"bundle": self.bundle, "max_new_tokens": amounts.tokens}
        if self.model is not None:
            kwargs["model"] = self.model
        task = Task.of(self.env)
        own_reward = (None if task is None else task.reward) or subject
        if (reason := self._refusal(subject, own_reward)) is not None:
            return {self.name: {"refused": reason}}
        try:
            scorer = self._scorer(subject, own_reward, kwargs)
            env = gym.make(self.env, reward=subject, **kwargs, **scorer)
        except REFUSALS as error:  # the bundle lacks a model, or its tokens are others
            return {self.name: {"refused": str(error)}}
        checked = keeps_contract(env, seed)
        if not checked["passed"]:
            return {self.name: checked}
        counts = amounts.responses, amounts.continuations
        figures = held_to_forks(self.env, [subject], *counts, seed, reward=own_reward, **kwargs)
        return {self.name: {**checked, **figures.pop("rules").get(subject, {}), **figures}}

    def _refusal(self, subject: str, own_reward: str) -> str | None:
        """Return why a rule has no truth there; None if it has one."""
        kind, by_encoder = (
            RewardChoice.of(subject).kind,
            RewardChoice.of(own_reward).kind == "encoder",
        )
        if kind in ("encoder", "reward_model") and (kind == "encoder") != by_encoder:
            article = "an encoder" if kind == "encoder" else "a reward model"
            return NO_TRUTH.format(article, self.name)
        made = RewardChoice.of(subject).made
        prompts = Bundle.of(self.bundle).prompts("test")
        if isinstance(made, Credit) and made.needs_answer and prompts[0].reference is None:
            return NO_ANSWER.format(self.name)
        return None

    def _scorer(self, subject: str, reward: str, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the scorer of a rule that any serves where the task's own is an encoder."""
        if (RewardChoice.of(subject).kind, RewardChoice.of(reward).kind) != ("any", "encoder"):
            return {}
        return {"scorer": task_reward(self.env, {**kwargs, "reward": reward})[0].scorer}
