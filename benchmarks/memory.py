"""What PPO takes in memory: four networks of their own, or one backbone that carries all four.

- separate: policy, reference, value network and reward model, each a whole model (TRL's PPO);
- trunk: the value head on the policy's trunk;
- frozen: that, and the lower half of the blocks frozen and shared with the reference;
- adapters: one frozen backbone; policy, value and reward model are LoRA adapters of rank 16 on it,
  and the reference is the backbone without them.

With --pair the policy and its reference alone, the value head on the policy's trunk and a function
as the reward:

- two copies: policy and reference are whole models, and all weights of the policy are trained;
- adapters off: LoRA of rank 8 on queries, keys and values, and the reference is the same model with
  its adapters off.

A random GPT-2 in float32, one PPO update of 8 x 48 tokens after prompts of 8, on the CPU. Weights
and optimiser state are counted by role, gradients are one float per trained weight; the measured
peak is the process's resident memory at its highest, above that before the first model was made.
Each way runs in a process of its own.

    python benchmarks/memory.py [--pair] [--layers 6 --width 768 --vocabulary 50257] [--rows 8]
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from rollout_speed import EOS, PAD, make_tokenizer
from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel

from tokengym.agents import PPO
from tokengym.agents.policy.memory import memory_by_role
from tokengym.envs import TokenGenerationVectorEnv
from tokengym.rewards import RewardModel, SparseReward

WAYS = ("separate", "trunk", "frozen", "adapters")
PAIR = ("two copies", "adapters off")
"""Policy and reference alone: ways of keeping the reference."""
ROLES = ("policy", "frozen", "value", "reference", "reward_model", "optimizer")


def make_config(settings: argparse.Namespace) -> GPT2Config:
    """Return the backbone's shape."""
    return GPT2Config(
        n_layer=settings.layers,
        n_embd=settings.width,
        n_head=settings.width // 64,
        vocab_size=settings.vocabulary,
        num_labels=1,
        bos_token_id=EOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )


def lora(
    rank: int = 16, targets: Sequence[str] = ("c_attn", "c_proj", "c_fc"), **settings: Any
) -> LoraConfig:
    """Return adapters, by default on all linear maps of a block."""
    return LoraConfig(r=rank, target_modules=[*targets], fan_in_fan_out=True, **settings)


def policy_settings(way: str, num_layers: int) -> dict[str, Any]:
    """Return the settings of one way of training."""
    return {
        "separate": {"value_network": "own"},
        "trunk": {"value_network": "trunk"},
        "frozen": {"frozen_layers": num_layers // 2, "value_network": "trunk"},
        "adapters": {"lora": lora(), "value_network": "own"},
        "two copies": {"value_network": "trunk"},
        "adapters off": {"lora": lora(8, ["c_attn"]), "value_network": "trunk"},
    }[way]


def make_scorer(
    way: str, backbone: GPT2LMHeadModel, settings: argparse.Namespace
) -> RewardModel | None:
    """Return the reward model of a way; the pair has none."""
    if way in PAIR:
        return None
    if way == "adapters":
        return RewardModel.from_pretrained(settings.adapters, backbone=backbone)
    scorer = RewardModel(GPT2ForSequenceClassification(make_config(settings)))
    scorer.model.requires_grad_(False)
    return scorer


def measure(way: str, settings: argparse.Namespace) -> dict[str, float]:
    """Take one update; return MiB by role, of gradients, and at the peak."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokenizer = make_tokenizer(settings.vocabulary)
    before = resident()
    backbone = GPT2LMHeadModel(make_config(settings))
    scorer = make_scorer(way, backbone, settings)
    envs = TokenGenerationVectorEnv(
        num_envs=settings.rows,
        tokenizer=tokenizer,
        prompts=["w3 w4 w5 w6 w7 w8 w9 w10"],
        max_new_tokens=48,
        forbidden_token_ids=(EOS,),
    )
    rewarded = (
        SparseReward(envs, lambda prompt, response: float(len(response)))
        if scorer is None
        else SparseReward(envs, scorer)
    )
    policy = policy_settings(way, settings.layers)
    value_network = policy.pop("value_network")
    agent = PPO(
        "CausalLMPolicy",
        rewarded,
        n_epochs=1,
        n_minibatches=1,
        value_network=value_network,
        policy_kwargs={"model": backbone, **policy},
        device="cpu",
    )
    agent.learn(1)
    sizes = memory_by_role(agent.policy, None if scorer is None else scorer.model)
    gradients = sum(p.numel() * p.element_size() for p in agent.policy.trained_parameters())
    mebibytes = {role: sizes[role] / 2**20 for role in ROLES} | {"gradients": gradients / 2**20}
    return mebibytes | {"sum": sum(mebibytes.values()), "peak": peak() - before}


def peak() -> float:
    """Return the process's largest resident memory so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def resident() -> float:
    """Return the process's resident memory as it is now (Linux), MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def main() -> None:
    """Measure each way in a process of its own, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--vocabulary", type=int, default=50_257)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--pair", action="store_true", help="policy and reference alone")
    parser.add_argument("--way", choices=(*WAYS, *PAIR), help=argparse.SUPPRESS)
    parser.add_argument("--adapters", help=argparse.SUPPRESS)
    settings = parser.parse_args()
    if settings.way is not None:
        print(json.dumps(measure(settings.way, settings)))
        return
    sizes_by_way: dict[str, dict[str, float]] = {}
    ways = PAIR if settings.pair else WAYS
    with tempfile.TemporaryDirectory() as folder:
        scorer = GPT2ForSequenceClassification(make_config(settings))
        get_peft_model(scorer, lora(task_type="SEQ_CLS")).save_pretrained(folder)
        for way in ways:
            command = [sys.executable, str(Path(__file__).resolve()), *sys.argv[1:]]
            command += ["--way", way, "--adapters", folder]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            sizes_by_way[way] = json.loads(output.splitlines()[-1])
    columns = [*ROLES, "gradients", "sum", "peak"]
    print(
        f"GPT-2 {settings.layers}x{settings.width}, vocabulary {settings.vocabulary:,}, float32, "
        f"{settings.rows} x 48 tokens; MiB\n"
    )
    names = [name.replace("_", " ") for name in columns]
    print(f"| | {' | '.join(names)} | sum / {ways[0]} | peak / {ways[0]} |")
    print("|" + "---|" * (len(columns) + 3))
    for way, sizes in sizes_by_way.items():
        cells = [f"{sizes[name]:,.0f}" for name in columns]
        cells += [f"{sizes[name] / sizes_by_way[ways[0]][name]:.2f}" for name in ("sum", "peak")]
        print(f"| {way} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
