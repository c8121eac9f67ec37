"""A function of named inputs as the advantage of another trainer's rows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tokengym.agents import losses
from tokengym.agents.losses.policy import at_least_float32
from tokengym.agents.ppo.advantages import Estimator, find_advantage
from tokengym.agents.ppo.functions import RoundFunction, Weights
from tokengym.agents.ppo.inputs import RoundInputs
from tokengym.agents.ppo.settings import PPOSettings
from tokengym.base.errors import SettingsError
from tokengym.base.registry import did_you_mean
from tokengym.bridges.advantages import (
    ESTIMATORS,
    check_finite,
    check_peers,
    check_shapes,
    token_advantages,
)
from tokengym.bridges.doors import DOORS, who_has
from tokengym.rewards.credits.names import ACCOUNTS, NAMES
from tokengym.rewards.scores import remedy_for

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tokengym.credit import TokenCredit
    from tokengym.envs import Episode
    from tokengym.rewards import Scorer

Advantage = str | Callable[..., Any]
"""As ``PPO(advantage=...)`` takes it: "loo", "ideas.py:mine:alpha=0.5", or a function of named
inputs, marked or bare."""


class DoorAdvantage:
    """An advantage as a door calls it: with the names that the door's rows have.

    "loo" and "reinforce" are `token_advantages`, whose groups may differ in size. Any other word or
    function is called as PPO calls it: columns are a row's own tokens from 0, rows that nobody
    scored are not shown, and what `token_credit` declares to whiten is whitened over the batch.

    Args:
        advantage: See `Advantage`.
        door: Name of the door in `DOORS`.
        scorer: What scores the rows, without normalisation, where the door knows it.
        columns: Columns of the data, where the door has them.
        lacks: Names of the door that this run does not have, with what would give them.
        weights: Factors on the advantages, as ``PPO(weights=...)`` takes them; None leaves them.

    Raises:
        SettingsError: if the function reads what the door cannot supply, with who can.
    """

    def __init__(
        self,
        advantage: Advantage,
        door: str,
        *,
        scorer: Scorer | None = None,
        columns: Collection[str] = (),
        lacks: Mapping[str, str] | None = None,
        weights: Advantage | None = None,
    ) -> None:
        self.door = DOORS[door]
        self.word = advantage if isinstance(advantage, str) and advantage in ESTIMATORS else None
        self.estimator = None if self.word is not None else find_advantage(advantage)
        self.weights: Weights | None = None if weights is None else Weights.find(weights)
        self.scorer, self.columns = scorer, frozenset(columns)
        for function in filter(None, (self.estimator, self.weights)):
            if function.signature.models:
                raise SettingsError(
                    f"{function.who} reads a language model, which no door loads; "
                    "train with a learner of tokengym.agents"
                )
            for name in function.signature.reads:
                self._check(function, name, lacks or {})

    @property
    def name(self) -> str:
        """Its word, or the function's name with hyphens."""
        return self.estimator.name if self.estimator is not None else str(self.word)

    @property
    def reads(self) -> frozenset[str]:
        """Names that it reads."""
        factors = set[str]()
        if self.weights is not None:  # whose advantages are those of the estimator
            factors = {*self.weights.signature.reads} - {"advantages"}
        if self.estimator is None:
            groups = {"group_ids"} if self.word == "loo" else set[str]()
            return frozenset({"token_rewards", "response_mask", "gamma", *groups, *factors})
        return frozenset({*self.estimator.signature.reads, *factors})

    @property
    def reads_groups(self) -> bool:
        """Whether it has to know which rows answer one prompt."""
        return not self.reads.isdisjoint({"group_ids", "group_size"})

    @property
    def uses_token_rewards(self) -> bool:
        """Whether it sees which token was paid, or only the sum."""
        return self.estimator is None or self.estimator.uses_token_rewards

    @property
    def _is_shipped(self) -> bool:
        """Whether its function is one of PPO's own."""
        function = None if self.estimator is None else self.estimator.function
        return getattr(function, "__module__", "") == Estimator.__module__

    def _check(self, function: RoundFunction, name: str, lacks: Mapping[str, str]) -> None:
        """Refuse a name that the door cannot supply."""
        if function is self.weights and name == "advantages":
            return
        who = f"{function.who} reads {name!r}"
        if name in lacks:
            raise SettingsError(f"{who}, which is not there; {lacks[name]}")
        scores_here = self.scorer is not None and name in ACCOUNTS and self.door.has_scorer
        if scores_here and self.scorer is not None:
            kinds = {"prefix", *(self.scorer.attribution_kinds or ())}
            if ACCOUNTS[name] not in kinds:
                raise SettingsError(
                    f"{who}, which scorer {self.scorer.name!r} does not give; "
                    f"{remedy_for(ACCOUNTS[name])}"
                )
            return
        if name in self.door.names:
            return
        if name in NAMES:
            raise SettingsError(f"{who}, which {self.door.title} does not supply; {who_has(name)}")
        if name not in self.columns:
            if self.door.has_columns:
                near = did_you_mean(name, [*self.door.names, *self.columns])
                raise SettingsError(
                    f"{who}, which is no name of {self.door.title} and no column of the data; "
                    f"{near}columns: {', '.join(sorted(self.columns)) or 'none'}"
                )
            near = did_you_mean(name, self.door.names)
            raise SettingsError(
                f"{who}, which is no name that {self.door.title} supplies, and it has no columns "
                f"of the data; {near}{who_has(name)}"
            )

    def check_credit(self, credit: TokenCredit | None) -> None:
        """Refuse a rule of token credit that has no effect under it.

        Args:
            credit: What pays; None: any rule may.
        """
        if self.uses_token_rewards:
            return
        if credit is None and self._is_shipped:
            raise SettingsError(
                f"advantage {self.name!r} sums token rewards to a score, so that credit has no "
                "effect; take 'loo', which has the same baseline"
            )
        if credit is not None and credit.reward.credit_name != "sparse":
            raise SettingsError(
                f"credit {credit.reward.credit_name!r} has no effect with advantage {self.name!r}, "
                "which reads scores and no token_rewards; take credit 'sparse', or advantage 'loo'"
            )

    def __call__(
        self,
        token_rewards: Tensor,
        response_mask: Tensor,
        prompts: Sequence[Hashable],
        *,
        gamma: float = 1.0,
        gae_lambda: float | None = None,
        given: Mapping[str, Any] | None = None,
        episodes: Sequence[Episode | None] = (),
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return advantages, and what values should learn, both (batch, time), reward units.

        Args:
            token_rewards: (batch, time), reward units.
            response_mask: (batch, time) bool, True on the response's own tokens, padded on either
                side. A row that is False throughout has advantage 0 and is nobody's baseline.
            prompts: (batch,) what tells the prompts apart; rows may come in any order.
            gamma: Discount per own token, in [0, 1].
            gae_lambda: Lambda of the advantages, where the trainer has one.
            given: Further names: tensors in the mask's layout, (batch, time, ...) or (batch,), maps
                of those, or functions that return one, called where the name is read.
            episodes: (batch,) the rows' texts, where they are known.
            tokenizer: The policy's.
        """
        first: Tensor | None = None
        if self.estimator is None:
            first = token_advantages(
                token_rewards, response_mask, prompts, str(self.word), gamma=gamma
            )
            if self.weights is None:
                return first, first
        check_shapes(token_rewards, response_mask, prompts)
        mask = response_mask.bool()
        check_finite(token_rewards, mask)
        token_rewards = at_least_float32(token_rewards).masked_fill(~mask, 0.0)
        if self.reads_groups:
            check_peers(mask, prompts, self.name)
        numbers = {prompt: number for number, prompt in enumerate(dict.fromkeys(prompts))}
        groups = torch.tensor([numbers[prompt] for prompt in prompts], device=mask.device)
        order = torch.argsort(groups, stable=True)
        mask, groups = mask[order], groups[order]
        size = None
        if "group_size" in self.reads and int(mask.any(1).sum()) < 2:
            mask = torch.zeros_like(mask)  # what is left of a group has no baseline
        elif "group_size" in self.reads:
            size = self._group_size(groups)
            whole = mask.any(1).view(-1, size).all(1).repeat_interleave(size)
            mask = mask & whole[:, None]  # a group that lost a row is left out
        if not mask.any():
            return torch.zeros_like(token_rewards), torch.zeros_like(token_rewards)
        shown = mask.any(1)
        values: dict[str, Any] = {
            "token_rewards": token_rewards[order],
            "scores": token_rewards.sum(1)[order],
            "group_ids": groups,
            **{
                name: _ordered(value, order, shown)
                for name, value in (given or {}).items()
                if name in self.reads
            },
        }
        texts: list[Any] = list(episodes)  # None at rows that are not shown
        inputs = RoundInputs(
            mask,
            values,
            settings=PPOSettings(gamma=gamma, gae_lambda=gae_lambda, group_size=size),
            episodes=[texts[row] for row in order.tolist()] if texts else (),
            scorer=self.scorer,
            tokenizer=tokenizer,
        )
        if first is not None:
            advantages = returns = first[order]
        else:
            assert self.estimator is not None
            advantages, returns = self.estimator.estimate(inputs)
            if self.estimator.whitens:
                advantages = losses.masked_whiten(advantages, mask)
        if self.weights is not None:
            inputs.give("advantages", advantages)
            advantages = advantages * self.weights.weigh(inputs)
        back = torch.argsort(order)
        return advantages[back], returns[back]

    def _group_size(self, groups: Tensor) -> int:
        """Return the rows of each prompt; ``groups`` is (batch,), in order."""
        sizes = groups.unique(return_counts=True)[1].tolist()
        if len(set(sizes)) > 1 or sizes[0] < 2:
            raise SettingsError(
                f"advantage {self.name!r} reads group_size, and prompts have {min(sizes)} to "
                f"{max(sizes)} responses here; read group_ids, or sample as many to each, two or "
                "more"
            )
        return int(sizes[0])


def _ordered(value: Any, order: Tensor, shown: Tensor) -> Any:
    """Return a given value in the order of the groups; of a map, the shown rows' parts."""
    if isinstance(value, Mapping):
        return {name: part[order][shown] for name, part in value.items()}
    if isinstance(value, Tensor):
        return value[order]
    return (lambda: _ordered(value(), order, shown)) if callable(value) else value
