"""Base class of learners from whole episodes, on Stable-Baselines3."""

import logging
import math
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from numbers import Integral, Real
from operator import attrgetter
from typing import Any, ClassVar, TypeVar

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.logger import HumanOutputFormat, KVWriter, Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import MaybeCallback, Schedule
from stable_baselines3.common.utils import get_system_info
from stable_baselines3.common.vec_env import VecEnv

from tokengym.agents.contract import Update
from tokengym.agents.policy.adapters import warn_of_dropout
from tokengym.agents.policy.language_model import warn_of_ends
from tokengym.agents.policy.memory import Texts, line_of_needs, memory_to_train
from tokengym.agents.policy.policy import CausalLMPolicy, PlaysPolicy
from tokengym.agents.policy.sampling import derived_seed
from tokengym.agents.policy.settings import EpisodicSettings, PolicySettings
from tokengym.agents.processes import Processes, join
from tokengym.agents.rollouts.given import bind_policy
from tokengym.agents.rollouts.layers import check_learnable
from tokengym.agents.rollouts.logs import check_tracker, write_failed_round
from tokengym.agents.rollouts.playing import RolloutBatch, SampledTokens, play_round
from tokengym.agents.rollouts.rounds import (
    Environments,
    RoundEnvironment,
    RoundReward,
    StepResult,
    as_rounds,
    environment_attribute,
)
from tokengym.agents.saving import TrainingState, load_checkpoint, present_state, save_checkpoint
from tokengym.agents.sb3 import NoEnvironment, as_vec_env
from tokengym.agents.sb3.progress import LastLogRow, TokenProgressBar
from tokengym.base.device import check_learning, drawn_from, select_device
from tokengym.base.errors import SettingsError
from tokengym.base.packed import Place
from tokengym.base.settings import (
    answers_keywords,
    from_keywords,
    names_of,
    shown_signature,
)
from tokengym.rewards import RewardError, RewardModel

logger = logging.getLogger(__name__)
Self = TypeVar("Self", bound="EpisodicAlgorithm")

ROWS = 64
"""Rows of the environment that is made of an id, and so episodes per update, as a run has them."""
SB3_SETTINGS = ("gamma", "gae_lambda", "ent_coef", "vf_coef", "max_grad_norm")
"""Settings that SB3's ``OnPolicyAlgorithm`` keeps as well."""


NONE_LEFT = (
    "so that there is nothing to learn from; pass on_error='raise' of a judge that fails, or "
    "on_partner_error='raise', to see why; a scorer that gives None says that it has no score"
)


class EpisodicAlgorithm(PlaysPolicy, OnPolicyAlgorithm):
    """Base of learners from whole episodes, as a Stable-Baselines3 algorithm.

    A subclass says in `learn_from` what a round teaches. Where SB3 keeps steps in a
    ``RolloutBuffer``, episodes stay sequences. A learner's settings are one frozen dataclass, named
    in ``settings_class``: its fields are the constructor's keywords, entries of a checkpoint, and
    attributes of the agent. Assigning such an attribute is `change`.

    Args:
        policy: "CausalLMPolicy" or a subclass of it.
        env: A Gymnasium ``VectorEnv`` or ``Env``, an SB3 ``VecEnv``, or an id, of which a batch of
            64 is made. One update plays one episode per row.
        learning_rate: A number or a schedule over the remaining progress, 1 to 0; None takes the
            settings' default.
        tensorboard_log: Folder for TensorBoard, or None.
        policy_kwargs: Arguments of `CausalLMPolicy`; without ``model`` the environment's bundled
            one is taken.
        verbose: 0 silent, 1 prints the log.
        stats_window_size: Episodes that the means of the log are over; None takes those of one
            update.
        seed: Seeds sampling, shuffling, new weights and the environment's next reset; global random
            state is not touched.
        device: "auto", "cpu", "cuda", ...
        settings: Fields of ``settings_class``.

    Raises:
        SettingsError: if a setting is out of range.
        TypeError: if a keyword is no setting.
        ModelError, TokenizerError: if the model does not fit.

    Example: REINFORCE, whole, in docs/guide/own_code.md.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"CausalLMPolicy": CausalLMPolicy}
    settings_class: ClassVar[type[EpisodicSettings]] = EpisodicSettings
    """Declares the learner's settings."""
    has_critic: bool = True
    """Whether the policy has a value function."""
    built_in: ClassVar[frozenset[str]] = frozenset({*names_of(PolicySettings), "advantage"})
    """Settings that an agent is built by: assigned later, they would do nothing."""
    policy: CausalLMPolicy  # type: ignore[assignment]
    settings: Any
    """The settings, an instance of ``settings_class``."""
    decided: frozenset[str] = frozenset()
    """Names of the settings that nobody gave and the environment decided: another environment
    decides anew."""
    learned_from: str | None = None
    """The reward that the environment pays, such as ``sparse(RewardModel(reward_model))``, or that
    which a loaded agent without one had; None if that is not known."""
    env: VecEnv
    """The environment; of an agent that was loaded to predict, `NoEnvironment`."""
    rounds: RoundEnvironment
    """The environment, as rounds of one episode per row."""
    processes: Processes
    """This process among those that train the agent."""
    shuffler: torch.Generator
    """Source of the order of a round's rows in the updates."""
    last_round: RolloutBatch | None = None
    """The round that `collect` played last; for callbacks, in ``on_rollout_end``."""
    _round_start: TrainingState | None = None
    """State before the round that is being played, or after it while it is learned from, which a
    checkpoint keeps; None where it is the present one."""
    remaining: float = 1.0
    """Share of the training that was left when the round began, 1 to above 0: of the present call
    of `learn`, or of a run's steps or tokens."""
    learning_since: int = -1
    """``num_timesteps`` at the beginning of the call of `learn` that is not finished, which a call
    with ``reset_num_timesteps=False`` continues; -1 if there is none."""
    kl_coef: float
    """Price of a nat of KL, where the settings have one; an adaptive one changes."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.__signature__ = shown_signature(EpisodicAlgorithm.__init__, cls.settings_class)  # type: ignore[attr-defined]
        for name in names_of(cls.settings_class):
            setattr(cls, name, _attribute(name))

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
        **settings: Any,
    ) -> None:
        if learning_rate is not None:
            settings["learning_rate"] = learning_rate
        name = type(self).__name__
        if isinstance(env, str):
            env = gym.make_vec(env, num_envs=ROWS)
        self._check_arguments(policy, policy_kwargs, seed, stats_window_size)
        check_learnable(env, name)
        envs = as_vec_env(env)
        self.rounds = as_rounds(envs)
        self.note_reward(None)
        self.settings = from_keywords(
            self.settings_class, settings, owner=name, others=("policy_kwargs", "seed", "device")
        )
        policy_kwargs = dict(policy_kwargs or {})
        for field in names_of(PolicySettings):
            if hasattr(self.settings, field):  # a setting of the learner that its policy has too
                policy_kwargs[field] = getattr(self.settings, field)
        self.check_settings()
        self.check_supply()
        self.decide_settings()
        device = select_device(device)
        self._only_plays = isinstance(envs, NoEnvironment)
        self.processes = Processes() if self._only_plays else join(device)
        kept_by_sb3: Any = {field: getattr(self.settings, field, 1.0) for field in SB3_SETTINGS}
        super().__init__(
            policy,  # type: ignore[arg-type]
            envs,
            self.settings.learning_rate,
            n_steps=1,  # not used: a rollout is one episode per row, whatever its length
            **kept_by_sb3,
            use_sde=False,
            sde_sample_freq=-1,
            tensorboard_log=tensorboard_log if self.processes.is_main else None,
            policy_kwargs=policy_kwargs,
            verbose=verbose if self.processes.is_main else 0,
            seed=seed,
            device=device,
            _init_setup_model=False,
        )
        self.stats_window_size = stats_window_size
        self._stats_window_size = stats_window_size or self.processes.count * self.n_envs
        self._setup_model()
        self.processes.prepare(self)
        options = self.round_options()  # or says at once that no round could begin with them
        if not self._only_plays:
            self.rounds.check_options(options)

    def _check_arguments(
        self, policy: object, policy_kwargs: object, seed: object, stats_window_size: object
    ) -> None:
        """Refuse a policy that is no language model, and what is no dictionary or number."""
        name, keywords = type(self).__name__, policy_kwargs or {}
        if not isinstance(keywords, Mapping):
            raise SettingsError(
                f"policy_kwargs must be a dictionary, got {policy_kwargs!r}; pass such as "
                "dict(model='smollm2')"
            )
        if "has_critic" in keywords:
            raise ValueError(
                f"has_critic={keywords['has_critic']!r} in policy_kwargs has no effect, the "
                "estimator of advantages decides it; leave it out"
            )
        for setting in names_of(self.settings_class):
            if setting in keywords:
                raise ValueError(f"{setting} is a setting of {name}; pass it beside policy_kwargs")
        _check_counts(seed=(seed, 0), stats_window_size=(stats_window_size, 1))
        is_class = isinstance(policy, type) and issubclass(policy, CausalLMPolicy)
        if not is_class and not (isinstance(policy, str) and policy in self.policy_aliases):
            is_module = isinstance(policy, torch.nn.Module)  # whose repr has a line for each layer
            raise SettingsError(
                "policy must be 'CausalLMPolicy' or a subclass of it, got "
                f"{type(policy).__name__ if is_module else repr(policy)}; pass a model by "
                f"policy_kwargs=dict(model=...), or take stable_baselines3.{name}"
            )

    @classmethod
    def data_columns(cls, settings: Any) -> list[str]:
        """Return the columns of the data that functions among the settings read, by their names."""
        del settings
        return []

    def check_settings(self) -> None:
        """Refuse settings that contradict each other; called before anything is built."""

    def check_supply(self) -> None:
        """Refuse an environment that lacks what is read; called again with another environment."""

    def decide_settings(self) -> None:
        """Settle by the environment what nobody gave; called again with another environment."""

    def note_reward(self, learned_from: str | None) -> None:
        """Keep which reward the environment pays; say if it is not the one that was learned from.

        Args:
            learned_from: That reward, None if there is none or it is not known.
        """
        traits = self.rounds.reward.traits
        paid = None if traits is None else traits.name
        if learned_from is not None and paid not in (None, learned_from):
            logger.warning(
                "the agent learned from %s; this environment pays %s", learned_from, paid
            )
        self.learned_from = paid or learned_from

    def check_change(self, changed: Any) -> None:
        """Refuse the settings that `change` would make, if they contradict each other."""

    def change(self, **settings: Any) -> None:
        """Replace settings by others, which are checked.

        Args:
            settings: Fields of ``settings_class``.

        Raises:
            SettingsError: if a value is out of range, contradicts another setting, or the agent was
                built by that setting.
        """
        present = {name: getattr(self.settings, name) for name in settings}
        # SB3's constructor hands back what it got.
        others = {name: v for name, v in settings.items() if v is not present[name]}
        changed = replace(self.settings, **others)
        for name in others.keys() & self.built_in:
            raise SettingsError(
                f"{name}={present[name]!r} is what the agent was built by, got {others[name]!r}; "
                f"make a new one, or {type(self).__name__}.load(path, env=envs, {name}=...)"
            )
        if others:
            self.check_change(changed)
        self.settings = changed
        self.decided -= others.keys()
        if "learning_rate" in others:
            self._setup_lr_schedule()
        if None in others.values():
            self.decide_settings()

    # --- the loop over updates --------------------------------------------------------------------

    def learn_from(self, played: RolloutBatch) -> None:
        """Update the policy from one round; a subclass defines it."""
        raise NotImplementedError

    @answers_keywords
    def learn(
        self: Self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 1,
        tb_log_name: str = "run",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Update until ``total_timesteps`` response tokens have been sampled; see `updates`.

        Args:
            total_timesteps: Tokens; the update that passes them is finished.
            callback: SB3 callback(s).
            log_interval: Updates between two rows of the log; None writes none.
            tb_log_name: Name of the TensorBoard run.
            reset_num_timesteps: False continues counting; ``total_timesteps`` are added on top.
            progress_bar: Show one.

        Returns:
            The agent itself.

        Raises:
            SettingsError: if the number of tokens is no number, or negative.
        """
        _check_learning(total_timesteps, callback, log_interval)  # None would have no end
        how: Any = {"reset_num_timesteps": reset_num_timesteps, "progress_bar": progress_bar}
        for _ in self.updates(total_timesteps, callback, log_interval, tb_log_name, **how):
            pass
        return self

    @answers_keywords
    def updates(
        self,
        total_timesteps: int | None = None,
        callback: MaybeCallback = None,
        log_interval: int | None = 1,
        tb_log_name: str = "run",
        *,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Iterator[Update]:
        """Yield after each update: a round of one episode per row, and what it teaches.

        Between two updates the agent may be played, measured and saved, and the loop may be left.
        The arguments are those of `learn`, but without ``total_timesteps`` the caller ends the loop
        and says in ``remaining``, before each update, what share of the training is left.

        Yields:
            The number of the update in this call, from 1, the tokens sampled so far, and the row of
            the log, if one was written.

        Raises:
            SettingsError: if the number of tokens is no number, or negative.
        """
        has_budget = total_timesteps is not None
        total_timesteps = sys.maxsize if total_timesteps is None else total_timesteps
        _check_learning(total_timesteps, callback, log_interval)
        total_timesteps, callback = self._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
        )
        callback.on_training_start(locals(), globals())
        log, formats = LastLogRow(), self.logger.output_formats
        formats.append(log)
        iteration, span = 0, total_timesteps - self.learning_since
        try:
            while self.num_timesteps < total_timesteps:
                if has_budget:
                    self.remaining = (total_timesteps - self.num_timesteps) / span
                played = self.collect(callback)
                if played is None:
                    break
                if has_budget:  # the last round ends past the tokens that were asked for
                    left = 1.0 - float(self.num_timesteps) / float(total_timesteps)
                    self._current_progress_remaining = max(left, 0.0)
                else:
                    self._current_progress_remaining = self.remaining
                # What is saved after an interrupted update has weights that this round has moved.
                self._round_start = self._start_of_next_round()
                self.learn_from(self.scored(played))
                self._round_start = None
                iteration += 1
                if log_interval is not None and iteration % log_interval == 0:
                    self.dump_logs(iteration)
                yield Update(
                    step=iteration,
                    tokens=self.num_timesteps,
                    agent=self,
                    figures=log.take(),
                    settled=self.settled,
                )
        except GeneratorExit:  # the caller has left the loop
            callback.on_training_end()
            raise
        finally:
            formats.remove(log)  # also where a callback has set another logger meanwhile
        if self.num_timesteps >= total_timesteps:
            self.learning_since = -1
        if self.processes.count > 1:
            self._round_start = self._start_of_next_round()
        callback.on_training_end()

    def _start_of_next_round(self) -> TrainingState | None:
        """Return the state between two rounds where a checkpoint could not read it by itself.

        Several processes take part in it, all of them here: the main one may then save alone.
        """
        return present_state(self) if self.processes.count > 1 else None

    def _setup_learn(
        self,
        total_timesteps: float,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        """Set logger and callbacks up; return ``num_timesteps`` at the end, and the callback.

        Raises:
            SettingsError: if nothing can be learned, or TensorBoard is asked for and not installed.
        """
        if self.tensorboard_log is not None and not self._custom_logger:
            check_tracker("tensorboard", given=f"tensorboard_log={self.tensorboard_log!r}")
        check_learning(self.policy.trained_parameters())
        self.policy.warn_before_learning(self.lr_schedule(1.0))
        self.policy.warn_of_unfrozen()
        if self.device.type == "cuda" and self.processes.is_main:
            with suppress(AttributeError):  # a family whose config has names of its own trains too
                # What is less than a warning is not shown.
                logger.warning(self.memory_line(torch.cuda.mem_get_info(self.device)[1]))
        is_logged = self._custom_logger or self.tensorboard_log is not None
        if not is_logged:  # SB3 would leave an empty temporary folder for each training
            formats: list[KVWriter] = [HumanOutputFormat(sys.stdout)] if self.verbose else []
            self.set_logger(Logger(folder=None, output_formats=formats))
        is_reset = reset_num_timesteps or self._last_obs is None  # by Stable-Baselines3
        # A number such as 1e5 is a float, and what a checkpoint keeps is a count.
        budget, callback = super()._setup_learn(
            math.ceil(total_timesteps), callback, reset_num_timesteps, tb_log_name
        )
        if is_reset:
            last_observation: Any = self._last_obs
            self.rounds.keep_reset(last_observation)
        self._custom_logger = is_logged and self._custom_logger
        if progress_bar and self.processes.is_main:
            bar = TokenProgressBar()
            bar.init_callback(self)
            callback = CallbackList([callback, bar])
            callback.model = self  # its init_callback would initialise the caller's once more
        if reset_num_timesteps or not 0 <= self.learning_since <= self.num_timesteps:
            self.learning_since = self.num_timesteps
        return budget, callback

    def memory_line(self, room: float) -> str:
        """Return in one line how much of ``room`` bytes training will need, and for what."""
        settings, scorer = self.settings, self.reward.scorer
        minibatch = -(-self.n_envs // getattr(settings, "n_minibatches", 1))
        length = self.policy.max_length
        texts = Texts(
            rows=self.n_envs,
            length=length,
            new_tokens=environment_attribute(self.env, "max_new_tokens") or length,
            micro_batch_size=getattr(settings, "micro_batch_size", None) or minibatch,
        )
        needed = memory_to_train(
            self.policy,
            texts,
            exact_kl=getattr(settings, "kl_estimator", "") == "exact" and self.kl_coef != 0.0,
            reward_model=scorer.model if isinstance(scorer, RewardModel) else None,
        )
        return line_of_needs(needed, room)

    # --- one round --------------------------------------------------------------------------------

    def collect(self, callback: BaseCallback | None = None) -> RolloutBatch | None:
        """Play one episode per row with the policy as it is.

        Args:
            callback: Its ``on_step`` is called after every environment step.

        Returns:
            The round, or None if the callback ended the training.

        Raises:
            RewardError: if the scorer fails; its ``episodes`` are those of the round that had
                ended, and an `EpisodeLog` has them too. The policy is as it was before the round.
        """
        # A checkpoint that is written meanwhile has the state before the round.
        self._round_start = present_state(self)
        if callback is None:
            callback = CallbackList([])
            callback.init_callback(self)
        self.policy.optimizer.zero_grad(set_to_none=True)  # a rollout has a use for the memory
        started, rounds, processes = time.perf_counter(), self.rounds, self.processes
        scored = rounds.reward.seconds
        options = self.round_options()
        tokens_before = self.num_timesteps
        continuations = None
        if rounds.reward.of_policy:  # its credit continues responses, as ``mc`` does
            seed = derived_seed(self.policy.generator)
            continuations = bind_policy(self.env, self, seed=seed)
        ended: dict[int, dict[str, Any]] = {}  # infos of the episodes that ended, by row
        callback.on_rollout_start()
        try:
            played = play_round(
                self.policy.sampler(self.policy.generator),
                rounds,
                options=options,
                on_step=partial(self._on_step, callback, ended),
                keep_round=lambda is_playing: all(processes.gather(is_playing)),
            )
        except RewardError as error:
            write_failed_round(callback, error)
            raise
        if played is not None:
            self.logger.record("time/step_s", played.env_seconds)  # the environment's share
            if continuations is not None:
                self.num_timesteps += continuations.count_tokens()
            for row, episode in enumerate(played.episodes):  # scored only now
                ended[row]["episode"]["r"] = math.nan if episode.score is None else episode.score
            infos = [ended[row] for row in range(self.n_envs)]
            paid = [info for info in infos if not math.isnan(info["episode"]["r"])] or infos
            self._update_info_buffer(paid, np.ones(len(paid), bool))
            callback.update_locals({"infos": infos})
            played = processes.join_rounds(self, played, self.num_timesteps - tokens_before)
            self.last_round = played
            callback.on_rollout_end()
        if self.policy.decoders:  # of rollouts with a static cache
            self.logger.record("rollout/captured", self.policy.captured)
        self.logger.record("time/rollout_s", time.perf_counter() - started)
        self.logger.record("time/score_s", rounds.reward.seconds - scored)  # scoring and credit
        return played

    def _on_step(
        self,
        callback: BaseCallback,
        ended: dict[int, dict[str, Any]],
        rows: NDArray[np.integer],
        choice: SampledTokens,
        result: StepResult,
    ) -> bool:
        """Tell callbacks of a step of ``rows``, (active,); return whether training continues.

        A round is scored at its end: until then the return "r" of an episode is nan, and it is then
        written into the dictionaries in ``ended``, by row, which callbacks have seen.
        """
        self.num_timesteps += len(rows)  # one timestep is one response token
        dones = result.terminated | result.truncated  # (num_envs,)
        infos: list[dict[str, Any]] = [{} for _ in range(self.n_envs)]
        for row in rows[dones[rows]].tolist():
            episode = result.episodes[row]
            seconds = max(time.time() - self.start_time / 1e9, 0.0)
            score = math.nan if episode.score is None else episode.score
            infos[row]["episode"] = {"l": episode.num_written, "t": seconds, "r": score}
            if row in result.successes:
                infos[row]["is_success"] = result.successes[row]
            ended[row] = infos[row]
        names = {"self": self, "actions": choice.actions, "new_obs": result.observation}
        callback.update_locals(names | {"rewards": result.rewards, "dones": dones, "infos": infos})
        return callback.on_step()

    @property
    def reward(self) -> RoundReward:
        """The reward of the environment, which is called once for all episodes of a round."""
        return self.rounds.reward

    @property
    def settled(self) -> dict[str, Any]:
        """Settings that may be left open, by name, as they were decided."""
        return {}

    def round_options(self) -> dict[str, Any] | None:
        """Return the options of the reset that begins a round; None for none."""
        return None

    def scored(self, played: RolloutBatch) -> RolloutBatch:
        """Return what of a round is learned from, and log how many of its episodes have no score.

        Raises:
            ValueError: if nothing is.
        """
        unscored = sum(episode.score is None for episode in played.episodes)
        if unscored:
            self.logger.record("rollout/unscored", unscored)
        kept = played.scored(group_size=(self.round_options() or {}).get("group_size"))
        if not kept.episodes:
            raise ValueError(
                f"{unscored} of {len(played.episodes)} episodes have no score, and the others "
                f"share a group with one of them, {NONE_LEFT}"
            )
        return kept

    # --- saving -----------------------------------------------------------------------------------

    def save(self, path: Place) -> None:  # type: ignore[override]
        """Write a checkpoint folder, from which `load` continues number for number.

        Where Stable-Baselines3 and its tools look for a file, it is one file with the same
        contents: under names that end in ".zip", under best_model, which ``EvalCallback`` announces
        as best_model.zip, and as NAME.zip beside a folder NAME that holds other things.

        Of several processes the main one writes; `load` takes any number of them that has as many
        rows together. All must call this; after ``learn`` the main one alone may.

        Safetensors and JSON, nothing pickled; written beside ``path`` and renamed into place. The
        checkpoint that was there is kept as ``<path>.previous``. A callback may save at any step:
        in the middle of a round what is written is the state before it, and the resumed run plays
        that round again, token for token. After an update that was interrupted, as by Ctrl-C, it is
        the state after the round, with the weights as they are.

        Args:
            path: The folder or the file; or an open binary file.

        Raises:
            StorageError: if another file would be replaced.
        """
        save_checkpoint(self, path)

    @classmethod
    def load(  # type: ignore[override]
        cls: type[Self],
        path: Place,
        env: Environments | None = None,
        device: torch.device | str = "auto",
        custom_objects: Mapping[str, Any] | None = None,
        print_system_info: bool = False,
        *,
        trust_code: bool = False,
        **changes: Any,
    ) -> Self:
        """Return the agent of a checkpoint.

        Nothing of it is run: an estimator or a weight "file.py:Name" that it names must be passed
        again, or trusted.

        Args:
            path: What `save` was given, with or without ".zip".
            env: The environment to continue in, made as it was; its random state is restored.
                None: the agent can only `predict`.
            device: Device of the agent.
            custom_objects: SB3's: by name, schedules in place of those that could not be saved.
            print_system_info: SB3's: print the versions of this machine.
            trust_code: Run the files of code that the checkpoint names.
            changes: Arguments of the constructor to set anew, by name; schedules must be, since
                functions cannot be saved.

        Raises:
            UntrustedCodeError: if the checkpoint names code that was not passed again.
            CheckpointError: if a file is damaged and there is no earlier checkpoint to fall back
                to, or the checkpoint is not of this algorithm or environment.
            TypeError: if a change is not an argument of the constructor.
        """
        if print_system_info:
            get_system_info()
        how: Any = {"trust_code": trust_code, "custom_objects": custom_objects}
        agent: Self = load_checkpoint(cls, path, env, device, changes, **how)
        return agent

    # --- Stable-Baselines3's hooks ----------------------------------------------------------------

    def _setup_model(self) -> None:
        """Build the policy and the random generators; SB3's rollout buffer is not needed."""
        self._setup_lr_schedule()
        self._logger = Logger(folder=None, output_formats=[])  # until learn() makes one
        self.ep_info_buffer = deque(maxlen=self._stats_window_size)
        self.ep_success_buffer = deque(maxlen=self._stats_window_size)
        if self.policy_kwargs.get("model") is None:
            bundle = environment_attribute(self.env, "bundle")
            self.policy_kwargs["model"] = None if bundle is None else bundle.policy
        seeds = self._stream_seeds(self.seed)
        with drawn_from(seeds[0]):  # the adapters' first weights
            policy_class: Any = self.policy_class
            self.policy = policy_class(
                self.observation_space,
                self.action_space,
                self.lr_schedule,
                has_critic=self.has_critic,
                **self.policy_kwargs,
            ).to(self.device)
        vocabulary = environment_attribute(self.env, "vocabulary")
        tokenizer = environment_attribute(self.env, "tokenizer")
        warn_of_ends(self.policy.language_model, vocabulary, tokenizer)
        if not self._only_plays:
            adapters = self.policy.language_model.adapters
            warn_of_dropout(adapters, "responses are sampled and learned by one network, without")
        starts_from_reward_model = self.policy.settings.value_network == "reward_model"
        # An agent without an environment is being loaded, and its values with it.
        if starts_from_reward_model and self.policy.critic is not None and not self._only_plays:
            self.policy.critic.start_from(self.reward.scorer)
        self.shuffler = torch.Generator()
        self._seed_streams(seeds)
        self._seed_environment(self.seed)

    def set_random_seed(self, seed: int | None = None) -> None:
        """Seed all that draws: sampling, shuffling and the environment's next reset.

        What follows repeats, as after ``seed=`` of the constructor, whose weights alone are drawn
        before. Global random state, which SB3 sets, is left alone.

        Args:
            seed: An integer >= 0; None changes nothing.

        Raises:
            SettingsError: if it is another value.
        """
        _check_counts(seed=(seed, 0))
        if seed is not None:
            self.seed = seed
            self._seed_streams(self._stream_seeds(seed))
            self._seed_environment(seed)
            if self._round_start is not None:  # or a checkpoint would go on with the old stream
                sampling = self.policy.generator.get_state()
                self._round_start = replace(self._round_start, sampling=sampling)

    def _stream_seeds(self, seed: int | None) -> list[int]:
        """Return seeds of first weights, training's samples, shuffling, and others' samples.

        They are those of the main process: there is one policy for all.
        """
        drawn: list[int] = np.random.SeedSequence(seed).generate_state(4).tolist()
        seeds: list[int] = self.processes.gather(drawn)[0]
        return seeds

    def _seed_streams(self, seeds: Sequence[int]) -> None:
        """Seed what draws on this side of the environment; see `_stream_seeds`."""
        _, sampling, shuffling, outside = seeds
        self.policy.generator.manual_seed(sampling)
        self.shuffler.manual_seed(shuffling)
        self.policy.outside.manual_seed(outside)

    def _seed_environment(self, seed: int | None) -> None:
        if seed is not None:
            self.env.seed(seed + self.processes.number * self.n_envs)

    @staticmethod
    def _wrap_env(env: Any, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        """Adapt the environment of `set_env`; SB3 itself refuses Gymnasium's ``VectorEnv``."""
        del verbose, monitor_wrapper
        return as_vec_env(env)

    def set_env(self, env: Any, force_reset: bool = True) -> None:
        """Continue in another environment; see SB3's ``set_env``.

        Raises:
            SettingsError: if it has other sizes, or lacks what the learner reads.
        """
        check_learnable(env, type(self).__name__)
        if (rows := getattr(env, "num_envs", 1)) != self.n_envs:
            raise SettingsError(
                f"the agent was made with {self.n_envs} rows, the environment has {rows}; make it "
                f"with num_envs={self.n_envs}"
            )
        before = self.env, self.rounds
        try:
            super().set_env(env, force_reset)
            self.rounds = as_rounds(self.env)
            self.check_supply()
            self.processes.prepare(self)
        except Exception as error:
            self.env, self.rounds = before
            if isinstance(error, AssertionError):  # Stable-Baselines3's own refusal
                fault = " ".join(str(error).split())
                raise SettingsError(f"{fault}; make it as it was") from None
            raise
        self._round_start = self._start_of_next_round()  # in the other environment
        self.note_reward(self.learned_from)
        self.decide_settings()


def _attribute(name: str) -> property:
    """Return the attribute of an agent that is a setting."""

    def assign(agent: EpisodicAlgorithm, value: Any) -> None:
        agent.change(**{name: value})

    return property(attrgetter(f"settings.{name}"), assign)


def _check_counts(**given: tuple[Any, int]) -> None:
    """Refuse values, by name with the least of them, that are neither None nor integers."""
    for name, (value, least) in given.items():
        if value is not None and (not isinstance(value, Integral) or int(value) < least):
            raise SettingsError(f"{name} must be an integer >= {least}, or None, got {value!r}")


def _check_learning(total_timesteps: Any, callback: Any, log_interval: Any) -> None:
    """Refuse arguments of ``learn`` that would stop it, or not let it stop, after work was done."""
    if not isinstance(total_timesteps, Real) or not 0 <= float(total_timesteps) < math.inf:
        raise SettingsError(
            f"total_timesteps must be a number of tokens >= 0, got {total_timesteps!r}; pass such "
            "as 200_000"
        )
    if log_interval is not None and (not isinstance(log_interval, Integral) or log_interval < 1):
        raise SettingsError(
            f"log_interval must be a number of updates >= 1, got {log_interval!r}; None logs none"
        )
    if not isinstance(callback, BaseCallback | list | None) and not callable(callback):
        raise SettingsError(
            f"callback must be a BaseCallback, a list of them or a function, got {callback!r}"
        )
