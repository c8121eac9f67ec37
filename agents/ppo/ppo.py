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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.utils import FloatSchedule, explained_variance, update_learning_rate
from torch import Tensor

from tokengym.agents import losses
from tokengym.agents.algorithm import EpisodicAlgorithm
from tokengym.agents.errors import ModelError, NonFiniteError
from tokengym.agents.losses.advantages import check_groups
from tokengym.agents.losses.policy import Whitening, whitening
from tokengym.agents.policy.models import TokenStat
from tokengym.agents.policy.sampling import shape_logits
from tokengym.agents.policy.sequences import ActionMasks, Sequences, sent
from tokengym.agents.ppo.advantages import check_estimator, check_parts, functions_of
from tokengym.agents.ppo.alarms import (
    OF_LOSS,
    Figures,
    FigureTensors,
    RoundStats,
    TrainingAlarms,
    UpdateStats,
    movement,
)
from tokengym.agents.ppo.functions import Loss, RoundFunction, Weights
from tokengym.agents.ppo.inputs import RoundInputs
from tokengym.agents.ppo.settings import Objective, PPOSettings, lambda_of
from tokengym.agents.ppo.steps import GradientSteps, read_once
from tokengym.agents.processes import launched
from tokengym.agents.rollouts.experience import Experience, scores_of, token_rewards_of
from tokengym.agents.rollouts.given import PolicyContinuations
from tokengym.agents.rollouts.playing import RolloutBatch
from tokengym.agents.rollouts.rounds import Environments
from tokengym.base.errors import SettingsError
from tokengym.rewards.arguments import columns_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from tokengym.agents.keywords import PPOKeywords
    from tokengym.agents.policy.policy import CausalLMPolicy
    from tokengym.agents.policy.settings import Schedule
    from tokengym.agents.ppo.advantages import Estimator

MAX_RATIO_ERROR = 0.1
"""Largest |ratio - 1| before the first gradient step that rounding in float32 explains."""
MAX_ROWS_WITHOUT_GRADIENT = 64
"""Most texts in a forward pass without gradients; fewer with a smaller ``micro_batch_size``."""
NO_REWARD = (
    "the environment was made without a reward, so that every response earns 0; make it with "
    "reward=..., such as 'sparse', or wrap it in tokengym.rewards.CreditReward"
)
REMEDY = "lower learning_rate or kl_coef, or clip the scores"
"""Remedy for a loss or gradient that is not finite."""


class Likelihoods(NamedTuple):
    """How likely a round's tokens were, (batch, time) each, nats."""

    old: Tensor
    """Log-probs under the policy that played it."""
    ref: Tensor
    """Log-probs under the reference."""
    ref_states: Tensor | None
    """(batch, time, hidden), the reference's; None where nobody reads them again."""
    paid_kl: Tensor
    """What the reward is charged for."""
    sampled_kl: Tensor
    """The log-ratio of the sampled tokens."""
    asked: dict[str, Tensor]
    """What the host has to know of them, by name."""


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
    settings: PPOSettings

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

    @classmethod
    def data_columns(cls, settings: PPOSettings) -> list[str]:
        """Return the columns of the data that its functions read."""
        return [column for one in functions_of(settings).values() for column in one.columns]

    def check_settings(self) -> None:
        """Find the functions.

        Raises:
            SettingsError: if one is unknown, or lacks what a setting is for.
        """
        self._tokenizer = self.rounds.attribute("tokenizer")
        every = functions_of(self.settings).items()
        self._functions: Any = {place: one.bind(self._tokenizer) for place, one in every}
        self.estimator: Estimator = self._functions["advantage"]
        self.weight: Weights | None = self._functions.get("weights")
        self.policy_loss: Loss = self._functions["loss"]
        self.has_critic = self.estimator.needs_critic
        self._alarms, self._log_prob_gap = TrainingAlarms(), 0.0

    def check_supply(self) -> None:
        """Refuse settings that no function reads, and an environment that lacks what they read.

        Raises:
            SettingsError: in one line, with who could supply the name.
        """
        check_estimator(self.estimator, self.settings, self.names_read)
        check_parts(self.policy_loss, self.settings, launched())
        settings = partial(self.rounds.attribute, "settings")
        for function in self.functions:
            function.check_supply(self.reward.scorer, self._columns, settings)

    @property
    def functions(self) -> tuple[RoundFunction, ...]:
        """Functions that read a round by names, or a gradient step."""
        return (self.estimator, *([self.weight] if self.weight else []), self.policy_loss)

    @property
    def is_clipped(self) -> bool:
        """Whether the loss clips the ratio at ``clip_range``."""
        return "clip_range" in self.policy_loss.reads

    @property
    def names_read(self) -> list[str]:
        """Names that they read."""
        return [name for function in self.functions for name in function.reads]

    def decide_settings(self) -> None:
        """Take the lambda that the environment's credit rule declares, unless one was given."""
        is_open = self.settings.gae_lambda is None or "gae_lambda" in self.decided
        if is_open and self.estimator.reads_lambda:
            gae_lambda = lambda_of(None, self.rounds.reward.gae_lambda)
            self.settings = replace(self.settings, gae_lambda=gae_lambda)
            self.decided |= {"gae_lambda"}

    @property
    def settled(self) -> dict[str, Any]:
        """Lambda, where the estimator reads it, and the mean that the loss takes over tokens."""
        gae_lambda = self.settings.gae_lambda if self.estimator.reads_lambda else None
        return {"gae_lambda": gae_lambda, "loss_mean": self.objective().loss_mean}

    def _columns(self) -> list[str]:
        """Return the columns of the prompts' data, which a function may read by name."""
        return columns_of(self.rounds.attribute("prompts") or [])

    def check_change(self, changed: PPOSettings) -> None:
        """Refuse what has no effect with the estimator, or is no whole number of groups."""
        check_estimator(self.estimator, changed, self.names_read)
        if changed.group_size is not None:
            check_groups(self.n_envs, changed.group_size)

    def round_options(self) -> dict[str, Any] | None:
        """Return the options of a round's reset: rows in groups that share a prompt."""
        if self.settings.group_size is None:
            return None
        check_groups(self.n_envs, self.settings.group_size)
        return {"group_size": self.settings.group_size}

    # --- one update: SB3's ``train`` --------------------------------------------------------------

    def learn_from(self, played: RolloutBatch) -> None:
        """Assign credit to a round's tokens and update the policy.

        Raises:
            ModelError: if rollout and update disagree about the log-probs of the same tokens.
        """
        stats = self.update(self.assign(played))
        self._alarms.check(
            update=self._n_updates,
            played=self._round,
            clip_fraction=stats.clip_fraction if self.is_clipped else 0.0,
            clip_range=self.objective().clip_range[0],
            group_size=self.settings.group_size,
            learning_rate=self.policy.optimizer.param_groups[0]["lr"],
            kl_coef=self.kl_coef,
            has_critic=self.has_critic,
        )
        if stats.ratio_error > MAX_RATIO_ERROR and self.policy.language_model.is_float32:
            raise ModelError(
                f"before the first gradient step of update {self._n_updates} a token's probability "
                f"ratio is off by {stats.ratio_error:.3g}, log-probs by {stats.log_prob_gap:.3g} "
                "nats: the model decodes to other log-probs than its whole forward gives; use "
                "another model"
            )

    def assign(self, played: RolloutBatch) -> Experience:
        """Turn a round's token rewards into advantages and returns.

        Groups of equal scores, if they are to be dropped, are no rows of the estimator, of weights
        and of the whitening; what is logged of a round is of all. A GPU is waited for once, when
        all that the host has to know of the round is queued.

        Raises:
            ValueError: if the environment pays nothing.
            NonFiniteError: if a token reward is NaN or Inf.
        """
        started, settings = time.perf_counter(), self.settings
        sequences = played.sequences(self.device)
        mask = sequences.response_mask  # (batch, time), as all figures of tokens below
        rewards, paid = self._earned(played, mask.shape[1])  # (batch, time) and (batch,)
        varied = self._varied(played)  # (batch,) on the host
        teaching = varied if varied.any() else np.ones_like(varied)
        counts = mask & sent(torch.from_numpy(teaching), self.device)[:, None]
        read = partial(self.read, sequences, played.action_masks)
        likely = self._likelihoods(played, read)
        if settings.kl_in == "reward" and self.kl_coef != 0.0:  # r_t <- r_t - c KL_t
            rewards = rewards - self.kl_coef * likely.paid_kl
            paid = paid - self.kl_coef * likely.paid_kl.sum(1)
        values, final_values = self._values(played, sequences, read)
        # Functions are asked where the estimator or a weight reads the name.
        given: dict[str, Any] = {
            "token_rewards": rewards,
            "scores": partial(self._raw_scores, played),
            "paid": paid,
            "values": values,
            "final_values": torch.zeros_like(paid) if final_values is None else final_values,
            "log_probs": played.log_probs,
            "old_log_probs": likely.old,
            "entropy": played.entropy,
            "ref_log_probs": likely.ref,
            "ref_entropy": partial(read, name="ref_entropy"),
            "kl": likely.paid_kl,
            "segment_ends": partial(self._segment_ends, played, mask),
            "hidden_states": partial(read, name="hidden_states"),
            "ref_hidden_states": partial(read, name="ref_states"),
            "top_log_probs": partial(read, name="top_log_probs"),
            "generator": self._generator,
        }
        host_mask = sequences.host_mask & teaching[:, None]
        inputs = self._round_inputs(played, (counts, host_mask), given, read)
        advantages, returns, check = self.estimator.queued(inputs)
        # Over the whole batch: SB3 whitens each minibatch, by a mean and a deviation of its own.
        whitened = whitening(advantages, counts)
        asked = {"is_finite": (advantages.isfinite() & returns.isfinite()).all(), **likely.asked}
        asked |= self._figures(played, sequences, likely, values, returns)
        told = read_once({**asked, "std": whitened.std, "is_whole": whitened.is_finite})
        if not told["is_finite"]:
            check()
        advantages, scale = self._whitened(advantages, counts, whitened, told)
        self._log_round(played, sequences, told)
        experience = Experience(
            token_rewards=rewards,
            response_mask=mask,
            values=values,
            paid=paid,
            sequences=sequences,
            action_masks=played.action_masks,
            old_log_probs=likely.old,
            advantages=advantages,
            returns=None if values is None else returns,
            ref_log_probs=likely.ref,
            ref_states=likely.ref_states,
            advantage_scale=scale,
        )
        experience = self._weighed(experience, inputs)
        # Paid already: the update has no use for them, unless its loss reads them.
        if settings.kl_in == "reward" and "ref_log_probs" not in self.policy_loss.reads:
            experience = replace(experience, ref_log_probs=None)
        self.logger.record("time/assign_s", time.perf_counter() - started)
        if not varied.any():  # no group teaches, and the next rounds have others
            experience = replace(experience, advantages=torch.zeros_like(experience.advantages))
        if teaching.all():
            return experience
        return experience.select(torch.from_numpy(np.flatnonzero(teaching)))

    def _likelihoods(self, played: RolloutBatch, read: Callable[..., Tensor]) -> Likelihoods:
        """Return how likely a round's tokens were under the policy and the reference.

        Ziegler et al. pay the sampled log-ratio, "k1"; the exact KL is its mean over the
        vocabulary, in the state before the token.
        """
        assert played.log_probs is not None  # our own sampler gives them all
        settings, asked = self.settings, dict[str, Tensor]()
        # The reference is read once: its states give its log-probs here and the exact KL in every
        # epoch.
        has_exact_kl = settings.kl_estimator == "exact" and self.kl_coef != 0.0
        keeps_states = has_exact_kl and self.processes.keeps_states
        ref_states = read(name="ref_states") if keeps_states else None
        ref = read(name="ref_log_probs", ref_states=ref_states)
        old = played.log_probs
        if settings.old_log_probs == "recomputed":
            old = read(name="log_probs")
            asked["log_prob_gap"] = (old - played.log_probs).abs().max()
        paid_kl = sampled_kl = losses.kl_estimate(old, ref, estimator="k1")
        if settings.kl_in == "reward" and has_exact_kl:
            paid_kl = read(name="kl", ref_states=ref_states)
        return Likelihoods(old, ref, ref_states, paid_kl, sampled_kl, asked)

    def _values(
        self, played: RolloutBatch, sequences: Sequences, read: Callable[..., Tensor]
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the critic's values, (batch, time), and those past truncated rows, (batch,)."""
        if (critic := self.policy.critic) is None:
            return None, None
        # A network of its own reads whole texts once, not a token at a time.
        values = read(name="values") if played.values is None else played.values
        if not played.truncated.any():
            return values, None
        # Bootstrapped, of the text past the last token.
        of_rows, size = self.processes.of_rows, self._max_rows
        after = of_rows(critic.after_responses, sequences, max_size=size)
        return values, after * sent(torch.from_numpy(played.truncated), self.device)

    def _varied(self, played: RolloutBatch) -> NDArray[np.bool_]:
        """Return which rows are of groups whose scores differ, (batch,); all if none is dropped."""
        size = self.settings.group_size
        if not self.settings.drop_equal_groups or size is None:
            return np.ones(len(played.episodes), dtype=np.bool_)
        varied = losses.varied_groups(torch.from_numpy(scores_of(played.episodes)), size).numpy()
        self.logger.record("train/groups_kept", float(varied.mean(dtype=np.float32)))
        return np.asarray(varied)

    def _round_inputs(
        self,
        played: RolloutBatch,
        masks: tuple[Tensor, NDArray[np.bool_]],
        given: dict[str, Any],
        read: Callable[..., Tensor],
    ) -> RoundInputs:
        """Return the names of a round's tokens, each computed when it is asked for.

        The mask of the tokens that count, (batch, time), is given with its copy on the host.
        """
        continuations = None
        if "continue_from" in self.names_read:
            continuations = PolicyContinuations(self.env, self, seed=self._seed_of_update)
        return RoundInputs(
            masks[0],
            given,
            settings=self.settings,
            episodes=played.episodes,
            scorer=self.reward.scorer,
            tokenizer=self._tokenizer,
            host_mask=masks[1],
            reads=self.names_read,
            shape=partial(self.as_sampled, played.action_masks),
            models=self.policy,
            read=read,
            continuations=continuations,
        )

    def _weighed(self, experience: Experience, inputs: RoundInputs) -> Experience:
        """Return the round with its advantages weighed, and with what its loss reads."""
        advantages = experience.advantages
        inputs.give("advantages", advantages)
        if self.weight is not None:
            advantages = advantages * self.weight.weigh(inputs)
            inputs.give("advantages", advantages)
        of_round = self.policy_loss.arguments(inputs, self.policy_loss.of_round)
        named = {name: inputs.whole(value) for name, value in of_round.items()}
        continuations: Any = inputs.continuations
        if continuations is not None:
            self.num_timesteps += continuations.count_tokens()
        return replace(experience, advantages=advantages, named=named)

    def _generator(self) -> torch.Generator:
        """Return a source of draws of this update."""
        return torch.Generator().manual_seed(self._seed_of_update)

    @property
    def _seed_of_update(self) -> int:
        return (self.seed or 0) * 1_000_003 + self._n_updates

    def _raw_scores(self, played: RolloutBatch) -> Tensor:
        """Return what the scorer said of each response, (batch,); nan where it said nothing."""
        values = [np.nan if e.raw_score is None else e.raw_score for e in played.episodes]
        return sent(torch.tensor(values, dtype=torch.float32), self.device)

    def update(self, experience: Experience) -> UpdateStats:
        """Take the gradient steps of one update and move the KL coefficient.

        Raises:
            NonFiniteError: if a loss or gradient is NaN or Inf.
        """
        started, settings, record = time.perf_counter(), self.settings, self.logger.record
        rate = self._learning_rate()
        update_learning_rate(self.policy.optimizer, rate)
        record("train/learning_rate", rate)
        record("train/clip_range", self.objective().clip_range[0])
        size = len(experience.response_mask)
        num_minibatches = min(settings.n_minibatches, size)
        # Whole responses, never parts of them: (rows,) of each step, shuffled anew each epoch.
        steps = GradientSteps(
            self.policy.optimizer,
            self.processes,
            max_grad_norm=settings.max_grad_norm,
            target_kl=settings.target_kl,
        )
        passed: list[tuple[Tensor, str]] = []  # the rows of each step, and its place
        for epoch in range(settings.n_epochs):
            order = torch.randperm(size, generator=self.shuffler)
            where = f"update {self._n_updates}, epoch {epoch}, timestep {self.num_timesteps}"
            for rows in order.tensor_split(num_minibatches):
                passed.append((rows, where))
                steps.take(self.backward(experience.select(rows)))
                if steps.is_over():
                    break
            if epoch + 1 < settings.n_epochs and steps.is_over(ends_epoch=True):
                break
        taken = steps.read()
        if taken.fault is not None:
            number, figure = taken.fault
            rows, where = passed[number]
            if not figure:  # the weights are still those of before the step
                self.backward(experience.select(rows))
                figure = self._gradient_fault()
            raise NonFiniteError(f"{figure} at {where}; {REMEDY}")
        self._n_updates += 1
        record("train/n_updates", self._n_updates)
        if settings.target_kl is not None:
            num_taken = len(taken.norms) / (settings.n_epochs * num_minibatches)
            record("train/steps_skipped", 1.0 - num_taken)
        if taken.norms:
            record("train/grad_norm", float(np.mean(taken.norms)))
        stats = self._log_update(taken.minibatches)
        # While the values alone learn, the KL says nothing of the price.
        if settings.kl_target is not None and self._n_updates > settings.n_value_warmup:
            kl_coef = losses.adaptive_kl_coef(
                self.kl_coef,
                self._kl,
                target=settings.kl_target,
                horizon=settings.kl_horizon,
                n_steps=self._round.num_finished,  # not fewer where equal groups are dropped
            )
            self.change(kl_coef=kl_coef)
        record("time/update_s", time.perf_counter() - started)
        return stats

    def backward(self, minibatch: Experience) -> list[FigureTensors]:
        """Take the gradient of a minibatch's loss; return figures of this process's parts of it.

        Those of all parts add up to the minibatch's. They stay on the device: a GPU that waits for
        the host between a forward and its backward has nothing to do.
        """
        # Responses of similar length are passed over together, which saves padding. Each part
        # divides by the whole minibatch's tokens, so that the gradients add up to the minibatch's.
        count, rows = minibatch.sequences.num_tokens, len(minibatch.response_mask)
        parts: list[FigureTensors] = []
        self.policy.optimizer.zero_grad(set_to_none=True)
        own_rows = [torch.arange(rows)]  # a loss that compares rows is shown all of them
        if self.policy_loss.by_row:
            own_rows = self.processes.own_rows(minibatch, self.settings.micro_batch_size)
        for own in own_rows:
            part = minibatch.select(own)
            whole = torch.zeros((), dtype=torch.float32, device=self.device)
            figures: FigureTensors = {}
            # Term by term, each with its backward: two networks' states are never held at once.
            for loss, of_term in self.loss_terms(part, count, rows):
                figures |= of_term
                whole += loss.detach()
                loss.backward()
            parts.append({**figures, "loss": whole})
        self.processes.add_gradients(self.policy)
        return parts

    def loss_terms(
        self, part: Experience, count: int, rows: int
    ) -> Iterator[tuple[Tensor, FigureTensors]]:
        """Yield terms of the loss, () each, of some of a minibatch, that share no weights.

        loss = L_policy + vf_coef * L_value - ent_coef * H + kl_coef / advantage_scale * KL

        each a mean over the ``count`` tokens of the whole minibatch of ``rows`` responses, so that
        the losses of its parts add up to its own; L_policy and KL take ``loss_mean``. What papers
        change of it is resolved in `objective`.

        Where the value has a network of its own it is read when its term is asked for. A caller
        that takes the gradient of the first term before that never holds both networks' states.
        """
        goal, policy, mask = self.objective(), self.policy, part.response_mask  # (batch, time)
        now = policy.evaluate(  # figures of tokens, (batch, time)
            part.sequences,
            part.action_masks,
            with_entropy=goal.ent_coef != 0.0 or "entropy" in self.policy_loss.reads,
            with_kl=goal.kl_coef != 0.0 and goal.kl_estimator == "exact",
            with_values=goal.reads_values,
            ref_states=part.ref_states,
            value_head_only=goal.values_alone,
        )
        weights = None  # of each token in the mean, (batch, time); None: 1 / count
        if goal.loss_mean != "token":
            horizon = self.rounds.max_new_tokens or self.policy.max_length
            weights = losses.loss_weights(mask, goal.loss_mean, rows=rows, horizon=horizon)
        low, high = goal.clip_range
        of_step = {
            "log_probs": now.log_probs,
            "old_log_probs": part.old_log_probs,
            "advantages": part.advantages,
            "entropy": now.entropy,
            "ref_log_probs": part.ref_log_probs,
            "clip_range": low,
            "clip_range_high": high,
        }
        host_mask = part.sequences.host_mask
        step = RoundInputs(
            mask, {**of_step, **part.named}, settings=self.settings, host_mask=host_mask
        )
        per_token, reported = self.policy_loss.per_token(step, part.named)
        loss: Any = losses.masked_mean(per_token, mask, count=count, weights=weights)
        figures = {"policy_loss": loss.detach()}
        figures |= {f"{OF_LOSS}{name}": one.sum() / rows for name, one in reported.items()}
        # Entropy bonus, of the distribution that the token was drawn from.
        if now.entropy is not None and goal.ent_coef != 0.0:
            loss = loss - goal.ent_coef * losses.masked_mean(now.entropy, mask, count=count)
        # KL to the reference. Whitening has divided the advantages by their deviation: the price is
        # divided by it too, and so stays in the unit of the rewards.
        kl = now.kl
        if goal.kl_coef != 0.0:
            if kl is None:  # an estimate from the sampled tokens
                assert part.ref_log_probs is not None
                kl = losses.kl_estimate(
                    now.log_probs, part.ref_log_probs, estimator=goal.kl_estimator
                )
            kl_mean = losses.masked_mean(kl, mask, count=count, weights=weights)
            loss = loss + goal.kl_coef / part.advantage_scale * kl_mean
        figures |= movement(now.log_probs, kl, part, goal, count, rows)
        # Value loss, of the policy's states or of a network of its own, whose term is apart. It is
        # half the squared error (SB3 does not halve it), and of two the larger where it is clipped.
        values = now.values
        if values is None and policy.critic is not None:
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
            figures["value_loss"] = value_loss.detach()
            loss = goal.vf_coef * value_loss + (0.0 if goal.values_alone else loss)
        yield loss, figures

    def objective(self) -> Objective:
        """Return the loss of the update that is next, with what papers change of PPO's resolved."""
        settings, progress = self.settings, self._current_progress_remaining
        critic, values_alone = self.policy.critic, self._n_updates < settings.n_value_warmup
        low, high = FloatSchedule(settings.clip_range)(progress), settings.clip_range_high
        of_values, mean = settings.clip_range_vf, settings.loss_mean
        # With the price in the reward, the exact KL's direct gradient is a term of the loss too.
        is_in_loss = settings.kl_in == "loss" or settings.kl_estimator == "exact"
        return Objective(
            clip_range=(low, low if high is None else high),
            clip_range_vf=None if of_values is None else FloatSchedule(of_values)(progress),
            ent_coef=settings.ent_coef,
            vf_coef=settings.vf_coef,
            kl_coef=self.kl_coef if is_in_loss else 0.0,
            kl_estimator=settings.kl_estimator,
            loss_mean=(
                self.policy_loss.loss_mean or self.estimator.loss_mean if mean == "auto" else mean
            ),
            values_alone=values_alone,
            reads_values=values_alone or critic is None or critic.network is None,
        )

    # --- parts of the update ----------------------------------------------------------------------

    def _learning_rate(self) -> float:
        """Return the learning rate of the update that is next."""
        settings = self.settings
        rate = self.lr_schedule(self._current_progress_remaining)
        if settings.learning_rate_schedule == "linear" and not callable(settings.learning_rate):
            rate *= self.remaining
        # The policy's first step is as large as the rate, whatever the values have learned before.
        before = settings.n_value_warmup if self._n_updates >= settings.n_value_warmup else 0
        return rate * min(1.0, (self._n_updates - before + 1) / (settings.n_warmup_updates + 1))

    def _earned(self, played: RolloutBatch, time: int) -> tuple[Tensor, Tensor]:
        """Return a round's token rewards, (batch, time), and what each row is paid, (batch,)."""
        settings, estimator = self.settings, self.estimator
        place = f"update {self._n_updates}, timestep {self.num_timesteps}"
        rewards = token_rewards_of(played.episodes, time, place)
        if not rewards.any() and self.reward.pays_nothing:
            raise ValueError(NO_REWARD)
        if not estimator.uses_token_rewards and ((rewards != 0).sum(1) > 1).any():
            self._alarms.warn(
                "dense",
                f"advantage={estimator.name!r} reads the score of a whole response and not the "
                "token rewards: its updates are those of the sparse reward; 'loo' and "
                "'reinforce++' see the credit",
            )
        # `mc` declares 0, since its rewards are advantages: that holds whatever the lengths are.
        declared = settings.gae_lambda if "gae_lambda" in self.decided else None
        if declared and (traits := self.reward.traits) is not None:
            self._alarms.check_lambda(declared, traits.credit, played.episodes)
        scores = torch.from_numpy(scores_of(played.episodes))
        return sent(torch.from_numpy(rewards), self.device), sent(scores, self.device)

    def _whitened(
        self,
        advantages: Tensor,
        mask: Tensor,
        whitened: Whitening,
        told: Mapping[str, NDArray[np.floating]],
    ) -> tuple[Tensor, float]:
        """Return advantages, (batch, time), and what they were divided by, reward units.

        The whitened ones were queued before the host knew whether they hold.
        """
        if not self.estimator.whitens:
            return advantages, 1.0
        if told["is_whole"]:
            return whitened.whitened, float(told["std"])
        return losses.masked_whiten(advantages, mask), losses.masked_std(advantages, mask).item()

    def _segment_ends(self, played: RolloutBatch, mask: Tensor) -> Tensor:
        """Return the place of the last token that is paid with each token, (batch, time)."""
        ends = self.reward.segment_ends(played.episodes, mask.shape[1])
        return sent(torch.from_numpy(ends), mask.device)

    def read(
        self,
        sequences: Sequences,
        action_masks: ActionMasks | None,
        name: TokenStat,
        ref_states: Tensor | None = None,
        tokens: Sequence[int] = (),
    ) -> Tensor:
        """Return a figure of a round's tokens, (batch, time), without gradient.

        ``ref_states``, (batch, time, hidden), were read before; None computes them again.
        "log_probs_of" reads those of ``tokens``.
        """
        how: Any = {"name": name, "ref_states": ref_states, "max_size": self._max_rows}
        how |= {"tokens": tokens} if tokens else {}
        return self.processes.of_rows(self.policy.token_stats, sequences, action_masks, **how)

    def as_sampled(self, action_masks: ActionMasks | None, logits: Tensor, row: int) -> Tensor:
        """Return any model's logits before a row's tokens, (time, vocab), as the policy samples.

        Raises:
            SettingsError: if another process has the row's masks.
        """
        mask = None
        if action_masks is not None:
            if not action_masks.has_all:
                raise SettingsError(
                    "a model that advantage= or weights= reads is shaped by top_k or top_p as the "
                    "policy is, and each process has these masks of its own rows alone; train in "
                    "one process, or leave top_k and top_p out"
                )
            times = torch.arange(len(logits), device=action_masks.index.device)
            mask = action_masks.at(torch.full_like(times, row), times).to(logits.device)
        size, temperature = self.policy.num_actions, self.policy.temperature
        return shape_logits(logits, temperature=temperature, action_mask=mask, num_actions=size)

    @property
    def _max_rows(self) -> int:
        """Most texts in a forward pass without gradients."""
        return min(MAX_ROWS_WITHOUT_GRADIENT, self.settings.micro_batch_size or sys.maxsize)

    def _gradient_fault(self) -> str:
        """Return which gradient is not finite, or the largest if only the norm is not."""
        sizes = {
            name: parameter.grad.abs().max().item()
            for name, parameter in self.policy.named_parameters()
            if parameter.grad is not None
        }
        for name, size in sizes.items():
            if not np.isfinite(size):
                return f"the gradient of {name} is not finite"
        name, size = max(sizes.items(), key=lambda entry: entry[1])
        return f"the gradient norm overflows (largest entry {size:.3g}, in {name})"

    # --- the log ----------------------------------------------------------------------------------

    def _figures(
        self,
        played: RolloutBatch,
        sequences: Sequences,
        likely: Likelihoods,
        values: Tensor | None,
        returns: Tensor,
    ) -> dict[str, Tensor]:
        """Return what the log says of a round, on the device.

        Values and returns are (batch, time), reward units.
        """
        paid, sampled = likely.paid_kl.sum(1), likely.sampled_kl.sum(1)  # of each response, nats
        assert played.entropy is not None
        entropy = played.entropy.masked_fill(~sequences.response_mask, 0.0).sum()
        figures = {"kl": paid.mean(), "kl_sampled": sampled.mean(), "entropy": entropy}
        if len(paid) > 1:
            figures["kl_deviation"] = paid.std()
        return figures if values is None else {**figures, "values": values, "returns": returns}

    def _log_round(
        self, played: RolloutBatch, sequences: Sequences, told: Mapping[str, NDArray[np.floating]]
    ) -> None:
        """Record the round's figures, and the KL for the update and the alarms.

        Args:
            played: The round.
            sequences: Its texts.
            told: What `_figures` returned, on the host.
        """
        record = self.logger.record
        mask = sequences.host_mask
        count, tokens = len(played.episodes), sequences.num_tokens
        raw = [e.raw_score for e in played.episodes if e.raw_score is not None]
        if "log_prob_gap" in told:
            self._log_prob_gap = float(told["log_prob_gap"])
        self._round = stats = RoundStats(
            scores=raw,
            kl=float(told["kl"]),
            kl_error=float(told["kl_deviation"]) / count**0.5 if count > 1 else np.nan,
            num_finished=count,
            tokens_per_row=tokens / count,
        )
        record("rollout/score", float(np.mean(raw)))  # the scorer's own
        entropy = float(told["entropy"]) / tokens
        record("train/entropy", entropy)
        record("train/entropy_loss", -entropy)
        self._log_kl(stats.kl)
        record("train/kl_sampled", float(told["kl_sampled"]))
        record("train/kl_coef", self.kl_coef)
        if self.estimator.reads_lambda:
            record("train/gae_lambda", self.settings.gae_lambda)
        if "values" in told:
            learned = explained_variance(told["values"][mask], told["returns"][mask])
            record("train/explained_variance", float(learned))

    def _log_kl(self, kl: float) -> None:
        """Record the mean KL of a response that is paid for, which the coefficient follows."""
        self._kl = kl
        self.logger.record("train/kl", kl)

    def _log_update(self, minibatches: list[list[Figures]]) -> UpdateStats:
        """Record and return an update's figures, of those of the parts of each minibatch."""
        stats, record = UpdateStats.of(minibatches), self.logger.record
        if self.settings.kl_in == "loss" and self.kl_coef != 0.0:
            self._log_kl(stats.kl)  # paid in each gradient step, not before them
        record("train/policy_gradient_loss", stats.policy_loss)  # as SB3's PPO calls it
        if self.has_critic:
            record("train/value_loss", stats.value_loss)
        for name in ("loss", "approx_kl", "ratio_error"):
            record(f"train/{name}", getattr(stats, name))
        if self.is_clipped:
            record("train/clip_fraction", stats.clip_fraction)
        for name, value in stats.of_loss.items():
            record(f"train/{name}", value)
        record("train/log_prob_gap", max(stats.log_prob_gap, self._log_prob_gap))
        return stats
