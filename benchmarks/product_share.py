"""What share of its time each phase of training spends in matrix products, on a CPU.

Products are what a processor's own bound is about: the rest is small operations and Python. The
share does not depend on who else is compared, and little on the processor. Products are linear
maps, batched products and attention; their time is torch's profiler's, the least of several passes,
and the whole is the process's CPU time of passes without the profiler, the least as well. One
thread, the bundled models of MovieReview: 32 responses of 48 tokens.

    python benchmarks/product_share.py [--repeats 9] [--products torch]
"""

import argparse
import tempfile
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import torch
from dpo_speed import PAIRS, make_ours, make_pairs
from scoring_cost import cpu_seconds, make_episodes, make_scorer
from torch.profiler import ProfilerActivity, profile

import tokengym  # noqa: F401  (registers the environments)
from tokengym.agents import PPO
from tokengym.base.bundle import bundled

PRODUCTS = ("addmm", "baddbmm", "bmm", "linear_pointwise", "mkl_linear", "mm")
"""Ends of the names of operations that multiply matrices."""
ATTENTION = "_scaled_dot_product_"
Phase = Callable[[], Any]


def is_product(name: str) -> bool:
    """Return whether an operation is a product of matrices."""
    kind = name.rpartition("::")[2].lstrip("_")
    return kind in PRODUCTS or ATTENTION in name


def product_seconds(phase: Phase) -> float:
    """Return the seconds that a phase spends in products."""
    with profile(activities=[ProfilerActivity.CPU]) as found:
        phase()
    events = found.key_averages()
    return sum(event.self_cpu_time_total for event in events if is_product(event.key)) / 1e6


def make_agent(value_network: str, products: str, reward: str | None) -> PPO:
    """Return an agent of the bundled models."""
    return PPO(
        "CausalLMPolicy",
        gym.make_vec("tokengym/MovieReview-v0", num_envs=32, min_new_tokens=48, reward=reward),
        value_network=value_network,
        policy_kwargs={"model": bundled("movie_review").policy, "products": products},
        seed=0,
        device="cpu",
    )


def update_of(agent: PPO) -> Phase:
    """Return an agent's update from one round."""
    experience = agent.assign(agent.collect())
    return lambda: agent.update(experience)


def phases_of(products: str, folder: str) -> dict[str, Phase]:
    """Return the phases of training by name, each by a library of products.

    Args:
        products: The library. Scoring is always torch's, and is a phase of that library alone.
        folder: Where a trainer may write.
    """
    own, trunk = (make_agent(at, products, "sparse") for at in ("own", "trunk"))
    pairs = make_pairs(4 * PAIRS)
    phases: dict[str, Phase] = {
        "rollout": make_agent("trunk", products, None).collect,
        "PPO update, value head on the trunk": update_of(trunk),
        "PPO update, own value network": update_of(own),
        "DPO, 4 batches of 16 pairs": make_ours(
            pairs, precompute=False, folder=folder, products=products
        ).train,
    }
    if products == "torch":
        scorer = make_scorer("bundled", 32)
        texts = make_episodes(scorer, 32, 56, mixed=False)
        phases["scoring 32 texts"] = lambda: scorer.score(texts)
    return phases


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--products", default="torch", choices=("torch", "onednn"))
    settings = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        phases = phases_of(settings.products, folder)
        print("| phase | CPU ms | of which products, ms | share |\n|---|---|---|---|")
        for name, phase in phases.items():
            phase()
            whole, inside = [], []
            for _ in range(settings.repeats):
                whole.append(cpu_seconds(phase))
                inside.append(product_seconds(phase))
            share = min(inside) / min(whole)
            ms = [1e3 * min(times) for times in (whole, inside)]
            print(f"| {name} | {ms[0]:.0f} | {ms[1]:.0f} | {share:.2f} |", flush=True)


if __name__ == "__main__":
    main()
