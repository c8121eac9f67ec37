"""PPO for token sequences, on Stable-Baselines3's ``OnPolicyAlgorithm``.

Schulman et al. 2017 (arXiv:1707.06347) as used for language models (Ziegler et al. 2019,
arXiv:1909.08593; Huang et al. 2024, arXiv:2403.17031). One update plays one episode per environment
row (collect), turns scores into advantages (assign), takes clipped gradient steps (update), and
writes a row of figures (log). Differences from SB3's PPO: a rollout is whole episodes, kept as
sequences; rewards are the ``token_rewards`` that the finished episode carries, minus the KL to the
reference; advantages are whitened over the whole batch, not per minibatch; the value loss is half
the squared error, and its network is one of its own; dropout stays off. The same update in one file
to read, held equal by a test, is examples/ppo_in_one_file.py.
"""

import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.utils import FloatSchedule, explained_variance, update_learning_rate
from torch import Tensor

from tokengym.agents import losses
from tokengym.agents.algorithm import EpisodicAlgorithm
from tokengym.agents.errors import ModelError, NonFiniteError
from tokengym.agents.losses.advantages import check_groups
from tokengym.agents.policy.models import TokenStat
from tokengym.agents.policy.sequences import ActionMasks, Sequences
from tokengym.agents.ppo.advantages import check_estimator, estimator_for, find_advantage
from tokengym.agents.ppo.alarms import TrainingAlarms, UpdateStats
from tokengym.agents.ppo.settings import GAE_LAMBDA, Objective, PPOSettings
from tokengym.agents.rollouts.experience import Experience, RoundTensors
from tokengym.agents.rollouts.playing import RolloutBatch
from tokengym.agents.rollouts.rounds import Environments, environment_attribute
from tokengym.base.errors import SettingsError

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from tokengym.agents.keywords import PPOKeywords
    from tokengym.agents.policy.policy import CausalLMPolicy
    from tokengym.agents.policy.settings import Schedule

MAX_RATIO_ERROR = 0.1
"""Largest |ratio - 1| before the first gradient step that rounding in float32 explains."""
MAX_ROWS_WITHOUT_GRADIENT = 64
"""Most texts in a forward pass without gradients; fewer with a smaller ``micro_batch_size``."""
Term: TypeAlias = tuple[Tensor, dict[str, float]]
"""A term of the loss, a scalar, and its figures as `UpdateStats` names them."""
ALL_LOST = (
    "a partner's failure lost every episode of the round, so that there is nothing to learn from; "
    "pass on_partner_error='raise' to see why"
)
UNSEEN_CREDIT = (
    "advantage={!r} reads the score of a whole response and not the token rewards: its updates are "
    "those of the sparse reward; 'loo' and 'reinforce++' see the credit"
)
DECLARED_LAMBDA = (
    "credit {!r} declares gae_lambda={:g}, which was measured on responses of a fixed length; "
    "{:.0%} of these ended by themselves, where abc-signed lost by it on dialogues, summaries and "
    "questions: compare with gae_lambda={:g}, and pass the one that you mean"
)
SB3_NAMES = {"policy_loss": "policy_gradient_loss"}
"""Names of an update's figures in the log of Stable-Baselines3's PPO, where they are others."""
REMEDY = "lower learning_rate or kl_coef, or clip the scores"
"""Remedy for a loss or gradient that is not finite."""


class PPO(EpisodicAlgorithm):
    """Proximal policy optimisation of a language model from token rewards.

    With an ``advantage`` that needs no critic ("reinforce") there is no value head, no value loss
    and no memory for either.

    Args:
        policy: "CausalLMPolicy" or a subclass of it.
        env: A Gymnasium ``VectorEnv`` or ``Env``, or an SB3 ``VecEnv``. One update plays one
            episode per row.
        learning_rate: See `PPOSettings`, whose other fields are keywords too.
        tensorboard_log, policy_kwargs, verbose, seed, device: See `EpisodicAlgorithm`.

    Raises: as `EpisodicAlgorithm`.
    """

    settings_class = PPOSettings
    shards_weights = True
    settings: PPOSettings
    _declared_lambda: float | None = None
    """Lambda that the credit rule declares and training takes; None if it was given."""

    if TYPE_CHECKING:  # the settings by name, for a user's type checker

        def __init__(
            self,
            policy: str | type[CausalLMPolicy],
            env: Environments | str,
            learning_rate: float | Schedule | None = None,
            *,
            stats_window_size: int | None = None,
            tensorboard_log: str | None = None,
            policy_kwargs: dict[str, Any] | None = None,
            verbose: int = 0,
            seed: int | None = None,
            device: torch.device | str = "auto",
            **settings: Unpack[PPOKeywords],
        ) -> None: ...

    def check_settings(self) -> None:
        """Refuse an unknown estimator, and settings of a critic where it has none."""
        self.estimator = estimator_for(self.settings)
        self.has_critic = self.estimator.needs_critic
        self._alarms, self._log_prob_gap = TrainingAlarms(), 0.0

    def check_change(self, changed: PPOSettings) -> None:
        """Refuse what has no effect with the estimator, or is no whole number of groups."""
        check_estimator(self.estimator, changed)
        if changed.group_size is not None:
            check_groups(self.n_envs, changed.group_size)
        was_linear = self.settings.learning_rate_schedule == "linear"
        if changed.learning_rate_schedule == "linear" and not was_linear:
            _check_schedules(changed.learning_rate)

    def resolve_settings(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the settings with the lambda that the environment's credit rule declares.

        Raises:
            SettingsError: if two schedules of the learning rate were given.
        """
        if given.get("learning_rate_schedule") == "linear":
            _check_schedules(given.get("learning_rate"))
        name = given.get("advantage", self.settings_class.advantage)
        if given.get("gae_lambda") is not None or not isinstance(name, str):
            return given
        estimator = find_advantage(name)
        if not (estimator.needs_critic and estimator.reads_lambda):
            return given
        self._declared_lambda = declared = self.rounds.reward.gae_lambda
        return {**given, "gae_lambda": GAE_LAMBDA if declared is None else declared}

    def round_options(self) -> dict[str, Any] | None:
        """Return the options of a round's reset: rows in groups that share a prompt."""
        if self.settings.group_size is None:
            return None
        check_groups(self.n_envs, self.settings.group_size)
        return {"group_size": self.settings.group_size}

    # --- the phases of one update, after `collect` ------------------------------------------------

    def learn_from(self, played: RolloutBatch) -> None:
        """Assign credit to a round's tokens and update the policy.

        Raises:
            ModelError: if rollout and update disagree about the log-probs of the same tokens.
        """
        stats = self.update(self.assign(played))
        self._alarms.check(
            update=self._n_updates,
            clip_fraction=stats.clip_fraction,
            kl=self._kl_before,
            kl_error=self._kl_error,
            kl_per_token=self._kl_before / self._tokens_per_row,
            scores=self._raw_scores,
            group_size=self.settings.group_size,
            learning_rate=self.policy.optimizer.param_groups[0]["lr"],
            kl_coef=self.kl_coef,
            has_critic=self.has_critic,
        )
        if stats.ratio_error > MAX_RATIO_ERROR and self.policy.language_model.is_float32:
            raise _disagreement(self._n_updates, stats)

    def assign(self, played: RolloutBatch) -> Experience:
        """Turn a round's token rewards into advantages and returns.

        Rows that teach nothing are left out: episodes that were lost to a partner's failure, and
        groups of equal scores, if they are to be dropped.

        Raises:
            NonFiniteError: if a token reward is NaN or Inf.
        """
        started, settings, policy = time.perf_counter(), self.settings, self.policy
        assert played.log_probs is not None  # our own sampler gives them all
        sequences = played.sequences(self.device, group_size=settings.group_size)
        mask = sequences.response_mask  # (batch, time), as all figures of tokens below
        rewards, scores, teaches = self._rewards(played, mask)  # (batch, time), (batch,), (batch,)
        read = partial(self.read, sequences, played.action_masks)
        # The reference is read once: its states, (batch, time, hidden), give its log-probs here and
        # the exact KL in every epoch.
        has_exact_kl = settings.kl_estimator == "exact" and self.kl_coef != 0.0
        keeps_states = has_exact_kl and self.processes.keeps_states
        ref_states = read(name="ref_states") if keeps_states else None
        ref_log_probs = read(name="ref_log_probs", ref_states=ref_states)
        # A lost episode's tokens were sampled, and are no part of the round that is learned from.
        old_log_probs = sampled = played.log_probs.masked_fill(~mask, 0.0)
        if settings.old_log_probs == "recomputed":
            old_log_probs = read(name="log_probs")
            self._log_prob_gap = (old_log_probs - sampled).abs().max().item()
        paid_kl = kl = losses.kl_estimate(old_log_probs, ref_log_probs, estimator="k1")
        net_scores = scores  # (batch,)
        if settings.kl_in == "reward" and self.kl_coef != 0.0:
            # r_t <- r_t - c KL_t. Ziegler et al. take the sampled log-ratio, "k1"; the exact KL is
            # its mean over the vocabulary, in the state before the token.
            if has_exact_kl:
                paid_kl = read(name="kl", ref_states=ref_states)
            rewards = rewards - self.kl_coef * paid_kl
            net_scores = scores - self.kl_coef * paid_kl.sum(1)
        values = final_values = None
        if (critic := policy.critic) is not None:
            # A network of its own reads whole texts once, not a token at a time.
            values = read(name="values") if played.values is None else played.values
            if played.truncated.any():  # bootstrapped: (batch,), of the text past the last token
                cut = torch.from_numpy(played.truncated).to(self.device)
                after = self.processes.of_rows(
                    critic.after_responses, sequences, max_size=self._max_rows
                )
                final_values = after * cut
        tensors = RoundTensors(
            token_rewards=rewards,
            response_mask=mask,
            values=values,
            final_values=final_values,
            scores=net_scores,
            episodes=played.episodes,
        )
        advantages, returns, scale = self._advantages(tensors)
        self._log_round(played, (paid_kl, kl), mask, values, returns)
        experience = Experience(
            **vars(tensors),
            sequences=sequences,
            action_masks=played.action_masks,
            old_log_probs=old_log_probs,
            advantages=advantages,
            returns=None if values is None else returns,
            ref_log_probs=ref_log_probs,
            ref_states=ref_states,
            advantage_scale=scale,
        )
        experience = self.weigh(experience, played)
        if settings.kl_in == "reward":  # paid already: the update has no use for them
            experience = replace(experience, ref_log_probs=None)
        self.logger.record("time/assign_s", time.perf_counter() - started)
        return experience if teaches.all() else experience.select(teaches.nonzero()[:, 0])

    def weigh(self, experience: Experience, played: RolloutBatch) -> Experience:
        """Return what the update learns from; a subclass may weigh the advantages of tokens.

        Args:
            experience: All rows of the round.
            played: The round.
        """
        del played
        return experience

    def read(
        self,
        sequences: Sequences,
        action_masks: ActionMasks | None,
        name: TokenStat,
        ref_states: Tensor | None = None,
    ) -> Tensor:
        """Return a figure of a round's tokens, (batch, time), without gradient.

        Args:
            sequences: The texts of all rows.
            action_masks: Tokens that could be sampled at each step; None: all.
            name: The figure.
            ref_states: "ref_states" that were read before; None computes them again.
        """
        how: Any = {"name": name, "ref_states": ref_states, "max_size": self._max_rows}
        read: Any = self.processes.of_rows
        figure: Tensor = read(self.policy.token_stats, sequences, action_masks, **how)
        return figure

    @property
    def _max_rows(self) -> int:
        """Most texts in a forward pass without gradients."""
        return min(MAX_ROWS_WITHOUT_GRADIENT, self.settings.micro_batch_size or sys.maxsize)

    def update(self, experience: Experience) -> UpdateStats:
        """Take the gradient steps of one update and move the KL coefficient.

        Raises:
            NonFiniteError: if a loss or gradient is NaN or Inf.
        """
        started, settings = time.perf_counter(), self.settings
        rate = self.lr_schedule(self._current_progress_remaining)
        if settings.learning_rate_schedule == "linear" and not callable(settings.learning_rate):
            rate *= self.remaining
        # The policy's first step is as large as the rate, whatever the values have learned before.
        before = settings.n_value_warmup if self._n_updates >= settings.n_value_warmup else 0
        rate *= min(1.0, (self._n_updates - before + 1) / (settings.n_warmup_updates + 1))
        self.logger.record("train/learning_rate", rate)
        clip_range = FloatSchedule(settings.clip_range)(self._current_progress_remaining)
        self.logger.record("train/clip_range", clip_range)
        update_learning_rate(self.policy.optimizer, rate)
        size = len(experience.response_mask)
        # Whole responses, never parts of them: a minibatch is (rows,), shuffled anew each epoch.
        minibatches = (
            (epoch, rows.to(self.device))
            for epoch in range(settings.n_epochs)
            for rows in torch.randperm(size, generator=self.shuffler).tensor_split(
                min(settings.n_minibatches, size)
            )
        )
        done: list[list[dict[str, float]]] = []  # figures of the parts of each minibatch
        num_steps = 0
        with self.processes.updating(self):
            parameters = self.policy.optimizer.param_groups[0]["params"]
            for epoch, rows in minibatches:
                where = f"update {self._n_updates}, epoch {epoch}, timestep {self.num_timesteps}"
                try:
                    parts = self.backward(experience.select(rows), where)
                    done.append(parts)
                    approx_kl = sum(figures["approx_kl"] for figures in parts)
                    if settings.target_kl is not None and approx_kl > 1.5 * settings.target_kl:
                        break
                    norm = self._finite_norm(where)
                except NonFiniteError as error:
                    raise self._error_of_row(experience, rows, where) or error from None
                torch.nn.utils.clip_grads_with_norm_(parameters, settings.max_grad_norm, norm)
                self.policy.optimizer.step()
                num_steps += 1
        self._n_updates += 1
        if settings.target_kl is not None:
            planned = settings.n_epochs * min(settings.n_minibatches, size)
            self.logger.record("train/steps_skipped", 1.0 - num_steps / planned)
        stats = self._stats(done)
        self.logger.record("train/n_updates", self._n_updates)
        # While the values alone learn, the KL says nothing of the price.
        if settings.kl_target is not None and self._n_updates > settings.n_value_warmup:
            self._adapt_kl_coef(settings.kl_target)
        self.logger.record("time/update_s", time.perf_counter() - started)
        return stats

    def _finite_norm(self, where: str) -> Tensor:
        """Return the norm of the gradient, before a clipping that would spread a nan to all of it.

        Raises:
            NonFiniteError: if it is NaN or Inf.
        """
        parameters = self.policy.optimizer.param_groups[0]["params"]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if not self.processes.whole_tensor(norm).isfinite():
            raise NonFiniteError(f"{self._largest_gradient()} at {where}; {REMEDY}")
        return norm

    def _error_of_row(
        self, experience: Experience, rows: Tensor, where: str
    ) -> NonFiniteError | None:
        """Return the error of the first row whose own loss or gradient is not finite."""
        if self.processes.count > 1:  # the others would wait for its gradient
            return None
        for row in rows.sort().values:
            try:
                self.backward(experience.select(row[None]), f"{where}, row {row.item()}")
                self._finite_norm(f"{where}, row {row.item()}")
            except NonFiniteError as error:
                return error
        return None

    def _adapt_kl_coef(self, target: float) -> None:
        """Move the KL coefficient towards the target, nats per response."""
        kl_coef = losses.adaptive_kl_coef(
            self.kl_coef,
            self._kl,
            target=target,
            horizon=self.settings.kl_horizon,
            n_steps=self._num_finished,  # not fewer where equal groups are dropped
        )
        self.change(kl_coef=kl_coef)

    # --- parts of `update` and `assign` -----------------------------------------------------------

    def _stats(self, done: list[list[dict[str, float]]]) -> UpdateStats:
        """Record and return an update's figures, of those of the parts of each minibatch."""
        means = {
            name: sum(figures.get(name, 0.0) for parts in done for figures in parts) / len(done)
            for name in ("loss", "policy_loss", "value_loss", "approx_kl", "clip_fraction")
        }
        if self.settings.kl_in == "loss" and self.kl_coef != 0.0:
            # Paid in each gradient step, not before them.
            self._log_kl(sum(figures["kl"] for parts in done for figures in parts) / len(done))
        for name, value in means.items():
            if name != "value_loss" or self.has_critic:
                self.logger.record(f"train/{SB3_NAMES.get(name, name)}", value)
        del means["loss"]
        stats = UpdateStats(
            **means,
            ratio_error=max(figures["ratio_error"] for figures in done[0]),  # no step was taken
            log_prob_gap=max(figures["log_prob_gap"] for figures in done[0]),
            num_minibatches=len(done),
        )
        self.logger.record("train/ratio_error", stats.ratio_error)
        self.logger.record("train/log_prob_gap", max(stats.log_prob_gap, self._log_prob_gap))
        return stats

    def _rewards(self, played: RolloutBatch, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the round's token rewards, scores, and which of its rows teach something.

        These are (batch, time), (batch,) and (batch,), of a (batch, time) response mask.

        Raises:
            ValueError: if every episode was lost, or a reward is missing where it is read.
            NonFiniteError: if a token reward is NaN or Inf.
        """
        teaches = mask.any(1)
        if not teaches.any():
            raise ValueError(ALL_LOST)
        rewards = np.zeros(mask.shape, dtype=np.float32)
        reads_scores = not self.estimator.uses_token_rewards or self.settings.drop_equal_groups
        for row, episode in enumerate(played.episodes):
            if episode.token_rewards is None:
                raise _unpaid(row, "token_rewards")
            if reads_scores and episode.score is None:  # as 0 it would bend the group's mean
                raise _unpaid(row, f"score, which advantage={self.estimator.name!r} reads")
            rewards[row, : len(episode.response_ids)] = episode.token_rewards
        if not rewards.any() and self._pays_nothing():
            raise ValueError(
                "the environment was made without a reward, so that every response earns 0; make "
                "it with reward=..., such as 'sparse', or wrap it in tokengym.rewards.CreditReward"
            )
        if not self.estimator.uses_token_rewards and ((rewards != 0).sum(1) > 1).any():
            self._alarms.warn("dense", UNSEEN_CREDIT.format(self.estimator.name))
        self._warn_of_declared_lambda(played)
        if not np.isfinite(rewards).all():
            where = f"update {self._n_updates}, timestep {self.num_timesteps}"
            raise _not_finite(rewards, where)
        given = [np.nan if e.score is None else e.score for e in played.episodes]
        scores = torch.tensor(given, dtype=torch.float32, device=self.device)
        if self.settings.drop_equal_groups:
            teaches = self._varied_rows(scores, teaches)
        return torch.from_numpy(rewards).to(self.device), scores, teaches

    def _pays_nothing(self) -> bool:
        """Return whether an environment of this package has no layer that pays."""
        paid, kind = self.rounds.reward, environment_attribute(self.env, "__module__", "")
        return paid.reward is None and paid.is_plain and kind.startswith("tokengym.envs.")

    def _warn_of_declared_lambda(self, played: RolloutBatch) -> None:
        """Warn of a low lambda that nobody chose, where most responses end by themselves.

        `mc` declares 0, since its rewards are advantages: that holds whatever the lengths are.
        """
        declared, paid = self._declared_lambda, self.rounds.reward.reward
        if not declared or declared >= GAE_LAMBDA or paid is None:
            return
        ended = float(np.mean([e.finish_reason in ("eos", "stop") for e in played.episodes]))
        if ended > 0.5:
            text = DECLARED_LAMBDA.format(paid.credit_name, declared, ended, GAE_LAMBDA)
            self._alarms.warn("lambda", text)

    def _varied_rows(self, scores: Tensor, teaches: Tensor) -> Tensor:
        """Return which rows teach once groups of equal scores are left out, (batch,) each."""
        assert self.settings.group_size is not None
        varied = teaches & losses.varied_groups(scores, self.settings.group_size)
        self.logger.record("train/groups_kept", varied.float().mean().item())
        return varied if varied.any() else teaches

    def _advantages(self, tensors: RoundTensors) -> tuple[Tensor, Tensor, float]:
        """Return advantages as the loss takes them, returns, and what whitening divided by.

        Advantages and returns are (batch, time), reward units, the divisor too.
        """
        mask, scale = tensors.response_mask, 1.0
        if self.estimator.reads_segments:
            ends = self.reward.segment_ends(tensors.episodes, mask.shape[1])
            tensors = replace(tensors, segment_ends=torch.from_numpy(ends).to(mask.device))
        advantages, returns = self.estimator.estimate(tensors, self.settings)
        # Over the whole batch: SB3 whitens each minibatch, by a mean and a deviation of its own.
        if self.estimator.whitens:
            scale = losses.masked_std(advantages, mask).item()
            advantages = losses.masked_whiten(advantages, mask)
        return advantages, returns, scale

    def _log_round(
        self,
        played: RolloutBatch,
        kls: tuple[Tensor, Tensor],
        mask: Tensor,
        values: Tensor | None,
        returns: Tensor,
    ) -> None:
        """Record the round's figures, and the KL for the update and the alarms.

        The KLs, that which the reward pays for and that of the sampled tokens, mask, values and
        returns are (batch, time), nats and reward units.
        """
        record = self.logger.record
        raw = [episode.raw_score for episode in played.episodes]
        self._raw_scores = [score for score in raw if score is not None]  # the scorer's own
        record("rollout/score", float(np.mean(self._raw_scores or [0.0])))
        assert played.entropy is not None
        entropy, tokens = played.entropy.masked_fill(~mask, 0.0), int(mask.sum())
        record("train/entropy", mean := entropy.sum().item() / tokens)
        record("train/entropy_loss", -mean)
        finished = mask.any(1)  # the episodes that were not lost
        paid, sampled = (kl.sum(1)[finished] for kl in kls)  # of each of them, nats
        self._num_finished = count = len(paid)
        self._tokens_per_row = tokens / count
        self._kl_before = paid.mean().item()
        self._kl_error = paid.std().item() / count**0.5 if count > 1 else np.nan
        self._log_kl(self._kl_before)
        record("train/kl_sampled", sampled.mean().item())
        record("train/kl_coef", self.kl_coef)
        if self.has_critic and self.estimator.reads_lambda:
            record("train/gae_lambda", self.settings.gae_lambda)
        if values is not None:
            learned = explained_variance(values[mask].cpu().numpy(), returns[mask].cpu().numpy())
            record("train/explained_variance", float(learned))

    def _log_kl(self, kl: float) -> None:
        """Record the mean KL of a response that is paid for, which the coefficient follows."""
        self._kl = kl
        self.logger.record("train/kl", kl)

    # --- one gradient step ------------------------------------------------------------------------

    def backward(self, minibatch: Experience, where: str) -> list[dict[str, float]]:
        """Take the gradient of a minibatch's loss.

        Args:
            minibatch: The minibatch, of all processes.
            where: Place in the training, for an error's message.

        Returns:
            The figures of its parts, which add up to its own, as `UpdateStats` names them.

        Raises:
            NonFiniteError: if the loss is NaN or Inf.
        """
        # Responses of similar length are passed over together, which saves padding. Each part
        # divides by the whole minibatch's tokens, so that the gradients add up to the minibatch's.
        count, rows = int(minibatch.response_mask.sum()), len(minibatch.response_mask)
        max_rows = self.settings.micro_batch_size
        done: list[dict[str, float]] = []
        self.policy.optimizer.zero_grad(set_to_none=True)
        for part in self.processes.parts(minibatch, max_rows):
            figures: dict[str, float] = {}
            # Term by term, each with its backward: two networks' states are never held at once.
            for loss, of_term in self.loss_terms(part, count, rows):
                for name, value in of_term.items():
                    if not np.isfinite(value):
                        raise NonFiniteError(f"{name} is {value} at {where}; {REMEDY}")
                figures |= of_term | {"loss": figures.get("loss", 0.0) + loss.item()}
                loss.backward()
            done.append(figures)
        return self.processes.add_gradients(self.policy, done)

    def objective(self) -> Objective:
        """Return the loss of the update that is next."""
        settings, progress = self.settings, self._current_progress_remaining
        low, high = FloatSchedule(settings.clip_range)(progress), settings.clip_range_high
        of_values, mean = settings.clip_range_vf, settings.loss_mean
        # With the price in the reward, the exact KL's direct gradient is a term of the loss too.
        is_in_loss = settings.kl_in == "loss" or settings.kl_estimator == "exact"
        return Objective(
            clip_range=(low, low if high is None else high),
            clip_range_vf=None if of_values is None else FloatSchedule(of_values)(progress),
            kl_coef=self.kl_coef if is_in_loss else 0.0,
            loss_mean=self.estimator.loss_mean if mean == "auto" else mean,
            values_alone=self._n_updates < settings.n_value_warmup,
        )

    def loss_terms(self, part: Experience, count: int, rows: int) -> Iterator[Term]:
        """Yield the terms of the loss of some of a minibatch's sequences that share no weights.

        loss = L_policy + vf_coef * L_value - ent_coef * H + kl_coef / advantage_scale * KL

        each a mean over the tokens of the whole minibatch; L_policy and KL take ``loss_mean``. In
        updates of the values alone the gradient reaches no weights of the policy.

        Where the value has a network of its own it is read when its term is asked for. A caller
        that takes the gradient of the first term before that never holds both networks' states.

        Args:
            part: The sequences.
            count: Tokens of the whole minibatch, so that the losses of its parts add up to its own.
            rows: Responses of the whole minibatch.

        """
        settings, policy, mask = self.settings, self.policy, part.response_mask  # (batch, time)
        goal, estimator = self.objective(), settings.kl_estimator
        has_network = policy.critic is not None and policy.critic.network is not None
        now = policy.evaluate(
            part.sequences,
            part.action_masks,
            with_entropy=settings.ent_coef != 0.0,
            with_kl=goal.kl_coef != 0.0 and estimator == "exact",
            with_values=goal.values_alone or not has_network,
            ref_states=part.ref_states,
            value_head_only=goal.values_alone,
        )
        # The weight of each token in the mean, (batch, time); None: 1 / count.
        weights = None
        if goal.loss_mean != "token":
            horizon = environment_attribute(self.env, "max_new_tokens", 0)  # longest response
            weights = losses.loss_weights(mask, goal.loss_mean, rows=rows, horizon=horizon)
        # Clipped surrogate: -min(ratio A, clip(ratio, 1 - low, 1 + high) A).
        low, high = goal.clip_range
        loss: Any = losses.policy_loss(
            now.log_probs,
            part.old_log_probs,
            part.advantages,
            mask,
            clip_range=low,
            clip_range_high=high,
            count=count,
            weights=weights,
        )
        figures = {"policy_loss": loss.item()}
        # Entropy bonus, of the distribution that the token was drawn from.
        if now.entropy is not None:
            loss = loss - settings.ent_coef * losses.masked_mean(now.entropy, mask, count=count)
        # KL to the reference. Whitening has divided the advantages by their deviation: the price is
        # divided by it too, and so stays in the unit of the rewards.
        kl = now.kl
        if goal.kl_coef != 0.0:
            if kl is None:  # an estimate from the sampled tokens
                assert part.ref_log_probs is not None
                kl = losses.kl_estimate(now.log_probs, part.ref_log_probs, estimator=estimator)
            kl_mean = losses.masked_mean(kl, mask, count=count, weights=weights)
            loss = loss + goal.kl_coef / part.advantage_scale * kl_mean
        figures |= self._movement(now.log_probs, kl, part, (count, rows), (low, high))
        # Value loss, of the policy's states or of a network of its own, whose term is apart. It is
        # half the squared error (SB3 does not halve it), and of two the larger where it is clipped.
        values = now.values
        if has_network and not goal.values_alone:
            yield loss, figures
            loss, figures, values = 0.0, {}, policy.values(part.sequences)
        if values is not None:
            assert part.values is not None
            assert part.returns is not None
            value_loss = losses.value_loss(
                values,
                part.values,
                part.returns,
                mask,
                clip_range_vf=goal.clip_range_vf,
                count=count,
            )
            figures["value_loss"] = value_loss.item()
            loss = settings.vf_coef * value_loss + (0.0 if goal.values_alone else loss)
        yield loss, figures

    @torch.no_grad()
    def _movement(
        self,
        log_probs: Tensor,
        kl: Tensor | None,
        part: Experience,
        size: tuple[int, int],
        clip_range: tuple[float, float],
    ) -> dict[str, float]:
        """Return how far the policy has moved from the one that sampled, for `UpdateStats`.

        And from the reference, "kl" per response, where the loss has that KL. Log-probs and KL are
        (batch, time) nats, of the policy now; the size is the whole minibatch's, tokens and rows,
        the clip range that down and up.
        """
        (count, rows), (low, high) = size, clip_range
        mask = part.response_mask  # empty in a part that several processes fill up with
        log_ratio = (log_probs - part.old_log_probs).masked_fill(~mask, 0.0)
        move = log_ratio.expm1()  # of the probability ratio
        is_clipped = ((move > high) | (move < -low)).float()
        # KL(old || new) from the old policy's samples: k3 of old against new.
        moved = losses.kl_estimate(-log_ratio, torch.zeros_like(log_ratio), estimator="k3")
        observed = {
            "approx_kl": losses.masked_mean(moved, mask, count=count),
            "clip_fraction": losses.masked_mean(is_clipped, mask, count=count),
            "ratio_error": move.abs().max(),
            "log_prob_gap": log_ratio.abs().max(),
        }
        if kl is not None:
            observed["kl"] = losses.masked_mean(kl, mask, count=rows)
        # A GPU is waited for once.
        return dict(zip(observed, torch.stack([*observed.values()]).tolist(), strict=True))

    def _largest_gradient(self) -> str:
        """Return in words which gradient is not finite, or the largest if only the norm is not."""
        largest = {
            name: self.processes.whole_tensor(parameter.grad).abs().max().item()
            for name, parameter in self.policy.named_parameters()
            if parameter.grad is not None
        }
        for name, size in largest.items():
            if not np.isfinite(size):
                return f"the gradient of {name} is not finite"
        name = max(largest, key=lambda name: largest[name])
        return f"the gradient norm overflows (largest entry {largest[name]:.3g}, in {name})"


def _check_schedules(learning_rate: object) -> None:
    """Refuse a learning rate that is a schedule beside ``learning_rate_schedule='linear'``."""
    if callable(learning_rate):
        raise SettingsError(
            "learning_rate_schedule='linear' lowers a number, and learning_rate is a schedule of "
            "its own, which is taken as it is; leave one of them out"
        )


def _unpaid(row: int, what: str) -> ValueError:
    """Return the error of an episode that lacks what the update reads."""
    return ValueError(
        f"the episode of row {row} has no {what}; make the environment with reward=..., or wrap it "
        "in tokengym.rewards.CreditReward"
    )


def _not_finite(rewards: NDArray[np.float32], where: str) -> NonFiniteError:
    """Return the error of token rewards, (batch, time), of which one is not finite."""
    row, step = np.argwhere(~np.isfinite(rewards))[0]
    return NonFiniteError(
        f"token_rewards of row {row} is {rewards[row, step]} at response token {step} ({where}); "
        "fix the scorer"
    )


def _disagreement(update: int, stats: UpdateStats) -> ModelError:
    """Return the error of a rollout and an update that disagree about the same tokens."""
    return ModelError(
        f"before the first gradient step of update {update} a token's probability ratio is off by "
        f"{stats.ratio_error:.3g}, log-probs by {stats.log_prob_gap:.3g} nats: the model decodes "
        "to other log-probs than its whole forward gives; use another model"
    )
