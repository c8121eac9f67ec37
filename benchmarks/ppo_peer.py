"""A whole PPO step of ours against TRL's PPOTrainer, in one process and in turns.

Both sample 32 responses of 48 tokens to prompts of 8 with one GPT-2, score them with one reward
model, take the KL to one reference, and make 4 epochs of 4 minibatches of 8: 16 optimiser steps of
AdamW. No EOS, float32. Ours runs with a value network of its own, which is all that TRL has, and
with the value head on the policy's trunk; and with the KL by k1, as TRL's, and exact, which is our
default and takes the logits of both models at every token. TRL's step is timed from one of its own
step ends to the next, and ours run in between. Medians, of CPU seconds too, in which other work on
the machine counts less. TRL's last release with PPO is 1.12.0 (trl.experimental.ppo); unpack its
wheel:

    pip download --no-deps trl==1.12.0 && unzip trl-1.12.0-*.whl -d trl-1.12.0
    python benchmarks/ppo_peer.py --trl trl-1.12.0 [--steps 7] [--size small] [--threads 1]
"""

import argparse
import contextlib
import copy
import logging
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from rollout_speed import EOS, PAD, PROMPT_TOKENS, SIZES, make_model, make_tokenizer
from transformers import GPT2Config, GPT2ForSequenceClassification

from tokengym.agents import PPO
from tokengym.agents.policy.settings import Products
from tokengym.envs import TokenGenerationVectorEnv
from tokengym.rewards import RewardModel, SparseReward

ROWS, NEW_TOKENS, EPOCHS, MINIBATCHES, LEARNING_RATE = 32, 48, 4, 4, 3e-6


def make_scorer(size: str) -> GPT2ForSequenceClassification:
    """Return a random reward model of the policy's size, which serves as TRL's value model too."""
    torch.manual_seed(1)
    ids = {"bos_token_id": EOS, "eos_token_id": EOS, "pad_token_id": PAD}
    config = GPT2Config(**SIZES[size], n_positions=1_024, num_labels=1, **ids)  # type: ignore[arg-type]
    return GPT2ForSequenceClassification(config).eval()


def make_agent(size: str, value_network: str, kl_estimator: str, products: str, device: str) -> PPO:
    """Return our agent on its environment."""
    tokenizer = make_tokenizer(SIZES[size]["vocab_size"])
    envs = TokenGenerationVectorEnv(
        num_envs=ROWS,
        tokenizer=tokenizer,
        prompts=[
            " ".join(f"w{2 + (7 * i + j) % 900}" for j in range(PROMPT_TOKENS)) for i in range(64)
        ],
        max_new_tokens=NEW_TOKENS,
    )
    scorer = RewardModel(make_scorer(size), tokenizer=tokenizer)
    return PPO(
        "CausalLMPolicy",
        SparseReward(envs, scorer),
        LEARNING_RATE,
        n_epochs=EPOCHS,
        n_minibatches=MINIBATCHES,
        kl_estimator=kl_estimator,
        policy_kwargs={
            "model": make_model(size, "float32", 1e-30),
            "products": products,
        },
        value_network=value_network,
        seed=0,
        device=device,
    )


def now() -> NDArray[np.float64]:
    """Return CPU seconds and seconds, once a GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return np.array([time.process_time(), time.perf_counter()])


def timed_step(agent: PPO) -> NDArray[np.float64]:
    """Take one PPO step; return what its phases and the whole took, (4, 2)."""
    marks = [now()]
    played = agent.collect()
    marks.append(now())
    experience = agent.assign(played)  # type: ignore[arg-type]
    marks.append(now())
    stats = agent.update(experience)
    marks.append(now())
    assert stats.num_minibatches == EPOCHS * MINIBATCHES
    assert int(experience.response_mask.sum()) == ROWS * NEW_TOKENS
    return np.stack([*np.diff(marks, axis=0), marks[-1] - marks[0]])


def run_trainer(
    size: str, steps: int, between: Callable[[], None], device: str
) -> list[NDArray[np.float64]]:
    """Run TRL's trainer; return what each step took, (2,), ``between`` not counted."""
    from datasets import Dataset
    from transformers import PrinterCallback, TrainerCallback
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    taken: list[NDArray[np.float64]] = []
    optimiser_steps: list[int] = []

    class Clock(TrainerCallback):
        """Reads the clock where a step ends, lets the others run, and starts it again."""

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.started = now()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            taken.append(now() - self.started)
            between()
            self.started = now()

    tokenizer = make_tokenizer(SIZES[size]["vocab_size"])
    prompts = torch.randint(2, 900, (ROWS * steps, PROMPT_TOKENS)).tolist()
    policy = make_model(size, "float32", 1e-30)
    with tempfile.TemporaryDirectory() as folder:
        trainer = PPOTrainer(
            args=PPOConfig(
                output_dir=folder,
                use_cpu=device == "cpu",
                bf16=False,
                gradient_checkpointing=False,
                learning_rate=LEARNING_RATE,
                per_device_train_batch_size=ROWS,
                gradient_accumulation_steps=1,
                num_mini_batches=MINIBATCHES,
                num_ppo_epochs=EPOCHS,
                total_episodes=ROWS * steps,
                response_length=NEW_TOKENS,
                temperature=1.0,
                num_sample_generations=0,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
            ),
            processing_class=tokenizer,
            model=policy,
            ref_model=copy.deepcopy(policy),
            reward_model=make_scorer(size),
            value_model=make_scorer(size),
            train_dataset=Dataset.from_dict({"input_ids": prompts}),
            callbacks=[Clock()],
        )
        trainer.remove_callback(PrinterCallback)
        optimizer: Any = trainer.optimizer.optimizer
        optimizer.register_step_post_hook(lambda *_: optimiser_steps.append(1))
        with contextlib.redirect_stdout(sys.stderr):
            trainer.train()
    assert len(optimiser_steps) == steps * EPOCHS * MINIBATCHES
    return taken


def print_table(theirs: NDArray[np.float64], ours: dict[str, NDArray[np.float64]]) -> None:
    """Print medians and ratios.

    Args:
        theirs: (2,) CPU seconds and seconds of TRL's step.
        ours: (4, 2) of our phases, by way of having a value.
    """
    print("| | rollout | assign | update | step, CPU s | TRL / ours | step, s | TRL / ours |")
    print("|---|---|---|---|---|---|---|---|")
    print(f"| TRL, value network, k1 KL | | | | {theirs[0]:.2f} | | {theirs[1]:.2f} | |")
    for name, medians in ours.items():
        phases = " | ".join(f"{seconds:.2f}" for seconds in medians[:3, 0])
        cpu, wall = (
            f"{step:.2f} | {trl / step:.2f}" for step, trl in zip(medians[3], theirs, strict=True)
        )
        print(f"| tokengym, {name} | {phases} | {cpu} | {wall} |")


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trl", required=True, help="folder that holds the package trl")
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    kinds = ("k1", "exact")
    parser.add_argument("--estimators", nargs="+", choices=kinds, default=kinds)
    parser.add_argument("--products", nargs="+", choices=get_args(Products), default=["torch"])
    parser.add_argument("--avx2", action="store_true", help="hold torch's library to AVX2")
    settings = parser.parse_args()
    sys.path.insert(0, settings.trl)
    if settings.avx2:
        os.environ["MKL_ENABLE_INSTRUCTIONS"] = "AVX2"  # read at the first product
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    torch.set_num_threads(settings.threads)
    agents = {
        f"{name}, {estimator} KL, {products}": make_agent(
            settings.size, network, estimator, products, settings.device
        )
        for products in settings.products
        for estimator in settings.estimators
        for network, name in (("own", "value network"), ("trunk", "value head on the trunk"))
    }
    taken: dict[str, list[NDArray[np.float64]]] = {name: [] for name in agents}

    def step_ours() -> None:
        for name, agent in agents.items():
            taken[name].append(timed_step(agent))

    theirs = run_trainer(settings.size, settings.steps + 1, step_ours, settings.device)
    from trl import __version__

    shape = SIZES[settings.size]
    print(
        f"GPT-2 {shape['n_layer']}x{shape['n_embd']}, vocabulary {shape['vocab_size']:,}, TRL "
        f"{__version__}, {settings.threads} thread(s) on {settings.device}, medians of "
        f"{settings.steps} steps\n"
    )
    print_table(  # the first step warms up
        np.median(theirs[1:], axis=0),
        {name: np.median(steps[1:], axis=0) for name, steps in taken.items()},
    )


if __name__ == "__main__":
    main()
