"""What a rule of token credit costs beside an update: 256 responses of 256 tokens on a CPU.

An update is `PPO.assign` and `PPO.update` of one epoch (the default has more) of GPT-2, 4 layers of
width 128 and a vocabulary of 2,048, float32. A rule is timed from the episodes to their token
rewards, with what the scorer says of them known: its pass is the scorer's cost, under any rule.
``segments=8`` sums them within pieces. One thread; medians over the repeats; CPU seconds, so that
other work on the machine counts less.

    python benchmarks/rule_speed.py [--repeats 9] [--rows 256] [--tokens 256]

Ends with status 1 where a rule takes more than 2 % of the update.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from rollout_speed import EOS, PROMPT_TOKENS, make_model, make_tokenizer

from tokengym.agents import PPO
from tokengym.envs import Episode, TokenGenerationVectorEnv
from tokengym.rewards import Reward, Rule, Scorer, Scores, SparseReward
from tokengym.rewards.credits.words import REWARDS, SHIPPED
from tokengym.rewards.scores import KINDS

MOST = 0.02
"""Largest share of an update that a rule may take."""


def seconds(function: Callable[[], Any]) -> float:
    """Return the CPU seconds of a call."""
    started = time.process_time()
    function()
    return time.process_time() - started


class Silent(Scorer):
    """Gives every kind of attribution, and is never asked."""

    attribution_kinds = frozenset(KINDS)

    def score(self, episodes: Sequence[Episode], *, attribution: str | None = None) -> Scores:
        """Refuse the question."""
        raise AssertionError("what the scorer says is known")


def update_of(rows: int, tokens: int, repeats: int) -> tuple[float, Sequence[Episode]]:
    """Return the CPU seconds of an update, and the episodes that it learned from."""
    model = make_model("small", "float32", 1e-6)
    envs = TokenGenerationVectorEnv(
        num_envs=rows,
        tokenizer=make_tokenizer(model.config.vocab_size),
        prompts=[
            " ".join(f"w{2 + (7 * i + j) % 900}" for j in range(PROMPT_TOKENS)) for i in range(64)
        ],
        max_new_tokens=tokens,
        forbidden_token_ids=(EOS,),
    )
    paid = SparseReward(envs, lambda prompt, response: len(response) % 7 / 7)
    policy: dict[str, Any] = {"model": model}
    agent = PPO("CausalLMPolicy", paid, n_epochs=1, policy_kwargs=policy, seed=0, device="cpu")
    played = agent.collect()
    assert played is not None
    taken = [seconds(lambda: agent.update(agent.assign(played))) for _ in range(repeats)]
    return statistics.median(taken), played.episodes


def known_scores(episodes: Sequence[Episode]) -> tuple[Scores, Mapping[str, Scores]]:
    """Return scores of episodes, and those with every kind of attribution, drawn at random."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=len(episodes))
    accounts = {}
    for kind in KINDS:
        rows = [rng.normal(size=len(e.response_ids)) for e in episodes]
        if kind == "attention":
            rows = [np.abs(row) for row in rows]
        if kind == "relevance":
            rows = [row - (row.sum() - v) / len(row) for row, v in zip(rows, values, strict=True)]
        accounts[kind] = Scores(values, attributions=rows, signed=kind != "attention")
    return Scores(values), accounts


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--updates", type=int, default=1, help="updates that are timed")
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=256)
    settings = parser.parse_args()
    torch.set_num_threads(1)
    update, episodes = update_of(settings.rows, settings.tokens, settings.updates)
    scores, accounts = known_scores(episodes)
    print(
        f"{settings.rows} responses of {settings.tokens} tokens, 1 thread; one epoch of an update "
        f"takes {update:.1f} CPU s; medians of {settings.repeats}\n"
    )
    print("| rule | CPU ms | share of the update | segments=8, CPU ms | share |")
    print("|---|---|---|---|---|")
    largest = 0.0
    for name in SHIPPED:
        function, cells = REWARDS.find(name).factory.function, []  # type: ignore[attr-defined]
        for options in ({}, {"segments": 8}):
            rule = Rule(function, **options)
            known: Any = {"scores": scores, "accounts": accounts}
            reward = Reward(Silent(), rule)

            def earn(reward: Reward = reward, known: Any = known) -> None:
                inputs = reward.inputs(episodes, **known)
                inputs.placed(reward.credit(inputs)[0])

            taken = statistics.median(seconds(earn) for _ in range(settings.repeats))
            largest = max(largest, taken / update)
            cells += [f"{1e3 * taken:.1f}", f"{taken / update:.2%}"]
        print(f"| `{name}` | {' | '.join(cells)} |")
    print(f"\nThe largest share is {largest:.2%}; at most {MOST:.0%} is wanted.")
    sys.exit(largest > MOST)


if __name__ == "__main__":
    main()
