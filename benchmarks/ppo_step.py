"""How long one PPO step takes, phase by phase, on the bundled MovieReview task.

A step is 32 episodes of 48 tokens (no EOS), scored by the bundled reward model, then 4 epochs of
2 minibatches; the bundled policy is a 2-layer, width-96 GPT-2 with a vocabulary of about 600.
One thread; medians over the repeats. CPU seconds, so that other work on the machine counts less.

    python benchmarks/ppo_step.py [--repeats 20] [--reward abc]
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import torch

import tokengym  # noqa: F401  (registers the environments)
from tokengym.agents import PPO
from tokengym.envs import bundled


def timed(function: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    """Return the CPU seconds of a call, and what it returned."""
    started = time.process_time()
    result = function(*arguments)
    return time.process_time() - started, result


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--reward", default="sparse")
    parser.add_argument("--num-envs", type=int, default=32)
    parser.add_argument("--max-new-tokens", type=int, default=48)
    settings = parser.parse_args()
    torch.set_num_threads(1)
    envs = gym.make_vec(
        "tokengym/MovieReview-v0",
        num_envs=settings.num_envs,
        reward=settings.reward,
        max_new_tokens=settings.max_new_tokens,
        forbidden_token_ids=(bundled("movie_review").tokenizer.eos_token_id,),
    )
    agent = PPO("CausalLMPolicy", envs, seed=0, device="cpu")
    phases: dict[str, list[float]] = {"rollout": [], "assign": [], "update": [], "step": []}
    for repeat in range(settings.repeats + 2):
        rollout, played = timed(agent.collect)
        assign, experience = timed(agent.assign, played)
        update, _ = timed(agent.update, experience)
        if repeat >= 2:  # the first two warm up
            for name, seconds in zip(
                phases, (rollout, assign, update, rollout + assign + update), strict=True
            ):
                phases[name].append(seconds)
    tokens = settings.num_envs * settings.max_new_tokens
    print(f"{settings.num_envs} x {settings.max_new_tokens} tokens, reward {settings.reward}\n")
    print("| phase | CPU ms, median | tokens per CPU second |\n|---|---|---|")
    for name, values in phases.items():
        seconds = statistics.median(values)
        print(f"| {name} | {1e3 * seconds:.0f} | {tokens / seconds:,.0f} |")


if __name__ == "__main__":
    main()
