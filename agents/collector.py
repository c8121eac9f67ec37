"""Collection of rounds, as callbacks of Stable-Baselines3 see it."""

import math
import time
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from tokengym.agents.policy.policy import CausalLMPolicy
from tokengym.agents.policy.sampling import derived_seed
from tokengym.agents.processes import Processes
from tokengym.agents.rollouts.given import bind_policy
from tokengym.agents.rollouts.logs import write_failed_round
from tokengym.agents.rollouts.playing import RolloutBatch, SampledTokens, play_round
from tokengym.agents.rollouts.rounds import RoundEnvironment, RoundReward, StepResult
from tokengym.rewards import RewardError


class CollectsRounds(OnPolicyAlgorithm):
    """An agent that plays rounds of one episode per row; see `EpisodicAlgorithm`."""

    policy: CausalLMPolicy  # type: ignore[assignment]
    env: VecEnv
    """The environment; of an agent that was loaded to predict, `NoEnvironment`."""
    rounds: RoundEnvironment
    """The environment, as rounds of one episode per row."""
    processes: Processes
    """This process among those that train the agent."""
    last_round: RolloutBatch | None = None
    """The round that `collect` played last; for callbacks, in ``on_rollout_end``."""

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
        if callback is None:
            callback = CallbackList([])
            callback.init_callback(self)
        self.policy.optimizer.zero_grad(set_to_none=True)  # a rollout has a use for the memory
        started, rounds, processes = time.perf_counter(), self.rounds, self.processes
        scored = rounds.reward.seconds
        options = self.round_options()
        known = self.num_timesteps
        continuations = None
        if rounds.reward.of_policy:  # its credit continues responses, as ``mc`` does
            seed = derived_seed(self.policy.generator) + processes.number
            continuations = bind_policy(self.env, self, seed=seed)
        figures: dict[int, dict[str, Any]] = {}  # SB3's of the episodes that ended, by row
        callback.on_rollout_start()
        try:
            played = play_round(
                self.policy.sampler(self.policy.generator),
                rounds,
                options=options,
                on_step=partial(self._on_step, callback, figures),
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
                figures[row]["r"] = math.nan if episode.score is None else episode.score
            infos = [{"episode": figures[row]} for row in range(self.n_envs)]
            self._update_info_buffer(infos)
            callback.update_locals({"infos": infos})
            played = processes.join_rounds(self, played, self.num_timesteps - known)
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
        figures: dict[int, dict[str, Any]],
        rows: NDArray[np.integer],
        choice: SampledTokens,
        result: StepResult,
    ) -> bool:
        """Tell callbacks of a step of ``rows``; return whether they let the training continue.

        A round is scored at its end: until then the return "r" of an episode is nan, and it is then
        written into the dictionaries in ``figures``, by row, which callbacks have seen.
        """
        self.num_timesteps += len(rows)  # one timestep is one response token
        dones = result.terminated | result.truncated  # (num_envs,)
        infos: list[dict[str, Any]] = [{} for _ in range(self.n_envs)]
        for row in rows[dones[rows]].tolist():
            episode = result.episodes[row]
            seconds = max(time.time() - self.start_time / 1e9, 0.0)
            score = math.nan if episode.score is None else episode.score
            infos[row]["episode"] = {"l": episode.num_written, "t": seconds, "r": score}
            figures[row] = infos[row]["episode"]
        callback.update_locals(
            {
                "self": self,
                "actions": choice.actions,
                "new_obs": result.observation,
                "rewards": result.rewards,
                "dones": dones,
                "infos": infos,
            }
        )
        return callback.on_step()

    @property
    def reward(self) -> RoundReward:
        """The reward of the environment, which is called once for all episodes of a round."""
        return self.rounds.reward

    def round_options(self) -> dict[str, Any] | None:
        """Return the options of the reset that begins a round; None for none."""
        return None
