"""Advantages by the call that verl and SkyRL make of what their registries know."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from tokengym.base.errors import SettingsError
from tokengym.bridges.advantages import ESTIMATORS, check_peers, check_shapes
from tokengym.bridges.functions import Advantage, DoorAdvantage


class RegisteredAdvantage:
    """An advantage with the signature of verl's and SkyRL's registered estimators.

    Args:
        advantage: A word or function, see `Advantage`.
        door: "verl" or "skyrl".

    Raises:
        SettingsError: if the function reads what the trainer does not pass, or sums token credit
            away.
    """

    def __init__(self, advantage: Advantage, door: str) -> None:
        self.made_of = advantage, door
        self.advantage = DoorAdvantage(advantage, door)
        self.advantage.check_credit(None)
        self.name = self.advantage.name
        if self.name in ESTIMATORS and self.advantage.estimator is None:
            self.name = f"tokengym_{self.name}"  # apart from what the trainer has

    def __reduce__(self) -> tuple[Any, ...]:
        return registered, self.made_of  # a function of a file is found by its word again

    def __call__(
        self,
        token_level_rewards: Tensor,
        response_mask: Tensor,
        index: Sequence[Any] | NDArray[Any] | None = None,
        config: Any = None,
        *,
        values: Tensor | None = None,
        gamma: float | None = None,
        lambd: float | None = None,
        exclude_from_baseline: ArrayLike | None = None,
        **_: Any,
    ) -> tuple[Tensor, Tensor]:
        """Return advantages and returns, both (batch, time); 0 where the mask is.

        Args:
            token_level_rewards: (batch, time), reward units.
            response_mask: (batch, time), 1 on the response's own tokens.
            index: (batch,) verl's uid of each row's prompt.
            config: The trainer's settings of the algorithm, whose ``gamma`` and ``lam`` are read.
            values: (batch, time), reward units, as SkyRL passes them where there is a critic.
            gamma: Discount per token, as SkyRL passes it; None reads the settings', and 1 where
                there is none.
            lambd: SkyRL's lambda; None reads the settings' ``lam``.
            exclude_from_baseline: (batch,) True at rows that failed for no fault of the policy's,
                as SkyRL's derivatives with an "rloo_n" pass it: their advantages are 0, and they
                are nobody's baseline.
            _: Settings of other estimators: a division by the deviation.
        """
        mask, called = response_mask.bool(), self.advantage
        if index is None:
            if called.reads_groups:
                raise SettingsError(
                    f"{self.name} needs the uid of each row's prompt; set rollout.n above 1, or "
                    "take tokengym_reinforce"
                )
            index = range(len(token_level_rewards))
        prompts = list(index)
        check_shapes(token_level_rewards, mask, prompts)
        if exclude_from_baseline is not None:
            excluded = torch.as_tensor(np.asarray(exclude_from_baseline, dtype=bool))
            if excluded.shape != (len(mask),):
                raise ValueError(
                    f"exclude_from_baseline must be ({len(mask)},), one a row, got "
                    f"{tuple(excluded.shape)}"
                )
            mask = mask & ~excluded.to(mask.device).unsqueeze(1)
        if called.word == "loo":
            check_peers(mask, prompts, called.name)
        if values is None and "values" in called.reads:
            raise SettingsError(
                f"advantage {called.name!r} reads 'values', and this run has no critic; set "
                "trainer.critic.model.path"
            )
        return called(
            token_level_rewards,
            mask,
            prompts,
            gamma=_setting(config, "gamma", 1.0) if gamma is None else gamma,
            gae_lambda=_setting(config, "lam", None) if lambd is None else lambd,
            given={} if values is None else {"values": values},
        )


def _setting(config: Any, name: str, default: Any) -> Any:
    """Return one of the trainer's settings, a mapping or an object."""
    value = config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)
    return default if value is None else value


_REGISTERED: dict[tuple[Hashable, str], RegisteredAdvantage] = {}


def registered(advantage: Advantage, door: str) -> RegisteredAdvantage:
    """Return what a trainer's registry holds, the same object whenever asked: verl compares.

    What cannot be hashed, such as a dataclass with ``__call__``, is told apart by its identity.
    """
    key: Hashable = advantage
    try:
        hash(advantage)
    except TypeError:
        key = id(advantage)  # `made_of` keeps the object, so that no other gets its number
    if (key, door) not in _REGISTERED:
        _REGISTERED[key, door] = RegisteredAdvantage(advantage, door)
    return _REGISTERED[key, door]
