"""What a learner without a critic saves against PPO: CPU time of a step, and memory.

- time: 32 episodes of 48 tokens on the bundled MovieReview task (no EOS), scored by its reward
  model, then 4 epochs of 2 minibatches; the learners take turns, one thread, medians;
- memory: one update of 8 x 48 tokens of a random GPT-2 in float32, all weights trained, each in a
  process of its own: weights and optimiser state by role, and the peak of the resident memory above
  that before the first model was made.

PPO is measured with its value head on the policy's trunk, which is the default, and with a value
network of its own, which TRL's PPO has.

    python benchmarks/learner_step.py [--repeats 9] [--layers 6 --width 768]
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from memory import ROLES, make_config, peak, resident
from rollout_speed import EOS, make_tokenizer
from transformers import GPT2ForSequenceClassification, GPT2LMHeadModel

import tokengym  # noqa: F401  (registers the environments)
from tokengym.agents import PPO
from tokengym.agents.policy.memory import memory_by_role
from tokengym.envs import TokenGenerationVectorEnv, bundled
from tokengym.rewards import Reward, RewardModel, Sparse, VectorRewardWrapper

LEARNERS: dict[str, dict[str, Any]] = {
    "ppo, value on the trunk": {"value_network": "trunk"},
    "ppo, own value network": {},
    "reinforce++": {"advantage": "reinforce++"},
    "loo": {"advantage": "loo", "group_size": 8},
}
PEER = "ppo, value on the trunk"


def step_seconds(repeats: int) -> dict[str, float]:
    """Return each learner's median CPU seconds of a step; the learners take turns."""
    agents = {}
    for name, settings in LEARNERS.items():
        envs = gym.make_vec(
            "tokengym/MovieReview-v0",
            num_envs=32,
            reward="sparse",
            max_new_tokens=48,
            forbidden_token_ids=(bundled("movie_review").tokenizer.eos_token_id,),
        )
        agents[name] = PPO("CausalLMPolicy", envs, seed=0, device="cpu", **settings)
    seconds: dict[str, list[float]] = {name: [] for name in agents}
    for repeat in range(repeats + 2):
        for name, agent in agents.items():
            started = time.process_time()
            agent.update(agent.assign(agent.collect()))
            if repeat >= 2:  # the first two warm up
                seconds[name].append(time.process_time() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def memory(name: str, settings: argparse.Namespace) -> dict[str, float]:
    """Take one update; return MiB by role, of gradients, and at the peak."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer(settings.vocabulary)
    before = resident()
    backbone = GPT2LMHeadModel(make_config(settings))
    scorer = RewardModel(GPT2ForSequenceClassification(make_config(settings)))
    scorer.model.requires_grad_(False)
    envs = TokenGenerationVectorEnv(
        num_envs=8,
        tokenizer=tokenizer,
        prompts=["w3 w4 w5 w6 w7 w8 w9 w10"],
        max_new_tokens=48,
        forbidden_token_ids=(EOS,),
    )
    learner = dict(LEARNERS[name])
    policy = {"model": backbone, **learner.pop("policy_kwargs", {})}
    agent = PPO(
        "CausalLMPolicy",
        VectorRewardWrapper(envs, Reward(scorer, Sparse())),
        n_epochs=1,
        n_minibatches=1,
        policy_kwargs=policy,
        device="cpu",
        **learner,
    )
    agent.learn(1)
    sizes = memory_by_role(agent.policy, scorer.model)
    gradients = sum(p.numel() * p.element_size() for p in agent.policy.trained_parameters())
    mebibytes = {role: sizes[role] / 2**20 for role in ROLES} | {"gradients": gradients / 2**20}
    return mebibytes | {"sum": sum(mebibytes.values()), "peak": peak() - before}


def main() -> None:
    """Measure and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--vocabulary", type=int, default=50_257)
    parser.add_argument("--learner", choices=LEARNERS, help=argparse.SUPPRESS)
    settings = parser.parse_args()
    torch.set_num_threads(1)
    if settings.learner is not None:
        print(json.dumps(memory(settings.learner, settings)))
        return
    seconds = step_seconds(settings.repeats)
    print("| learner | CPU ms per step | / ppo |\n|---|---|---|")
    for name, value in seconds.items():
        print(f"| {name} | {1e3 * value:.0f} | {value / seconds[PEER]:.2f} |")
    sizes_by_learner = {}
    for name in LEARNERS:
        command = [sys.executable, str(Path(__file__).resolve()), *sys.argv[1:]]
        command += ["--learner", name]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        sizes_by_learner[name] = json.loads(output.splitlines()[-1])
    print(f"\nGPT-2 {settings.layers}x{settings.width}, float32, 8 x 48 tokens; MiB\n")
    columns = ["policy", "value", "reference", "optimizer", "gradients", "sum", "peak"]
    print(f"| learner | {' | '.join(columns)} | peak / ppo | peak / ppo, own value network |")
    print("|" + "---|" * (len(columns) + 3))
    for name, sizes in sizes_by_learner.items():
        cells = [f"{sizes[column]:,.0f}" for column in columns]
        peers = (PEER, "ppo, own value network")
        cells += [f"{sizes['peak'] / sizes_by_learner[peer]['peak']:.2f}" for peer in peers]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
