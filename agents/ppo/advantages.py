"""Advantage estimators by name, and what an update of PPO learns from and shows.

A round goes from `RoundTensors` through the estimator that ``PPO(advantage=...)`` finds to
`Experience`, then through the update to `UpdateStats`, of which `TrainingAlarms` warn. An estimator
is one pure function of `tokengym.agents.losses` and a declaration of what it needs. A learner
without a critic is such a function: value head, values and value loss are then absent.
"""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from tokengym.agents import losses
from tokengym.agents.losses import rewards_to_go
from tokengym.agents.losses.advantages import check_groups
from tokengym.agents.policy.sequences import ActionMasks, Sequences
from tokengym.agents.ppo.settings import CRITIC_SETTINGS, GAE_LAMBDA, PPOSettings
from tokengym.base.registry import Registry
from tokengym.envs import Episode, SettingsError

logger = logging.getLogger(__name__)

MAX_CLIP_FRACTION = 0.4
"""Largest clip fraction of one of the first updates that gives no warning."""
FIRST_UPDATES = 5
MAX_KL_PER_TOKEN = 1.0
"""Largest KL to the reference per token, nats, that gives no warning."""
MAX_LEAP, MAX_LEAP_SHARE = 1.0, 0.25
"""Largest move of one update, nats per response and as a share of the KL to the reference after it,
that gives no warning."""


@dataclass(frozen=True, kw_only=True)
class RoundTensors:
    """Input of an estimator: one round; 0 past a response's end."""

    token_rewards: Tensor
    """(batch, time), reward units, minus the price of the KL where it is in the reward."""
    response_mask: Tensor
    """(batch, time) bool."""
    values: Tensor | None
    """(batch, time), reward units; None without a critic."""
    final_values: Tensor | None
    """(batch,) value past the last token of truncated episodes, 0 elsewhere; None: 0 everywhere."""
    scores: Tensor
    """(batch,), reward units, of whole responses, minus the price of the KL where it is in the
    reward; not summed from token rewards, so that it is the same number under every credit."""
    segment_ends: Tensor | None = None
    """(batch, time) int64, the last token of each token's segment, where the estimator reads it and
    the credit rule pays segments; None: each token is paid by itself."""
    episodes: Sequence[Episode] = ()
    """The round's episodes, for an estimator that reads turns or texts."""

    def gae(self, gae_lambda: float | Tensor, *, gamma: float) -> tuple[Tensor, Tensor]:
        """Return generalised advantage estimates and the values' returns, of a round with values.

        Args:
            gae_lambda: In [0, 1]; (batch,) gives each response its own.
            gamma: Discount per token, in [0, 1].

        Returns:
            Both (batch, time), reward units; see `losses.gae`.
        """
        assert self.values is not None
        return losses.gae(
            self.token_rewards,
            self.values,
            self.response_mask,
            gamma=gamma,
            gae_lambda=gae_lambda,
            final_values=self.final_values,
        )


@dataclass(frozen=True, kw_only=True)
class Experience:
    """Responses with PPO's figures of each token; 0 past a response's end."""

    sequences: Sequences
    """Prompts and responses, ``len()`` = batch."""
    action_masks: ActionMasks | None
    """Tokens that could be sampled at each step, (batch, time) masks; None if all could."""
    response_mask: Tensor
    """(batch, time) bool, True on the response's own tokens."""
    old_log_probs: Tensor
    """(batch, time), nats, stored when sampled."""
    old_values: Tensor | None
    """(batch, time) V_old, reward units, stored when sampled; None without a critic."""
    advantages: Tensor
    """(batch, time) A, as the policy loss takes it."""
    returns: Tensor | None
    """(batch, time) A + V_old before whitening, reward units; None without a critic."""
    ref_log_probs: Tensor | None = None
    """(batch, time), nats, under the frozen reference; needed for a sampled KL in the loss."""
    ref_states: Tensor | None = None
    """(batch, time, hidden) of the frozen reference, for the exact KL; None computes them again."""
    advantage_scale: float = 1.0
    """Standard deviation that whitening divided the advantages by, reward units."""

    def select(self, rows: Tensor) -> "Experience":
        """Return the given rows, with no more padding than they need."""
        sequences = self.sequences.select(rows)
        time = int(sequences.response_lengths.max())
        # All tensors are (batch, time, ...): the columns that the rows left need.
        tensors: dict[str, Any] = {
            field.name: value[rows, :time] if isinstance(value, Tensor) else value
            for field in fields(self)
            if field.name not in ("sequences", "action_masks")
            for value in [getattr(self, field.name)]
        }
        masks = None if self.action_masks is None else self.action_masks.select(rows)
        return Experience(sequences=sequences, action_masks=masks, **tensors)


@dataclass(frozen=True, kw_only=True)
class UpdateStats:
    """Figures of one update, means over its minibatches."""

    policy_loss: float
    value_loss: float
    approx_kl: float
    clip_fraction: float
    ratio_error: float
    """Largest |ratio - 1| before the first gradient step: rollout and update agree when it is 0."""
    log_prob_gap: float
    """Largest |log_probs - old_log_probs| then, nats."""
    num_minibatches: int


# --- estimators -----------------------------------------------------------------------------------

Estimate = Callable[[RoundTensors, PPOSettings], tuple[Tensor, Tensor]]
"""Returns advantages and returns, both (batch, time), reward units."""


@dataclass(frozen=True, kw_only=True)
class AdvantageEstimator:
    """Declaration of an estimator."""

    name: str
    """As ``advantage=`` takes it."""
    estimate: Estimate
    """The function."""
    needs_critic: bool
    """Whether it reads values; without them the policy has no value head."""
    reads_lambda: bool = True
    """Whether it reads ``gae_lambda``, of those that read values."""
    needs_groups: bool = False
    """Whether its baseline is taken from the other responses to the same prompt."""
    uses_token_rewards: bool = True
    """Whether it sees which token was credited, or only the sum."""
    reads_segments: bool = False
    """Whether it reads which tokens the credit rule pays in one sum."""
    whitens: bool = False
    """Whether its advantages are whitened over the batch."""
    loss_mean: str = "token"
    """The mean that its paper takes of the loss; see `PPOSettings.loss_mean`."""
    source: str = ""
    """Paper."""


def _adopted(name: str, made: Any) -> AdvantageEstimator:
    """Return the estimator that a file or an installed package defines."""
    if not isinstance(made, AdvantageEstimator):
        raise SettingsError(
            f"advantage {name} must be an AdvantageEstimator, got {made!r}; name one that the file "
            "declares: MINE = AdvantageEstimator(name='mine', estimate=..., needs_critic=False)"
        )
    return made


ADVANTAGES: Registry[AdvantageEstimator] = Registry(
    "advantage", group="estimators", from_files=True, adopt=_adopted
)
"""All estimators by name."""


def register_advantage(estimator: AdvantageEstimator) -> AdvantageEstimator:
    """Make an estimator known by its name."""
    return ADVANTAGES.register(estimator.name, estimator)


def find_advantage(name: str) -> AdvantageEstimator:
    """Return the estimator of that name, or that of "path/to/file.py:Name".

    Raises:
        SettingsError: if there is none, with the near matches, or the file's object is another.
    """
    return ADVANTAGES.find(name)


GROUP_SETTINGS = ("drop_equal_groups", "std_floor")
"""Settings of `PPOSettings` that have no effect without groups."""


def estimator_for(settings: PPOSettings) -> AdvantageEstimator:
    """Return the estimator that the settings name, which must go with the others.

    Raises:
        SettingsError: if it lacks the groups that it needs, or a setting has no effect with it;
            the message names the setting and the remedy.
    """
    estimator = find_advantage(settings.advantage)
    check_estimator(estimator, settings)
    return estimator


def check_estimator(estimator: AdvantageEstimator, settings: PPOSettings) -> None:
    """Refuse settings that do not go with an estimator; see `estimator_for`."""
    if not estimator.needs_critic:
        defaults = PPOSettings()
        for name in CRITIC_SETTINGS:
            if getattr(settings, name) != getattr(defaults, name):
                raise SettingsError(
                    f"{name} has no effect with advantage={estimator.name!r}, which has no critic; "
                    "leave it out, or take advantage='gae'"
                )
    elif not estimator.reads_lambda and settings.gae_lambda is not None:
        raise SettingsError(
            f"gae_lambda has no effect with advantage={estimator.name!r}, which has a lambda of "
            "its own; leave it out, or take advantage='gae'"
        )
    if estimator.needs_groups and settings.group_size is None:
        raise SettingsError(
            f"advantage={estimator.name!r} needs group_size, the responses to each prompt; pass "
            "group_size=8, or take advantage='reinforce++', which has no group"
        )
    for name in GROUP_SETTINGS if settings.group_size is None else ():
        if getattr(settings, name) != getattr(PPOSettings, name):  # the field's default
            raise SettingsError(f"{name} has no effect without group_size; pass both, or neither")
    if settings.std_floor and estimator.name != "grpo":
        raise SettingsError(
            f"std_floor has no effect with advantage={estimator.name!r}; leave it out"
        )


def check_settings(settings: PPOSettings, batch_size: int) -> None:
    """Refuse an unknown estimator, or settings that do not go with it.

    Raises:
        ValueError: naming the setting and the remedy.
    """
    estimator_for(settings)
    if settings.group_size is not None:
        check_groups(batch_size, settings.group_size)


def _gae(played: RoundTensors, settings: PPOSettings) -> tuple[Tensor, Tensor]:
    gae_lambda = GAE_LAMBDA if settings.gae_lambda is None else settings.gae_lambda
    advantages, returns = played.gae(gae_lambda, gamma=settings.gamma)
    if settings.gae_lambda_vf is not None:
        _, returns = played.gae(settings.gae_lambda_vf, gamma=settings.gamma)
    return advantages, returns


def _reinforce(played: RoundTensors, settings: PPOSettings) -> tuple[Tensor, Tensor]:
    to_go = rewards_to_go(played.token_rewards, played.response_mask, gamma=settings.gamma)
    return to_go, to_go


def _vineppo(played: RoundTensors, settings: PPOSettings) -> tuple[Tensor, Tensor]:
    """Return A_t = r_t, or a segment's sum: rewards that are advantages already, as ``mc``'s.

    The first segment's contain the value of the prompt; its mean over the batch comes off.
    """
    mask, ends = played.response_mask, played.segment_ends
    if ends is None:  # each token is a segment
        ends = torch.arange(mask.shape[1], device=mask.device).expand(mask.shape)
    advantages = losses.rewards_within(played.token_rewards, mask, ends, gamma=settings.gamma)
    in_first = mask & (ends == ends[:, :1])
    # Nothing was earned in an episode that a partner lost: as 0 it would bend the mean.
    first = advantages[mask.any(1), 0]
    value = torch.where(losses.no_spread(first), advantages[:, :1], first.mean())
    advantages = advantages - in_first * value
    return advantages, advantages


def _by_score(
    function: Callable[[Tensor, int, PPOSettings], Tensor],
) -> Estimate:
    """Return an estimator whose advantage is one number per response, the same at every token."""

    def estimate(played: RoundTensors, settings: PPOSettings) -> tuple[Tensor, Tensor]:
        assert settings.group_size is not None
        advantages = function(played.scores, settings.group_size, settings)[:, None]
        spread = advantages.expand_as(played.token_rewards).masked_fill(~played.response_mask, 0.0)
        return spread, spread

    return estimate


def _loo(played: RoundTensors, settings: PPOSettings) -> tuple[Tensor, Tensor]:
    assert settings.group_size is not None
    ids = None
    if any(episode.written is not None for episode in played.episodes):
        ids = torch.zeros_like(played.response_mask, dtype=torch.int64)
        for row, episode in enumerate(played.episodes):
            ids[row, : len(episode.response_ids)] = torch.tensor(episode.response_ids)
    advantages = losses.leave_one_out(
        played.token_rewards,
        played.response_mask,
        settings.group_size,
        gamma=settings.gamma,
        response_ids=ids,
    )
    return advantages, advantages


for _estimator in (
    AdvantageEstimator(
        name="gae",
        estimate=_gae,
        needs_critic=True,
        whitens=True,
        source="Schulman et al. 2016, arXiv:1506.02438",
    ),
    AdvantageEstimator(
        name="reinforce",
        estimate=_reinforce,
        needs_critic=False,
        source="Williams 1992: the reward to go, without a baseline",
    ),
    AdvantageEstimator(
        name="reinforce++",
        estimate=_reinforce,
        needs_critic=False,
        whitens=True,
        source="Hu 2025, arXiv:2501.03262: the reward to go, whitened over the batch",
    ),
    AdvantageEstimator(
        name="vineppo",
        estimate=_vineppo,
        needs_critic=False,
        reads_segments=True,
        whitens=True,
        source="Kazemnejad et al. 2024, arXiv:2410.01679, under the rule `mc`",
    ),
    AdvantageEstimator(
        name="rloo",
        estimate=_by_score(lambda scores, n, settings: losses.rloo(scores, n)),
        needs_critic=False,
        needs_groups=True,
        uses_token_rewards=False,
        source="Ahmadian et al. 2024, arXiv:2402.14740",
    ),
    AdvantageEstimator(
        name="grpo",
        estimate=_by_score(
            lambda scores, n, settings: losses.grpo(scores, n, std_floor=settings.std_floor)
        ),
        needs_critic=False,
        needs_groups=True,
        uses_token_rewards=False,
        loss_mean="sequence",
        source="Shao et al. 2024, arXiv:2402.03300",
    ),
    AdvantageEstimator(
        name="dr-grpo",
        estimate=_by_score(lambda scores, n, settings: losses.dr_grpo(scores, n)),
        needs_critic=False,
        needs_groups=True,
        uses_token_rewards=False,
        loss_mean="constant",
        source="Liu et al. 2025, arXiv:2503.20783",
    ),
    AdvantageEstimator(
        name="loo",
        estimate=_loo,
        needs_critic=False,
        needs_groups=True,
        source="here: the reward to go minus that of the other rows still being written, unbiased",
    ),
):
    register_advantage(_estimator)


# --- warnings -------------------------------------------------------------------------------------


SOLVED = (
    "update {}: all responses have the score {:g}, the highest so far; where no higher one exists "
    "the prompts are solved: stop here, or take harder ones"
)
TIES = (
    "update {}: the scores {} are equal, so that nothing is learned from them; take prompts that "
    "are sometimes solved, or a scorer with partial credit"
)
TIES_OF_CRITIC = (
    "update {}: the scores of all responses are equal, so that the updates follow the errors of "
    "the values and the KL's price, and nothing that was scored; take prompts that are sometimes "
    "solved, or a scorer with partial credit"
)
LEAP = (
    "update {} moved the policy from {:.2f} to {:.2f} nats per response of its reference at once; "
    "lower learning_rate from {:g}, or set n_warmup_updates or target_kl"
)


class TrainingAlarms:
    """Warnings about one agent's training; each kind is said once."""

    def __init__(self) -> None:
        self._said: set[str] = set()
        self._least = math.inf
        """Least score of the rounds before."""
        self._most = -math.inf
        """Greatest score of the rounds before."""
        self._kl_before = math.nan, math.nan
        """KL of the round before, and its standard error; not known of an agent that was loaded."""

    def check(
        self,
        *,
        update: int,
        clip_fraction: float,
        kl: float,
        kl_error: float,
        kl_per_token: float,
        scores: Sequence[float],
        group_size: int | None,
        learning_rate: float,
        kl_coef: float,
        has_critic: bool,
    ) -> None:
        """Warn of what an update's figures show; updates are counted from 1.

        Args:
            update: Number of the update.
            clip_fraction: Share of tokens whose ratio left the clip range.
            kl: Of the round's responses to the reference, nats, before the update.
            kl_error: Standard error of its mean; nan of a single response.
            kl_per_token: To the reference, nats.
            scores: Of the round's responses, in order; those of one prompt are neighbours.
            group_size: Responses to each prompt, where groups are compared.
            learning_rate: The update's.
            kl_coef: Likewise.
            has_critic: Whether values are subtracted, which equal scores do not make equal.
        """
        if update <= FIRST_UPDATES and clip_fraction > MAX_CLIP_FRACTION:
            self._warn_of_clipping(update, clip_fraction, learning_rate)
        if kl_per_token > MAX_KL_PER_TOKEN:
            self._warn_of_collapse(update, kl_per_token, learning_rate, kl_coef)
        self._check_leap(update, kl, kl_error, learning_rate)
        if len(scores) > 1:
            self._check_ties(update, scores, group_size, has_critic=has_critic)

    def _check_ties(
        self, update: int, scores: Sequence[float], group_size: int | None, *, has_critic: bool
    ) -> None:
        """Warn of scores that do not differ: nothing is learned, or nothing is left to learn."""
        least, most = min(scores), max(scores)
        rose = most >= self._most and most > self._least  # no response was ever better, some worse
        self._least, self._most = min(least, self._least), max(most, self._most)
        if least == most and rose:
            self.tell(logging.INFO, "solved", SOLVED.format(update, most))
            return
        size = group_size or len(scores)
        groups = [scores[i : i + size] for i in range(0, len(scores), size)]
        if all(min(group) == max(group) for group in groups):
            whose = "of all responses" if group_size is None else "within every group"
            of_critic = has_critic and group_size is None
            self.warn("ties", (TIES_OF_CRITIC if of_critic else TIES).format(update, whose))

    def _warn_of_clipping(self, update: int, clip_fraction: float, learning_rate: float) -> None:
        self.warn(
            "clip",
            f"update {update}: {clip_fraction:.0%} of the ratios were clipped, the steps are "
            f"too large; lower learning_rate from {learning_rate:g}",
        )

    def _warn_of_collapse(
        self, update: int, kl_per_token: float, learning_rate: float, kl_coef: float
    ) -> None:
        self.warn(
            "kl",
            f"update {update}: the policy is {kl_per_token:.1f} nats per token from its "
            f"reference, and its texts may have collapsed; lower learning_rate from "
            f"{learning_rate:g} or {'raise kl_coef' if kl_coef else 'set kl_coef above 0'}",
        )

    def _check_leap(self, update: int, kl: float, kl_error: float, learning_rate: float) -> None:
        """Warn of an update that moved the policy far at once.

        moved > max(MAX_LEAP, MAX_LEAP_SHARE * kl) + 2 * standard error;  moved = kl - kl before

        Of the policies between the two nothing is known, so that no score at equal KL can be given.
        """
        before, error_before = self._kl_before
        self._kl_before = kl, kl_error
        noise = 2.0 * math.hypot(kl_error, error_before)
        if kl - before > max(MAX_LEAP, MAX_LEAP_SHARE * kl) + noise:  # never, if one is nan
            self.warn("leap", LEAP.format(update - 1, before, kl, learning_rate))

    def warn(self, kind: str, text: str) -> None:
        """Warn of something unless that kind was warned of before."""
        self.tell(logging.WARNING, kind, text)

    def tell(self, level: int, kind: str, text: str) -> None:
        """Log something at a level unless that kind was told before."""
        if kind not in self._said:
            self._said.add(kind)
            logger.log(level, text)
