"""How time and memory grow with rows, horizon, vocabulary, prompts, turns and rewards compared.

Each size is measured in a process of its own, forked from one that has imported the libraries: CPU
seconds, the smallest of some repeats, and by how much the highest resident memory rose. The
exponent is that of a power law through the two largest sizes: 1 is linear growth. What does not
depend on the size makes it smaller.

- rows, horizon, vocabulary: a PPO step (rollout, assignment, update) of a random 2-layer, width-64
  GPT-2: 8 rows of 16 tokens, 1,024 words, but for the one that grows;
- prompts: ``gym.make`` over a jsonl file of texts of 21 words;
- turns: the rollout of 8 conversations with turns of 8 tokens and replies of 4;
- rewards: the report of a comparison of 5 seeds and 20 evaluations each.

    python benchmarks/growth.py [--out docs/results/growth] [--repeats 3]
"""

import argparse
import csv
import json
import logging
import math
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from memory import peak, resident
from rollout_speed import EOS, PAD, PROMPT_TOKENS, make_tokenizer
from transformers import GPT2Config, GPT2LMHeadModel

from tokengym.agents import PPO
from tokengym.agents.rollouts.playing import play_round
from tokengym.agents.rollouts.rounds import as_rounds
from tokengym.envs import Reply, TokenGenerationVectorEnv
from tokengym.evaluation.runs.results import report_curves
from tokengym.rewards import FunctionScorer, Reward, Sparse, VectorRewardWrapper

Work = Callable[[], object]
SIZES = {
    "rows": (8, 32, 128),
    "horizon": (16, 64, 256),
    "vocabulary": (1_024, 4_096, 16_384),
    "prompts": (5_000, 20_000, 80_000),
    "turns": (2, 8, 32),
    "rewards": (2, 8, 32),
}
ROWS, TOKENS, WORDS, WORDS_OF_A_PROMPT = 8, 16, 1_024, 21


def ppo(rows: int, tokens: int, words: int, **generation: Any) -> PPO:
    """Return a PPO agent over its environment."""
    torch.manual_seed(0)
    config = GPT2Config(
        **{"n_layer": 2, "n_embd": 64, "n_head": 2, "vocab_size": words, "n_positions": 1_024},
        **{"bos_token_id": EOS, "eos_token_id": EOS, "pad_token_id": PAD},
    )
    envs = TokenGenerationVectorEnv(
        num_envs=rows,
        tokenizer=make_tokenizer(words),
        prompts=[" ".join(f"w{2 + i}" for i in range(PROMPT_TOKENS))],
        max_new_tokens=tokens,
        forbidden_token_ids=(EOS,),
        **generation,
    )
    return PPO(
        "CausalLMPolicy",
        VectorRewardWrapper(envs, Reward(FunctionScorer(lambda *_: 1.0), Sparse())),
        value_network="trunk",
        policy_kwargs={"model": GPT2LMHeadModel(config)},
        seed=0,
        device="cpu",
    )


def ppo_step(rows: int = ROWS, tokens: int = TOKENS, words: int = WORDS) -> Work:
    """Return a function that does one PPO step."""
    agent = ppo(rows, tokens, words)
    return lambda: agent.update(agent.assign(agent.collect()))  # type: ignore[arg-type]


def conversations(turns: int) -> Work:
    """Return a function that plays one round of conversations."""
    agent = ppo(
        ROWS,
        turns * 8 + (turns - 1) * 4 + 1,
        WORDS,
        partner=lambda conversation, metadata, rng: Reply("w2 w3 w4 w5"),
        max_turns=turns,
        max_turn_tokens=8,
    )
    rounds = as_rounds(agent.env)
    return lambda: play_round(agent.sampler(), rounds)


def own_data(prompts: int) -> Work:
    """Return a function that makes an environment over a file."""
    make_over(file_of(100))  # imports what reads files
    file = file_of(prompts)
    return lambda: make_over(file)


def file_of(prompts: int) -> Path:
    """Return a new file of random prompts."""
    words = np.random.default_rng(0).integers(2, WORDS, (prompts, WORDS_OF_A_PROMPT))
    file = Path(tempfile.mkdtemp()) / "prompts.jsonl"
    with file.open("w") as stream:
        for row in words:
            stream.write(json.dumps({"prompt": " ".join(f"w{word}" for word in row)}) + "\n")
    return file


def make_over(file: Path) -> None:
    """Make an environment over a file, and begin an episode."""
    made: dict[str, Any] = {"tokenizer": make_tokenizer(WORDS), "dataset": file, "reward": None}
    gym.make("tokengym/TokenGeneration-v0", **made, max_new_tokens=TOKENS).reset()


def report(rewards: int) -> Work:
    """Return a function that writes a comparison's report."""
    folder, rng = Path(tempfile.mkdtemp()), np.random.default_rng(0)
    with (folder / "curves.csv").open("w") as stream:
        print("credit,seed,step,score", file=stream)
        for reward in range(rewards):
            for seed in range(5):
                for step, score in enumerate(rng.normal(size=20).cumsum()):
                    print(f"rule-{reward},{seed},{step},{score}", file=stream)
    return lambda: report_curves(folder / "curves.csv", folder / "report")


WORK: dict[str, Callable[[int], Work]] = {
    "rows": lambda size: ppo_step(rows=size),
    "horizon": lambda size: ppo_step(tokens=size),
    "vocabulary": lambda size: ppo_step(words=size),
    "prompts": own_data,
    "turns": conversations,
    "rewards": report,
}


def measure(name: str, size: int, repeats: int, answer: Any) -> None:
    """Send the CPU seconds and the MiB of one size."""
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    work, before, taken = WORK[name](size), resident(), []
    if name != "prompts":  # a file is read once by a process
        work()
    for _ in range(1 if name == "prompts" else repeats):
        begin = time.process_time()
        work()
        taken.append(time.process_time() - begin)
    answer.send((min(taken), peak() - before))


def exponent(small: tuple[float, float], large: tuple[float, float]) -> float:
    """Return the exponent of a power law through two points (size, cost)."""
    return math.log(large[1] / small[1]) / math.log(large[0] / small[0])


def draw(rows: list[dict[str, Any]], file: Path) -> None:
    """Draw time and memory over the sizes, each relative to its smallest."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, column, title in zip(
        figure.subplots(1, 2), ("cpu_s", "mib"), ("CPU time", "memory"), strict=True
    ):
        for name in SIZES:
            points = [row for row in rows if row["what"] == name]
            x = [row["size"] / points[0]["size"] for row in points]
            axes.plot(x, [row[column] / points[0][column] for row in points], "o-", label=name)
        axes.plot([1, 16], [1, 16], ":", color="0.5", label="linear")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
        axes.set_xlabel("size, times the smallest")
        axes.set_ylabel(f"{title}, times that of the smallest")
    axes.legend(fontsize=8, frameon=False)
    figure.savefig(file, dpi=130, metadata={"Software": None})


def main() -> None:
    """Measure every size, write csv and picture, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/results/growth"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=SIZES, default=list(SIZES))
    settings = parser.parse_args()
    context, rows = multiprocessing.get_context("fork"), list[dict[str, Any]]()
    for name in settings.only:
        for size in SIZES[name]:
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=measure, args=(name, size, settings.repeats, sender))
            process.start()
            sender.close()
            seconds, mib = receiver.recv()
            process.join()
            rows.append({"what": name, "size": size, "cpu_s": seconds, "mib": max(mib, 0.1)})
    print("| | sizes | CPU s | exponent | MiB | exponent |")
    print("|---|---|---|---|---|---|")
    for name in settings.only:
        points = [row for row in rows if row["what"] == name]
        cells = [name, ", ".join(f"{row['size']:,}" for row in points)]
        for column, form in (("cpu_s", ".3f"), ("mib", ",.0f")):
            pairs = [(row["size"], row[column]) for row in points]
            cells.append(", ".join(format(cost, form) for _, cost in pairs))
            cells.append(f"{exponent(*pairs[-2:]):.2f}")
        print(f"| {' | '.join(cells)} |")
    settings.out.mkdir(parents=True, exist_ok=True)
    with (settings.out / "growth.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {**row, "cpu_s": f"{row['cpu_s']:.4f}", "mib": f"{row['mib']:.1f}"} for row in rows
        )
    if settings.only == list(SIZES):
        draw(rows, settings.out / "growth.png")


if __name__ == "__main__":
    main()
