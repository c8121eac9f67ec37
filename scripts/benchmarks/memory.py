"""What PPO takes in memory: four networks of their own, three, or one backbone with adapters.

- separate: policy, reference, value network and reward model, each a model (TRL's PPO);
- trunk: policy and reference, the value head on the policy's trunk (tokengym, full training);
- frozen: the same with the lower half of the blocks frozen and shared with the reference;
- lora: one backbone; policy and value head are adapters on it, the reference is it without them.

Weights, and weights with optimiser state and gradients, of a random GPT-2 in one process, after one
real update; peak resident memory of that update where asked for with --peak (one arm a process).
The reward model belongs to the environment, so all arms but the first leave it out; "with reward
model" adds one of the backbone's size to them.

    python scripts/benchmarks/memory.py [--layers 6 --width 768 --vocabulary 50257] [--peak ARM]
"""

import argparse
import json
import resource
from typing import Any

import torch
from peft import LoraConfig
from rollout_speed import EOS, PAD, make_tokenizer
from transformers import GPT2Config, GPT2LMHeadModel

from tokengym.agents import PPO
from tokengym.agents.memory import memory_by_role
from tokengym.envs import TokenGenerationVectorEnv
from tokengym.rewards import FunctionScorer, Reward, Sparse, VectorRewardWrapper

ARMS = ("trunk", "frozen", "lora")


def arm_settings(name: str, num_layers: int) -> dict[str, Any]:
    """Return the policy's arguments of one way of training."""
    if name == "frozen":
        return {"frozen_layers": num_layers // 2}
    if name == "lora":
        targets = ["c_attn", "c_proj", "c_fc"]
        return {"lora": LoraConfig(r=16, target_modules=targets, fan_in_fan_out=True)}
    return {}


def make_agent(name: str, settings: argparse.Namespace) -> PPO:
    """Return an agent that has taken one update."""
    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=settings.layers,
        n_embd=settings.width,
        n_head=settings.width // 64,
        vocab_size=settings.vocabulary,
        bos_token_id=EOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    envs = TokenGenerationVectorEnv(
        num_envs=2,
        tokenizer=make_tokenizer(settings.vocabulary),
        prompts=["w3 w4 w5"],
        max_new_tokens=8,
    )
    reward = Reward(FunctionScorer(lambda prompt, response: float(len(response))), Sparse())
    kwargs = {"model": GPT2LMHeadModel(config), **arm_settings(name, settings.layers)}
    agent = PPO(
        "CausalLMPolicy",
        VectorRewardWrapper(envs, reward),
        n_epochs=1,
        policy_kwargs=kwargs,
        device="cpu",
    )
    return agent.learn(1)


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--vocabulary", type=int, default=50_257)
    parser.add_argument("--peak", choices=ARMS, default=None)
    settings = parser.parse_args()
    torch.set_num_threads(1)
    if settings.peak is not None:
        make_agent(settings.peak, settings)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"arm": settings.peak, "peak_rss_mib": round(peak)}))
        return
    report: dict[str, Any] = {"settings": {k: v for k, v in vars(settings).items() if k != "peak"}}
    for name in ARMS:
        sizes = memory_by_role(make_agent(name, settings).policy)
        learns = sizes["policy"] + sizes["value"]
        backbone = sizes["policy"] + sizes["frozen"] if name != "lora" else sizes["frozen"]
        weights = sizes["total"] - sizes["optimizer"]
        report[name] = mebibytes(
            weights=weights,
            with_reward_model=weights + backbone,
            with_optimizer_and_gradients=sizes["total"] + learns,
        ) | {"by_role": mebibytes(**sizes)}
        if name == "trunk":  # the value network learns too: gradient and two moments each
            report["separate"] = mebibytes(
                weights=3 * backbone,
                with_reward_model=4 * backbone,
                with_optimizer_and_gradients=3 * backbone + 2 * 3 * backbone,
            )
    for name in ARMS:
        for figure in ("with_reward_model", "with_optimizer_and_gradients"):
            ratio = report[name][figure] / report["separate"][figure]
            report[name][f"{figure}_over_separate"] = round(ratio, 3)
    print(json.dumps(report, indent=1))


def mebibytes(**sizes: int) -> dict[str, float]:
    """Return byte counts as MiB."""
    return {name: round(size / 2**20, 1) for name, size in sizes.items()}


if __name__ == "__main__":
    main()
