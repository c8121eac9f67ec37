"""Callbacks that watch an update, and gradients read off a learner."""

from typing import Any

import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, configure

from tokengym.agents import PPO


class Watcher(BaseCallback):
    """Counts calls and keeps what SB3's callbacks read."""

    def __init__(self, stop_at: int | None = None) -> None:
        super().__init__()
        self.stop_at = stop_at
        self.calls = {"start": 0, "step": 0, "end": 0}
        self.episodes: list[dict[str, Any]] = []
        self.timesteps: list[int] = []

    def _on_rollout_start(self) -> None:
        self.calls["start"] += 1

    def _on_step(self) -> bool:
        self.calls["step"] += 1
        self.timesteps.append(self.num_timesteps)
        assert len(self.locals["dones"]) == self.training_env.num_envs
        self.episodes += [info["episode"] for info in self.locals["infos"] if "episode" in info]
        return self.stop_at is None or self.calls["step"] < self.stop_at

    def _on_rollout_end(self) -> None:
        self.calls["end"] += 1


class Rows(KVWriter):
    """A logger's output that keeps every row."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def write(self, key_values: dict[str, Any], key_excluded: Any, step: int = 0) -> None:
        self.rows.append({**key_values, "step": step})

    def close(self) -> None:
        pass


def log_of(agent: PPO, timesteps: int, **settings: Any) -> list[dict[str, Any]]:
    logger = configure(None, [])
    rows = Rows()
    logger.output_formats.append(rows)
    agent.set_logger(logger)
    agent.learn(timesteps, **settings)
    return rows.rows


def gradient(agent: PPO, experience: Any) -> torch.Tensor:
    """Return the gradient of the whole batch as one minibatch."""
    agent.backward(experience)
    return torch.cat([p.grad.flatten() for p in agent.policy.trained_parameters()])
