"""Additions for stock Stable-Baselines3: dense token rewards, and a network that reads texts.

Each token is paid at its episode's end.

The environment pays a hindsight credit at the terminal step, as a whole; ``info["token_rewards"]``
says which token earned what. Replay buffers are handed the infos; rollout buffers read them of the
rollout that fills them, whichever vector environment it plays.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.buffers import DictReplayBuffer, DictRolloutBuffer
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import DictReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor, nn

from tokengym.rewards.stock import rollout

try:
    from sb3_contrib.common.maskable.buffers import MaskableDictRolloutBuffer
except ImportError:  # sb3-contrib is optional; without it nobody passes action masks
    MaskableDictRolloutBuffer = DictRolloutBuffer  # type: ignore[misc,assignment]


def ended_rewards(info: Mapping[str, Any], row: int) -> NDArray[np.float32]:
    """Return what each step of an ended episode earned: its tokens, those of replies left out.

    Raises:
        ValueError: if the row's info does not say it.
    """
    if "token_rewards" not in info:
        raise ValueError(
            f"the info of row {row} has no token_rewards; play an environment of tokengym with a "
            "reward, and no wrapper that drops its info"
        )
    rewards: NDArray[np.float32] = info["token_rewards"]
    return rewards if "written" not in info else rewards[info["written"] > 0]


def _bootstrapped(agent: Any, info: Mapping[str, Any]) -> float:
    """Return the value that SB3 has added to an episode's last reward, where a budget ended it."""
    if not info.get("TimeLimit.truncated"):
        return 0.0
    observation, _ = agent.policy.obs_to_tensor(info["terminal_observation"])
    with torch.no_grad():
        return float(agent.gamma * agent.policy.predict_values(observation)[0])


def check_paid(score: float, paid: NDArray[np.floating]) -> None:
    """Refuse payments of an episode's steps, (steps,), that do not add up to its score."""
    total = float(np.sum(paid, dtype=np.float64))
    size = max(abs(score), float(np.abs(paid).max(initial=0.0)))
    if abs(total - score) > 1e-4 * size:
        raise ValueError(
            f"the steps of an episode were paid {total:.6g} for a score of {score:.6g}: a layer "
            "around the environment changes rewards, which the token rewards would undo; leave it "
            "out and change the scorer, or take SB3's own buffer"
        )


def hindsight_correction(
    token_rewards: NDArray[np.floating], paid: NDArray[np.floating], num_kept: int
) -> NDArray[np.float32]:
    """Return the correction of the rewards of an episode's last steps.

    c_t = token_rewards_t - paid_t;  those of steps no longer stored are added to the first one kept

    Rewards then add up to the score wherever a rollout ends, and each token that is still in the
    buffer is paid what it earned.

    Args:
        token_rewards: (n,), reward units.
        paid: (n,) what the environment paid at each step, reward units.
        num_kept: How many of the last steps a buffer still holds, 1 to n.

    Returns:
        (num_kept,), reward units; sums to sum(token_rewards) - sum(paid).

    Raises:
        ValueError: if the shapes differ.
    """
    if len(token_rewards) != len(paid):
        raise ValueError(
            f"token_rewards has {len(token_rewards)} entries for an episode of {len(paid)} steps; "
            "the environment must give one per response token"
        )
    # float64: the sum over an episode is to be the score, not nearly.
    difference = np.asarray(token_rewards, dtype=np.float64) - paid
    kept = difference[len(difference) - num_kept :]
    kept[0] += difference[: len(difference) - num_kept].sum()
    return kept.astype(np.float32)


class HindsightRolloutBuffer(MaskableDictRolloutBuffer):
    """SB3's rollout buffer for PPO and A2C, and sb3-contrib's for MaskablePPO, with token rewards.

    ```python
    PPO("MultiInputPolicy", as_vec_env(envs), rollout_buffer_class=HindsightRolloutBuffer)
    ```

    SB3's own vector environments do as well. When an episode ends, the rewards of its steps become
    its token rewards. An episode that began
    in an earlier rollout has steps that were learned from already; their tokens' rewards are paid
    at its first step in this rollout, so that no reward is lost. Rollouts several times as long as
    the episodes (``n_steps``) keep that rare.

    Args:
        buffer_size: Steps of a rollout, and the rest as SB3's ``DictRolloutBuffer`` has it.
    """

    pays_tokens = True

    def reset(self) -> None:
        """Begin a rollout; episodes that have begun continue."""
        DictRolloutBuffer.reset(self)  # the parent's makes (steps, envs, vocab) masks, asked or not
        self.mask_dims = 1
        self.action_masks = np.ones((self.buffer_size, self.n_envs, 1), dtype=np.float32)
        if not hasattr(self, "_paid"):
            self._paid: list[list[float]] = [[] for _ in range(self.n_envs)]

    def add(  # type: ignore[override]
        self,
        obs: dict[str, NDArray[np.generic]],
        action: NDArray[np.generic],
        reward: NDArray[np.floating],
        episode_start: NDArray[np.generic],
        value: Tensor,
        log_prob: Tensor,
        action_masks: NDArray[np.generic] | None = None,
    ) -> None:
        """Store one step, and pay the episodes that end in it.

        Raises:
            ValueError: if an ended episode has no token rewards, or was paid others than its own.
        """
        played = rollout()
        ended = {row: played["infos"][row] for row in np.flatnonzero(played["dones"]).tolist()}
        if action_masks is not None and self.mask_dims == 1:
            self.mask_dims = int(self.action_space.n)  # type: ignore[attr-defined]
            shape = (self.buffer_size, self.n_envs, self.mask_dims)
            self.action_masks = np.ones(shape, dtype=np.float32)
        masks = {} if action_masks is None else {"action_masks": action_masks}
        end = self.pos + 1
        super().add(obs, action, reward, episode_start, value, log_prob, **masks)
        for row in range(self.n_envs):
            if episode_start[row]:
                self._paid[row] = []
            self._paid[row].append(float(reward[row]))
        for row, info in ended.items():
            token_rewards = ended_rewards(info, row)
            self._paid[row][-1] -= _bootstrapped(played["self"], info)
            paid = np.array(self._paid[row])
            if len(paid) == len(token_rewards):
                check_paid(float(info["score"]), paid)
            num_kept = min(len(paid), end)
            correction = hindsight_correction(token_rewards, paid, num_kept)
            self.rewards[end - num_kept : end, row] += correction

    def _get_samples(self, batch_inds: NDArray[np.integer], env: VecNormalize | None = None) -> Any:
        """Return samples as the algorithm knows them, with action masks where it passes masks."""
        if self.mask_dims > 1:
            return super()._get_samples(batch_inds, env)
        return DictRolloutBuffer._get_samples(self, batch_inds, env)


class HindsightReplayBuffer(DictReplayBuffer):
    """SB3's replay buffer for DQN, with token rewards.

    ```python
    DQN("MultiInputPolicy", as_vec_env(envs), replay_buffer_class=HindsightReplayBuffer,
        buffer_size=50_000)
    ```

    Steps are drawn only once their episode has ended and what they earned is known, as SB3's
    hindsight experience replay does.

    Args:
        buffer_size: Steps of all environments, and the rest as SB3's ``DictReplayBuffer`` has it.
    """

    pays_tokens = True

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._ages = np.zeros(self.n_envs, dtype=np.int64)  # steps since the last episode ended
        self._is_known = np.zeros((self.buffer_size, self.n_envs), dtype=bool)

    def add(  # type: ignore[override]
        self,
        obs: dict[str, NDArray[np.generic]],
        next_obs: dict[str, NDArray[np.generic]],
        action: NDArray[np.generic],
        reward: NDArray[np.floating],
        done: NDArray[np.bool_],
        infos: list[dict[str, Any]],
    ) -> None:
        """Store one step, and pay the episodes that end in it.

        Raises:
            ValueError: if an ended episode has no token rewards, or is longer than the buffer.
        """
        step = self.pos
        super().add(obs, next_obs, action, reward, done, infos)
        self._is_known[step] = False
        self._ages += 1
        for row in np.flatnonzero(done).tolist():
            token_rewards = ended_rewards(infos[row], row)
            if len(token_rewards) > self.buffer_size:
                raise ValueError(
                    f"an episode took {len(token_rewards)} steps and the buffer holds "
                    f"{self.buffer_size} per row; raise buffer_size"
                )
            # Steps before these are of an episode that a reset, as of learn(), broke off.
            age = min(self._ages[row], len(token_rewards))
            steps = np.arange(step + 1 - age, step + 1) % self.buffer_size
            paid = self.rewards[steps, row]
            if age == len(token_rewards) and "score" in infos[row]:
                check_paid(float(infos[row]["score"]), paid)
            self.rewards[steps, row] += hindsight_correction(token_rewards, paid, len(steps))
            self._is_known[steps, row] = True
        self._ages[done] = 0

    def sample(  # type: ignore[override]
        self, batch_size: int, env: VecNormalize | None = None
    ) -> DictReplayBufferSamples:
        """Return random steps of ended episodes.

        Raises:
            ValueError: if no episode has ended yet.
        """
        places = np.flatnonzero(self._is_known)
        if len(places) == 0:
            raise ValueError(
                "no episode has ended yet; set learning_starts to more steps than an episode has, "
                f"times the {self.n_envs} environments"
            )
        chosen = np.random.choice(places, batch_size)  # SB3 seeds and draws from this generator
        steps, rows = np.unravel_index(chosen, self._is_known.shape)

        def read(observations: dict[str, NDArray[Any]]) -> dict[str, Tensor]:
            drawn = {name: array[steps, rows] for name, array in observations.items()}
            normalized: Any = self._normalize_obs(drawn, env)
            return {name: self.to_torch(array) for name, array in normalized.items()}

        ended = self.dones[steps, rows] * (1.0 - self.timeouts[steps, rows])
        rewards = self._normalize_reward(self.rewards[steps, rows].reshape(-1, 1), env)
        return DictReplayBufferSamples(
            observations=read(self.observations),
            actions=self.to_torch(self.actions[steps, rows]),
            next_observations=read(self.next_observations),
            dones=self.to_torch(ended).reshape(-1, 1),
            rewards=self.to_torch(rewards),
        )


class TokenFeatures(BaseFeaturesExtractor):
    """Embeds the tokens of an observation: their mean, the last one, and how many there are.

    SB3's own extractor reads token ids as if they were magnitudes. This one is meant for tests,
    baselines and tiny vocabularies; for a language model use `CausalLMPolicy`.

    ```python
    PPO("MultiInputPolicy", as_vec_env(envs),
        policy_kwargs=dict(features_extractor_class=TokenFeatures))
    ```

    Args:
        observation_space: ``Dict(input_ids, attention_mask)``.
        embedding_dim: Width of a token's embedding.
    """

    def __init__(self, observation_space: spaces.Dict, embedding_dim: int = 32) -> None:
        super().__init__(observation_space, features_dim=2 * embedding_dim + 1)
        ids = observation_space["input_ids"]
        assert isinstance(ids, spaces.Box)
        self.embedding = nn.Embedding(int(ids.high.max()) + 1, embedding_dim)

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """Return (batch, 2 * embedding_dim + 1) of ids and masks (batch, length), of any type."""
        ids, mask = observations["input_ids"].long(), observations["attention_mask"].float()
        columns = torch.arange(mask.shape[1], device=mask.device)
        counts = mask.sum(1, keepdim=True)  # (batch, 1)
        last = (mask * columns).argmax(1)  # (batch,): the texts begin on the left and have no gaps
        mean = (self.embedding(ids) * mask.unsqueeze(-1)).sum(1) / counts.clamp(min=1.0)
        rows = torch.arange(len(ids), device=mask.device)
        newest = self.embedding(ids[rows, last])
        return torch.cat([mean, newest, counts / mask.shape[1]], dim=1)
