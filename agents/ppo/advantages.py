"""Advantage estimators by name.

An estimator is a function of named inputs that returns advantages, (batch, time):
``PPO(advantage=...)`` takes a name, "file.py:name", or the function itself. What it reads says what
the learner has: one that reads no ``values`` has no critic, and then value head, values and value
loss are absent. A second result, ``{"returns": ...}``, is what the values learn.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tokengym.agents import losses
from tokengym.agents.losses import rewards_to_go
from tokengym.agents.losses.advantages import check_groups
from tokengym.agents.ppo.functions import Loss, RoundFunction, Weights
from tokengym.agents.ppo.inputs import RoundInputs
from tokengym.agents.ppo.policy_losses import LOSSES as LOSSES  # with those that ship
from tokengym.agents.ppo.settings import NEEDS, VARIANTS, PPOSettings
from tokengym.base.registry import Registry
from tokengym.envs import SettingsError
from tokengym.rewards import token_credit
from tokengym.rewards.credits.calling import check_finite, shaped


class Estimator(RoundFunction):
    """An estimator of advantages, bound to its options.

    Args:
        function: The function, or a class that is called like one.
        options: Its options.

    Raises:
        SettingsError: if it has no such option, or one of its parameters has no name that a
            learner supplies.
    """

    kind = "advantage"

    @property
    def needs_critic(self) -> bool:
        """Whether it reads values; without them the policy has no value head."""
        return not {"values", "final_values"}.isdisjoint(self.reads)

    @property
    def reads_lambda(self) -> bool:
        """Whether it reads ``gae_lambda``."""
        return "gae_lambda" in self.reads

    @property
    def needs_groups(self) -> bool:
        """Whether its baseline is taken from the other responses to the same prompt."""
        return not {"group_ids", "group_size"}.isdisjoint(self.reads)

    @property
    def uses_token_rewards(self) -> bool:
        """Whether it sees which token was credited, or only the sum."""
        return "token_rewards" in self.reads or not {"paid", "scores"} & {*self.reads}

    @property
    def whitens(self) -> bool:
        """Whether its advantages are whitened over the batch."""
        return bool(self._fact("whitens"))

    @property
    def loss_mean(self) -> str:
        """The mean that its paper takes of the loss; see `PPOSettings.loss_mean`."""
        return self._fact("loss_mean") or "token"

    def estimate(self, inputs: RoundInputs) -> tuple[Tensor, Tensor]:
        """Return advantages and what values should learn, both (batch, time), reward units.

        Without ``returns`` of its own these are the advantages.
        """
        advantages, returns, check = self.queued(inputs)
        check()
        return advantages, returns

    def queued(self, inputs: RoundInputs) -> tuple[Tensor, Tensor, Callable[[], None]]:
        """Return what `estimate` does, without waiting for the device to compute it.

        The third, when called, refuses what is not finite.
        """
        advantages, figures = self.call(inputs, waits=False)
        returns, who = advantages, f"returns of {self.who}"
        if "returns" in figures:
            returns = shaped(figures["returns"], inputs["response_mask"], who)

        def check() -> None:
            check_finite(advantages, self.who)
            check_finite(returns, who)

        return inputs.spread(advantages), inputs.spread(returns), check


ADVANTAGES = Estimator.functions = Registry(
    "advantage", group="estimators", from_files=True, adopt=Estimator.adopted
)
"""The functions of all estimators by name."""
find_advantage = Estimator.find


def register_advantage(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make an estimator known by its name: a decorator of its function."""
    return ADVANTAGES.register(Estimator(function).name, function)


def check_estimator(
    estimator: Estimator, settings: PPOSettings, reads: Collection[str] = ()
) -> None:
    """Refuse settings that do not go with an estimator, or that neither it nor ``reads`` names."""
    name, defaults = estimator.name, PPOSettings()
    if "advantages" in estimator.reads:
        raise SettingsError(f"{estimator.who} reads 'advantages', which it is to return")
    if not estimator.needs_critic and {"values", "final_values"} & {*reads}:
        raise SettingsError(
            f"weights= or loss= read values, and advantage={name!r} has no critic; take "
            "advantage='gae'"
        )
    if estimator.needs_groups and settings.group_size is None:
        raise SettingsError(
            f"advantage={name!r} needs group_size, the responses to each prompt; pass "
            "group_size=8, or take advantage='reinforce++', which has no group"
        )
    has = {
        "critic": estimator.needs_critic,
        "lambda": estimator.reads_lambda or not estimator.needs_critic,
        "group_size": settings.group_size is not None,
        "gamma": "gamma" in (*estimator.reads, *reads),
        "std_floor": "std_floor" in (*estimator.reads, *reads),
        "clip_range": not reads or "clip_range" in reads,
        "clip_range_high": not reads or "clip_range_high" in reads,
        "kl_target": settings.kl_target is not None,
    }
    for setting, needs in VARIANTS.items():
        if getattr(settings, setting) != getattr(defaults, setting):
            for need in needs:
                if not has[need]:
                    raise SettingsError(f"{setting} has no effect {NEEDS[need].format(name)}")


def functions_of(settings: PPOSettings) -> dict[str, RoundFunction]:
    """Return the functions that settings name, by place."""
    places: dict[str, type[RoundFunction]] = {"advantage": Estimator, "weights": Weights}
    places["loss"] = Loss
    words = {place: getattr(settings, place) for place in places}
    return {place: places[place].find(one) for place, one in words.items() if one is not None}


def check_parts(loss: RoundFunction, settings: PPOSettings, processes: int = 1) -> None:
    """Refuse to part a minibatch for a loss that compares its rows."""
    size = settings.micro_batch_size
    if loss.by_row or (size is None and processes == 1):
        return
    parts = f"processes={processes}" if size is None else f"micro_batch_size={size}"
    raise SettingsError(
        f"{loss.who} compares the rows of a minibatch (by_row=False), which {parts} parts; leave "
        f"{parts.partition('=')[0]} out"
    )


def check_settings(settings: PPOSettings, batch_size: int) -> None:
    """Refuse unknown functions, or settings that do not go with them."""
    functions = functions_of(settings)
    reads = [name for one in functions.values() for name in one.reads]
    estimator: Any = functions["advantage"]
    check_estimator(estimator, settings, reads)
    check_parts(functions["loss"], settings)
    if settings.group_size is not None:
        check_groups(batch_size, settings.group_size)


@register_advantage
@token_credit(whitens=True)
def gae(
    token_rewards: Tensor,
    values: Tensor,
    final_values: Tensor,
    response_mask: Tensor,
    gamma: float,
    gae_lambda: float,
    gae_lambda_vf: float | None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Generalised advantage estimates. Schulman et al. 2016, arXiv:1506.02438."""
    known: Any = {"gamma": gamma, "final_values": final_values}
    estimates = partial(losses.gae, token_rewards, values, response_mask, **known)
    advantages, returns = estimates(gae_lambda=gae_lambda)
    if gae_lambda_vf is not None:
        _, returns = estimates(gae_lambda=gae_lambda_vf)
    return advantages, {"returns": returns}


@register_advantage
@token_credit
def reinforce(token_rewards: Tensor, response_mask: Tensor, gamma: float) -> Tensor:
    """The reward to go, without a baseline. Williams 1992."""
    return rewards_to_go(token_rewards, response_mask, gamma=gamma)


@register_advantage
@token_credit(name="reinforce++", whitens=True)
def reinforce_whitened(token_rewards: Tensor, response_mask: Tensor, gamma: float) -> Tensor:
    """The reward to go, whitened over the batch. Hu 2025, arXiv:2501.03262."""
    return rewards_to_go(token_rewards, response_mask, gamma=gamma)


@register_advantage
@token_credit(whitens=True, by_row=False)
def vineppo(
    token_rewards: Tensor, response_mask: Tensor, segment_ends: Tensor, gamma: float
) -> Tensor:
    """A_t = r_t, or a segment's sum: rewards that are advantages already, as ``mc``'s.

    The first segment's contain the value of the prompt; its mean over the batch comes off.
    Kazemnejad et al. 2024, arXiv:2410.01679, under the rule `mc`.
    """
    advantages = losses.rewards_within(token_rewards, response_mask, segment_ends, gamma=gamma)
    first = advantages[:, 0]
    value = torch.where(losses.no_spread(first), advantages[:, :1], first.mean())
    return advantages - (response_mask & (segment_ends == segment_ends[:, :1])) * value


@register_advantage
@token_credit(by_row=False)
def rloo(paid: Tensor, response_mask: Tensor, group_size: int) -> Tensor:
    """A = R - the mean of the group's others. Ahmadian et al. 2024, arXiv:2402.14740."""
    return losses.rloo(paid, group_size)[:, None] * response_mask


@register_advantage
@token_credit(loss_mean="sequence", by_row=False)
def grpo(paid: Tensor, response_mask: Tensor, group_size: int, std_floor: float) -> Tensor:
    """A = (R - the group's mean) / its deviation. Shao et al. 2024, arXiv:2402.03300."""
    return losses.grpo(paid, group_size, std_floor=std_floor)[:, None] * response_mask


@register_advantage
@token_credit(loss_mean="constant", by_row=False)
def dr_grpo(paid: Tensor, response_mask: Tensor, group_size: int) -> Tensor:
    """A = R - the group's mean. Liu et al. 2025, arXiv:2503.20783."""
    return losses.dr_grpo(paid, group_size)[:, None] * response_mask


@register_advantage
@token_credit(by_row=False)
def loo(
    token_rewards: Tensor, response_mask: Tensor, state_ids: Tensor, group_size: int, gamma: float
) -> Tensor:
    """The reward to go minus that of the other rows still being written: unbiased. Ours."""
    return losses.leave_one_out(
        token_rewards, response_mask, group_size, gamma=gamma, state_ids=state_ids
    )
