"""How fast the environments step: ratios taken in one run, arms interleaved, medians.

Three questions, each a ratio of two arms that take turns:

- batch: steps per second of the native batch over those of ``SyncVectorEnv`` over copies of the
  single environment, episodes running to their end and beginning anew; a null policy (one constant
  token, so rows end together) and a random one (EOS included, so some rows end in every step);
- length: cost of a batched step that ends no episode at horizon 512 over horizon 16, with the
  observations copied and with ``copy=False``; beside it the cost of an end, which is an episode's
  last step and the reset after it;
- single: cost of the single environment's step, and of a batch of one row, over a bare Gymnasium
  environment that only copies its observation.

    python benchmarks/step_speed.py [--rows 1024] [--repeats 7]
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tokengym.envs import TokenGenerationEnv, TokenGenerationVectorEnv

VOCABULARY = 603
PROMPT_TOKENS = 8


def word_tokenizer() -> PreTrainedTokenizerFast:
    """Return a word-level tokenizer of the bundled one's size."""
    words = ["<pad>", "<eos>", "<unk>", *(f"word{i}" for i in range(VOCABULARY - 3))]
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )


def settings(tokenizer: PreTrainedTokenizerFast, max_new_tokens: int) -> dict[str, Any]:
    """Return the arguments that both environments share."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, PROMPT_TOKENS + 1, 256)
    prompts = [" ".join(f"word{i}" for i in rng.integers(0, 600, n)) for n in lengths]
    return {
        "tokenizer": tokenizer,
        "prompts": prompts,
        "max_prompt_tokens": PROMPT_TOKENS,
        "max_new_tokens": max_new_tokens,
    }


class BareEnv(gymnasium.Env[dict[str, np.ndarray], int]):
    """What no environment of this observation can do without: copying it."""

    def __init__(self, observation_space: gymnasium.spaces.Dict, width: int) -> None:
        """Allocate an observation."""
        self.observation_space = observation_space
        self.action_space = gymnasium.spaces.Discrete(VOCABULARY)
        self.ids, self.mask = np.zeros(width, np.int64), np.zeros(width, np.int8)

    def step(self, action: int) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Copy the observation."""
        observation = {"attention_mask": self.mask.copy(), "input_ids": self.ids.copy()}
        return observation, 0.0, False, False, {}


def batch_arm(envs: Any, actions: np.ndarray) -> Callable[[], float]:
    """Return a function that plays the actions and gives seconds per batched step."""
    envs.reset(seed=0)

    def play() -> float:
        begin = time.perf_counter()
        for tokens in actions:
            envs.step(tokens)
        return (time.perf_counter() - begin) / len(actions)

    return play


def length_arm(envs: Any, actions: np.ndarray, horizon: int) -> Callable[[], tuple[float, float]]:
    """Return a function that plays whole episodes and gives seconds per step and per end.

    All rows end together. An end is the last step and the reset after it, for all rows.

    Args:
        envs: A batch that resets in the step after an end, whose episodes last ``horizon`` steps.
        actions: (n * horizon, rows), none of which ends an episode.
        horizon: Steps of an episode, at least 2.
    """
    envs.reset(seed=0)
    episodes = np.split(actions, len(actions) // horizon)

    def play() -> tuple[float, float]:
        steps = ends = 0.0
        for tokens in episodes:
            begin = time.perf_counter()
            for row in tokens[:-1]:
                envs.step(row)
            last = time.perf_counter()
            *_, terminated, truncated, _ = envs.step(tokens[-1])
            envs.step(tokens[-1])  # resets
            end = time.perf_counter()
            assert (terminated | truncated).all(), f"an episode is not over after {horizon} steps"
            steps, ends = steps + last - begin, ends + end - last
        return steps / (len(actions) - len(episodes)), ends / len(episodes)

    return play


def interleaved(arms: dict[str, Callable[[], Any]], repeats: int) -> dict[str, Any]:
    """Return each arm's median, the arms taking turns; of an arm of two costs that of each."""
    times: dict[str, list[Any]] = {name: [] for name in arms}
    for arm in arms.values():
        arm()
    for _ in range(repeats):
        for name, arm in arms.items():
            times[name].append(arm())
    return {name: np.median(values, axis=0) for name, values in times.items()}


def measure_batch(tokenizer: PreTrainedTokenizerFast, rows: int, repeats: int) -> None:
    """Print the native batch against ``SyncVectorEnv``."""
    print(f"\nSteps per second of {rows:,} rows, and over SyncVectorEnv's:\n")
    print("| | SyncVectorEnv | native | ratio | native, copy=False | ratio |")
    print("|---|---|---|---|---|---|")
    shared = settings(tokenizer, max_new_tokens=48)
    policies = {
        "null": np.full((98, rows), 5),
        "random": np.random.default_rng(1).integers(0, VOCABULARY, (98, rows)),
    }
    for mode in (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP):
        batch = {"num_envs": rows, "autoreset_mode": mode, **shared}
        copies = [lambda: TokenGenerationEnv(**shared)] * rows
        envs = {
            "sync": SyncVectorEnv(copies, autoreset_mode=mode),
            "native": TokenGenerationVectorEnv(**batch),
            "views": TokenGenerationVectorEnv(**batch, copy=False),
        }
        for policy, actions in policies.items():
            arms = {name: batch_arm(env, actions) for name, env in envs.items()}
            cost = interleaved(arms, repeats)
            cells = [f"{mode.value}, {policy} policy", f"{rows / cost['sync']:,.0f}"]
            for name in ("native", "views"):
                cells += [f"{rows / cost[name]:,.0f}", f"{cost['sync'] / cost[name]:.1f}"]
            print(f"| {' | '.join(cells)} |")


def measure_length(tokenizer: PreTrainedTokenizerFast, rows: int, repeats: int) -> None:
    """Print the cost of a batched step at horizon 512 over horizon 16, and that of an end."""
    actions = np.random.default_rng(1).integers(3, VOCABULARY, (512, rows))
    for copy in (True, False):
        arms = {}
        for horizon in (16, 512):
            envs = TokenGenerationVectorEnv(
                num_envs=rows, copy=copy, **settings(tokenizer, horizon), forbidden_token_ids=(1,)
            )
            arms[str(horizon)] = length_arm(envs, actions, horizon)
        cost = interleaved(arms, repeats)
        (short, short_end), (long, long_end) = 1e6 * cost["16"], 1e6 * cost["512"]
        print(
            f"| {rows:,} rows, copy={copy} | {short:.1f} | {long:.1f} | {long / short:.2f} | "
            f"{short_end:.1f} | {long_end:.1f} |"
        )


def measure_single(tokenizer: PreTrainedTokenizerFast, repeats: int) -> None:
    """Print the single environment's step, and that of a batch of one, against the bare one."""
    env = TokenGenerationEnv(**settings(tokenizer, 48))
    batch = TokenGenerationVectorEnv(num_envs=1, copy=False, **settings(tokenizer, 48))
    bare = BareEnv(env.observation_space, PROMPT_TOKENS + 48)
    actions = list(np.random.default_rng(1).integers(3, VOCABULARY, 40))

    def arm(step: Callable[[Any], Any], tokens: list[Any]) -> Callable[[], float]:
        def play() -> float:
            env.reset(seed=0)
            batch.reset(seed=0)
            begin = time.perf_counter()
            for token in tokens:
                step(token)
            return (time.perf_counter() - begin) / len(actions)

        return play

    rows = [np.array([token]) for token in actions]
    arms = {
        "bare": arm(bare.step, actions),
        "single": arm(env.step, actions),
        "batch of one": arm(batch.step, rows),
    }
    cost = interleaved(arms, 40 * repeats)
    print("Microseconds a step; the bare environment only copies its observation:\n")
    print("| bare | single | ratio | batch of one row | ratio |\n|---|---|---|---|---|")
    cells = [f"{1e6 * cost['bare']:.2f}"]
    for name in ("single", "batch of one"):
        cells += [f"{1e6 * cost[name]:.2f}", f"{cost[name] / cost['bare']:.2f}"]
    print(f"| {' | '.join(cells)} |")


def main() -> None:
    """Run the three measurements."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    tokenizer = word_tokenizer()
    measure_single(tokenizer, arguments.repeats)
    measure_batch(tokenizer, arguments.rows, arguments.repeats)
    print("\nMicroseconds a batched step between resets at two horizons, and an episode's end:\n")
    print("| | horizon 16 | horizon 512 | ratio | end, horizon 16 | end, horizon 512 |")
    print("|---|---|---|---|---|---|")
    for rows in (32, arguments.rows):
        measure_length(tokenizer, rows, arguments.repeats)


if __name__ == "__main__":
    main()
