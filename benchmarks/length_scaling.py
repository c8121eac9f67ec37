"""How the time and memory of a PPO step grow with the length of the responses.

A random 4-layer, width-128 GPT-2 (vocabulary 2,048), 32 responses to prompts of 8 tokens, no EOS,
4 epochs of 4 minibatches, one thread. Linear growth is a constant time per token: attention, which
is quadratic, is little of it at these lengths. Memory is by how much the highest resident memory
of the process rose in the steps; each length runs in a process of its own.

    python benchmarks/length_scaling.py [--lengths 32 64 128 256 512] [--steps 2]
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from memory import peak, resident
from rollout_speed import PROMPT_TOKENS, make_model, make_tokenizer

from tokengym.agents import PPO
from tokengym.envs import TokenGenerationVectorEnv
from tokengym.rewards import FunctionScorer, Reward, Sparse, VectorRewardWrapper

ROWS, MINIBATCHES = 32, 4
PHASES = ("rollout", "assign", "update")


def measure(length: int, steps: int) -> dict[str, float]:
    """Return the CPU seconds of each phase, and the MiB that the steps took at their highest."""
    torch.set_num_threads(1)
    envs = TokenGenerationVectorEnv(
        num_envs=ROWS,
        tokenizer=make_tokenizer(2_048),
        prompts=[" ".join(f"w{2 + i}" for i in range(PROMPT_TOKENS))],
        max_new_tokens=length,
    )
    agent = PPO(
        "CausalLMPolicy",
        VectorRewardWrapper(envs, Reward(FunctionScorer(lambda *_: 1.0), Sparse())),
        n_minibatches=MINIBATCHES,
        value_network="trunk",
        policy_kwargs={"model": make_model("small", "float32", 1e-30)},
        seed=0,
        device="cpu",
    )
    before, taken = resident(), []
    for _ in range(steps + 1):
        marks = [time.process_time()]
        played = agent.collect()
        marks.append(time.process_time())
        experience = agent.assign(played)  # type: ignore[arg-type]
        marks.append(time.process_time())
        agent.update(experience)
        marks.append(time.process_time())
        taken.append(np.diff(marks))
    seconds = np.min(taken[1:], axis=0)  # the first warms up
    return dict(zip(PHASES, seconds.tolist(), strict=True)) | {"peak": peak() - before}


def main() -> None:
    """Measure each length in a process of its own, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=[32, 64, 128, 256, 512])
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)
    settings = parser.parse_args()
    if settings.only is not None:
        print(json.dumps(measure(settings.only, settings.steps)))
        return
    print(f"microseconds of CPU per token; the smallest of {settings.steps} steps\n")
    print("| new tokens | rollout | assign | update | step | MiB | KiB per token of a minibatch |")
    print("|---|---|---|---|---|---|---|")
    for length in settings.lengths:
        command = [sys.executable, str(Path(__file__).resolve()), *sys.argv[1:]]
        output = subprocess.run(
            [*command, "--only", str(length)], check=True, stdout=subprocess.PIPE, text=True
        ).stdout
        measurements = json.loads(output.splitlines()[-1])
        times = [1e6 * measurements[phase] / (ROWS * length) for phase in PHASES]
        cells = [f"{value:,.0f}" for value in [*times, sum(times)]]
        each = 1024 * measurements["peak"] / (ROWS / MINIBATCHES * length)
        print(f"| {length} | {' | '.join(cells)} | {measurements['peak']:,.0f} | {each:,.0f} |")


if __name__ == "__main__":
    main()
