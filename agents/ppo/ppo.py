"""PPO for token sequences, on Stable-Baselines3's ``OnPolicyAlgorithm``.

Schulman et al. 2017 (arXiv:1707.06347) as used for language models (Ziegler et al. 2019,
arXiv:1909.08593; Huang et al. 2024, arXiv:2403.17031). One update plays one episode per environment
row (collect), turns scores into advantages (assign), takes clipped gradient steps (update), and
writes a row of figures (log). Differences from SB3's PPO: a rollout is whole episodes, kept as
sequences; rewards are the ``token_rewards`` that the finished episode carries, less the KL to the
reference; advantages are whitened over the whole batch, not per minibatch; dropout stays off.
"""

import time
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import FloatSchedule, explained_variance
from torch import Tensor

from tokengym.agents import losses
from tokengym.agents.algorithm import EpisodicAlgorithm
from tokengym.agents.errors import NonFiniteError
from tokengym.agents.policy.policy import CausalLMPolicy
from tokengym.agents.policy.sequences import Sequences
from tokengym.agents.ppo.experience import Experience
from tokengym.agents.ppo.objective import Objective, UpdateStats
from tokengym.agents.rollouts.environments import Environments
from tokengym.agents.rollouts.playing import Round


class PPO(EpisodicAlgorithm):
    """Proximal policy optimisation of a language model from token rewards.

    Args:
        policy: "CausalLMPolicy" or a subclass of it.
        env: A Gymnasium ``VectorEnv`` or ``Env``, or an SB3 ``VecEnv``. One update plays one
            episode per row.
        learning_rate: Of AdamW; a number or a schedule over the remaining progress, 1 to 0.
        n_epochs: Passes over a batch.
        n_minibatches: Gradient steps per pass; no more than there are episodes.
        gamma: Discount per token.
        gae_lambda: 1 waits for the whole return, 0 trusts the next value.
        clip_range: Of the probability ratio; a number or a schedule.
        clip_range_vf: Of the values, in reward units; None leaves them unclipped.
        vf_coef: Weight of the value loss.
        ent_coef: Weight of the entropy bonus.
        kl_coef: Price of a nat of KL to the reference, reward units; where it starts if adaptive.
        kl_in: "reward": each token's KL is taken off its reward, as sampled (Ziegler et al. 2019).
            "loss": kl_coef times its mean is added to the loss and differentiated.
        kl_estimator: "k1", "k2", "k3" of the sampled tokens (see `losses.kl_estimate`), or "exact"
            over the vocabulary. In the reward k1 and exact have the KL's gradient; in the loss k2
            and exact have it, and k1's is zero on average, so that it holds nothing back.
        kl_target: KL per episode (nats) that an adaptive coefficient aims at; None keeps it fixed.
        kl_horizon: Episodes over which the adaptive coefficient corrects itself.
        n_value_warmup: Updates at the start in which the value head alone learns, with its own
            network if it has one.
        target_kl: Ends an update early when the policy moved 1.5 times this (nats per token).
        temperature: Of sampling, updating and reference alike.
        top_k: Sample among the likeliest only; see `CausalLMPolicy`. 0 samples among all.
        top_p: Sample among the fewest that have this much probability. 1.0 samples among all.
        max_grad_norm: Longer gradients are scaled down to this.
        micro_batch_size: Most sequences in one forward; changes memory and time, not the gradient.
        tensorboard_log: Folder for TensorBoard, or None.
        policy_kwargs: See `CausalLMPolicy`; without ``model`` the environment's bundled one is it.
        verbose: 0 silent, 1 prints the log.
        seed: Of sampling, shuffling, new weights, and the environment's next reset; global random
            state is not touched.
        device: "auto", "cpu", "cuda", ...

    Raises:
        ValueError: if a setting is out of range.
        ModelError, TokenizerError: if the model does not fit.
    """

    def __init__(
        self,
        policy: str | type[CausalLMPolicy],
        env: Environments,
        learning_rate: float | Schedule = 3e-4,
        *,
        n_epochs: int = 4,
        n_minibatches: int = 2,
        gamma: float = 1.0,
        gae_lambda: float = 0.95,
        clip_range: float | Schedule = 0.2,
        clip_range_vf: float | Schedule | None = 0.2,
        vf_coef: float = 0.1,
        ent_coef: float = 0.0,
        kl_coef: float = 0.05,
        kl_in: str = "reward",
        kl_estimator: str = "k1",
        kl_target: float | None = None,
        kl_horizon: float = 10_000,
        n_value_warmup: int = 0,
        target_kl: float | None = None,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        max_grad_norm: float = 1.0,
        micro_batch_size: int | None = None,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
    ) -> None:
        for name in PPO.sampling_settings:
            if name in (policy_kwargs or {}):
                raise ValueError(f"{name} is a setting of PPO; pass it beside policy_kwargs")
        super().__init__(
            policy,
            env,
            learning_rate,
            sb3_settings={
                "gamma": gamma,
                "gae_lambda": gae_lambda,
                "ent_coef": ent_coef,
                "vf_coef": vf_coef,
                "max_grad_norm": max_grad_norm,
            },
            tensorboard_log=tensorboard_log,
            policy_kwargs={
                **(policy_kwargs or {}),
                "temperature": temperature,
                "top_k": top_k,
                "top_p": top_p,
            },
            verbose=verbose,
            seed=seed,
            device=device,
        )
        self.n_epochs = n_epochs
        self.n_minibatches = n_minibatches
        self.clip_range = clip_range
        self.clip_range_vf = clip_range_vf
        self.kl_coef = kl_coef
        self.kl_in = kl_in
        self.kl_estimator = kl_estimator
        self.kl_target = kl_target
        self.kl_horizon = kl_horizon
        self.n_value_warmup = n_value_warmup
        self.target_kl = target_kl
        self.temperature = temperature
        self.top_k, self.top_p = top_k, top_p
        self.micro_batch_size = micro_batch_size
        self._check_settings()
        self._setup_model()

    def _check_settings(self) -> None:
        """Refuse settings that cannot work."""
        for name, is_right, remedy in (
            ("n_epochs", self.n_epochs >= 1, "an integer >= 1"),
            ("n_minibatches", self.n_minibatches >= 1, "an integer >= 1"),
            ("gamma", 0.0 <= self.gamma <= 1.0, "within [0, 1]"),
            ("gae_lambda", 0.0 <= self.gae_lambda <= 1.0, "within [0, 1]"),
            ("kl_coef", self.kl_coef >= 0.0, ">= 0; 0 leaves the KL free"),
            ("kl_in", self.kl_in in ("reward", "loss"), "'reward' or 'loss'"),
            (
                "kl_estimator",
                self.kl_estimator in (*losses.KL_ESTIMATORS, "exact"),
                "'k1', 'k2', 'k3' or 'exact'",
            ),
            ("n_value_warmup", self.n_value_warmup >= 0, "an integer >= 0"),
            ("kl_target", self.kl_target is None or self.kl_target > 0.0, "> 0, or None"),
            ("kl_horizon", self.kl_horizon > 0.0, "> 0"),
            ("target_kl", self.target_kl is None or self.target_kl > 0.0, "> 0, or None"),
            ("max_grad_norm", self.max_grad_norm > 0.0, "> 0"),
            (
                "micro_batch_size",
                self.micro_batch_size is None or self.micro_batch_size >= 1,
                ">= 1, or None",
            ),
        ):
            if not is_right:
                raise ValueError(f"{name} must be {remedy}, got {getattr(self, name)!r}")

    # --- the phases of one update, after `collect` ------------------------------------------------

    def learn_from(self, played: Round) -> None:
        """Assign credit to a round's tokens and update the policy."""
        self.update(self.assign(played))

    def assign(self, played: Round) -> Experience:
        """Turn a round's token rewards into advantages and returns.

        Raises:
            NonFiniteError: if a token reward is NaN or Inf.
        """
        started = time.perf_counter()
        assert played.log_probs is not None  # our own player gives them all
        episodes = played.episodes
        sequences = Sequences.from_ids(
            [episode.prompt_ids for episode in episodes],
            [episode.response_ids for episode in episodes],
            self.device,
        )
        mask = sequences.response_mask
        ref_log_probs = self.policy.response_log_probs(
            sequences, played.action_masks, reference=True
        )
        values = played.values
        if values is None:  # the value's own network reads whole texts, not one token at a time
            values = self.policy.response_values(sequences)
        rewards = self._token_rewards(played)
        kl = losses.kl_estimate(played.log_probs, ref_log_probs, estimator="k1")
        if self.kl_in == "reward":
            rewards = rewards - self.kl_coef * self._kl_price(played, sequences, ref_log_probs)
        final_values = None
        if played.truncated.any():
            cut = torch.from_numpy(played.truncated).to(self.device)
            final_values = self.policy.final_values(sequences) * cut
        advantages, returns = losses.gae(
            rewards,
            values,
            mask,
            gamma=self.gamma,
            gae_lambda=self.gae_lambda,
            final_values=final_values,
        )
        self._log_round(played, kl, values[mask], returns[mask])
        self._kl = kl.sum(1).mean().item()
        self._timings["assign_s"] = time.perf_counter() - started
        return Experience(
            sequences=sequences,
            action_masks=played.action_masks,
            response_mask=mask,
            old_log_probs=played.log_probs,
            old_values=values,
            advantages=losses.masked_whiten(advantages, mask),
            returns=returns,
            ref_log_probs=ref_log_probs if self.kl_in == "loss" else None,
        )

    def update(self, experience: Experience) -> UpdateStats:
        """Take the gradient steps of one update and move the KL coefficient.

        Raises:
            NonFiniteError: if a loss or gradient is NaN or Inf.
        """
        started = time.perf_counter()
        self._update_learning_rate(self.policy.optimizer)
        stats = UpdateStats()
        for epoch in range(self.n_epochs):
            if not self._epoch(experience, stats, epoch):
                break
        self._n_updates += 1
        self._log_update(stats)
        if self.kl_target is not None:
            self.kl_coef = losses.adaptive_kl_coef(
                self.kl_coef,
                self._kl,
                target=self.kl_target,
                horizon=self.kl_horizon,
                n_steps=len(experience),
            )
        self._timings["update_s"] = time.perf_counter() - started
        return stats

    # --- one gradient step ------------------------------------------------------------------------

    def _epoch(self, experience: Experience, stats: UpdateStats, epoch: int) -> bool:
        """Pass once over the batch; return False if the policy has moved far enough."""
        for rows in experience.minibatches(self.n_minibatches, self.shuffler):
            where = f"update {self._n_updates}, epoch {epoch}, timestep {self.num_timesteps}"
            approx_kl = self._backward(experience.select(rows), stats, where)
            if self.target_kl is not None and approx_kl > 1.5 * self.target_kl:
                return False
            self._step_optimizer(where)
        return True

    def _backward(self, minibatch: Experience, stats: UpdateStats, where: str) -> float:
        """Add up a minibatch's gradient; return how far the policy has moved, nats per token."""
        count, objective = int(minibatch.response_mask.sum()), self.objective()
        is_first = stats.num_minibatches == 0
        approx_kl = 0.0
        self.policy.optimizer.zero_grad(set_to_none=True)
        for bucket in minibatch.sequences.buckets(self.micro_batch_size):
            part = minibatch.select(bucket)
            loss, figures, log_ratio = objective(self.policy, part, count)
            for name, value in figures.items():
                if not np.isfinite(value):
                    raise NonFiniteError(
                        f"{name} is {value} at {where}; lower learning_rate or clip the scores"
                    )
                setattr(stats, name, getattr(stats, name) + value)
            approx_kl += figures["approx_kl"]
            if is_first:
                error, gap = log_ratio.expm1().abs().max().item(), log_ratio.abs().max().item()
                stats.ratio_error = max(stats.ratio_error, error)
                stats.log_prob_gap = max(stats.log_prob_gap, gap)
            loss.backward()
        stats.num_minibatches += 1
        return approx_kl

    def objective(self) -> Objective:
        """Return what the next gradient step goes down."""
        return Objective(
            clip_range=self._now(self.clip_range),
            clip_range_vf=self._now(self.clip_range_vf),
            vf_coef=self.vf_coef,
            ent_coef=self.ent_coef,
            kl_coef=self.kl_coef if self.kl_in == "loss" else 0.0,
            kl_estimator=self.kl_estimator,
            value_head_only=self._n_updates < self.n_value_warmup,
        )

    def _kl_price(self, played: Round, sequences: Sequences, ref_log_probs: Tensor) -> Tensor:
        """Return each token's KL to the reference as sampled, (batch, time), nats."""
        if self.kl_estimator == "exact":
            return self.policy.response_kl(sequences, played.action_masks)
        assert played.log_probs is not None
        return losses.kl_estimate(played.log_probs, ref_log_probs, estimator=self.kl_estimator)

    def _now(self, schedule: Any) -> Any:
        """Return a schedule's value at this point of the training, None for None."""
        return (
            None if schedule is None else FloatSchedule(schedule)(self._current_progress_remaining)
        )

    def _step_optimizer(self, where: str) -> None:
        """Clip the gradient and step, unless it is not finite."""
        parameters = self.policy.trained_parameters()
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if not norm.isfinite():  # looked at before clipping, which would spread a nan to all
            broken = next(
                name
                for name, parameter in self.policy.named_parameters()
                if parameter.grad is not None and not parameter.grad.isfinite().all()
            )
            raise NonFiniteError(
                f"the gradient of {broken} is not finite at {where}; lower learning_rate or clip "
                "the scores"
            )
        torch.nn.utils.clip_grads_with_norm_(parameters, self.max_grad_norm, norm)
        self.policy.optimizer.step()

    # --- figures and callbacks --------------------------------------------------------------------

    def _token_rewards(self, played: Round) -> Tensor:
        """Return the episodes' token rewards as (batch, time), refusing NaN and Inf."""
        rewards = np.zeros(played.log_probs.shape, dtype=np.float32)  # type: ignore[union-attr]
        for row, episode in enumerate(played.episodes):
            if episode.token_rewards is None:
                raise ValueError(
                    f"the episode of row {row} has no token_rewards; make the environment with "
                    "reward=..., or wrap it in tokengym.rewards.CreditReward"
                )
            rewards[row, : len(episode.response_ids)] = episode.token_rewards
        if not np.isfinite(rewards).all():
            row, step = np.argwhere(~np.isfinite(rewards))[0]
            raise NonFiniteError(
                f"token_rewards of row {row} is {rewards[row, step]} at response token {step} "
                f"(update {self._n_updates}, timestep {self.num_timesteps}); mend the scorer"
            )
        return torch.from_numpy(rewards).to(self.device)

    def _log_round(self, played: Round, kl: Tensor, values: Tensor, returns: Tensor) -> None:
        """Record what the round earned; scores are raw where a reward normalises them.

        Args:
            played: The round.
            kl: (batch, time), nats.
            values: (tokens,), reward units.
            returns: (tokens,), reward units.
        """
        scores = [
            episode.score_parts.get("raw_score", episode.score) for episode in played.episodes
        ]
        record = self.logger.record
        record("rollout/score", float(np.mean([s for s in scores if s is not None] or [0.0])))
        assert played.entropy is not None
        record("train/entropy", played.entropy.sum().item() / len(values))
        record("train/kl", kl.sum(1).mean().item())
        record("train/kl_coef", self.kl_coef)
        learned = explained_variance(values.cpu().numpy(), returns.cpu().numpy())
        record("train/explained_variance", float(learned))

    def _log_update(self, stats: UpdateStats) -> None:
        """Record what the update did."""
        for name in ("policy_loss", "value_loss", "approx_kl", "clip_fraction"):
            self.logger.record(f"train/{name}", stats.mean(name))
        self.logger.record("train/ratio_error", stats.ratio_error)
        self.logger.record("train/log_prob_gap", stats.log_prob_gap)
        self.logger.record("train/n_updates", self._n_updates)
