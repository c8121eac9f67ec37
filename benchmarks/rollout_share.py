"""What part of a PPO rollout the environment takes, on the bundled MovieReview task.

A rollout plays 32 responses of 48 tokens by the bundled policy and scores them with the bundled
reward model. Timed apart inside it: the environment's own ``step`` (spaces, masks, ends, texts of
finished responses) and the reward wrapper around it (scoring and credit). One thread, medians.

    python benchmarks/rollout_share.py [--repeats 30] [--reward abc]
"""

import argparse
import statistics
import time
from typing import Any

import gymnasium as gym
import torch
from gymnasium.vector import VectorEnv, VectorWrapper

import tokengym  # noqa: F401  (registers the environments)
from tokengym.agents import PPO
from tokengym.envs import bundled
from tokengym.rewards import CreditReward


class TimedSteps(VectorWrapper):
    """Adds up the CPU seconds spent in the wrapped environment's ``step``."""

    seconds = 0.0

    def step(self, actions: Any) -> Any:
        """Step, on the clock."""
        started = time.process_time()
        result = self.env.step(actions)
        self.seconds += time.process_time() - started
        return result


def main() -> None:
    """Time rollouts and print the parts of the median one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--reward", default="abc")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    base: VectorEnv[Any, Any, Any] = gym.make_vec(
        "tokengym/MovieReview-v0", num_envs=32, min_new_tokens=48, reward=None
    )
    environment = TimedSteps(base)
    rewarded = TimedSteps(CreditReward(environment, credit=arguments.reward))
    agent = PPO(
        "CausalLMPolicy",
        rewarded,
        value_network="trunk",
        policy_kwargs={"model": bundled("movie_review").policy},
        seed=0,
        device="cpu",
    )
    rounds = []
    for _ in range(arguments.repeats + 3):
        environment.seconds = rewarded.seconds = 0.0
        started = time.process_time()
        agent.collect()
        rounds.append((time.process_time() - started, environment.seconds, rewarded.seconds))
    rollout, step, paid = map(statistics.median, zip(*rounds[3:], strict=True))
    parts = {
        "rollout": rollout,
        "of which the environment's own step": step,
        "of which scoring and credit": paid - step,
    }
    print(f"reward {arguments.reward}\n\n| | CPU ms, median | share |\n|---|---|---|")
    for name, seconds in parts.items():
        print(f"| {name} | {1e3 * seconds:.1f} | {seconds / rollout:.1%} |")


if __name__ == "__main__":
    main()
