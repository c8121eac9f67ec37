"""How fast an agent plays conversations, against ``model.generate`` called once a turn.

Both sample as many turns and read the same replies: 4 turns of 12 tokens, replies of 4 to 12, so
that rows are ragged. A call of ``generate`` reads the conversation and throws its cache away;
ours reads a reply into the cache, and also returns every token's log-prob, value and entropy, and
the environment's observations. Arms take turns in one process; medians of tokens that the policy
wrote per CPU second, and per second.

    python benchmarks/turns_speed.py [--sizes small large] [--repeats 5] [--threads 1]
"""

import argparse
import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from rollout_speed import EOS, PAD, PROMPT_TOKENS, SIZES, make_model, make_tokenizer, measure
from transformers import PreTrainedModel

from tokengym.agents import PPO
from tokengym.agents.policy.language_model import fuse_activations
from tokengym.agents.rollouts.playing import play_round
from tokengym.agents.rollouts.rounds import as_rounds
from tokengym.envs import Reply, TokenGenerationVectorEnv

TURNS, TURN_TOKENS, REPLY_TOKENS = 4, 12, range(4, 13)


def prompt_of(row: int) -> list[int]:
    """Return a row's prompt; its first token says how long its replies are."""
    return [2 + (7 * row + place) % 900 for place in range(PROMPT_TOKENS)]


def reply_to(first: int, turn: int) -> list[int]:
    """Return the reply to a turn of the text that begins with a token."""
    size = REPLY_TOKENS[(first + 5 * turn) % len(REPLY_TOKENS)]
    return [2 + (first + 11 * place) % 900 for place in range(size)]


def partner(
    conversation: Sequence[Mapping[str, str]], metadata: Mapping[str, Any], rng: np.random.Generator
) -> Reply:
    """Answer as `reply_to` does."""
    del metadata, rng
    first = int(conversation[0]["content"].split()[0].removeprefix("w"))
    ids = reply_to(first, len(conversation) // 2)
    return Reply(" ".join(f"w{token}" for token in ids))


def generate_arm(model: PreTrainedModel, rows: int) -> Callable[[], int]:
    """Return a function that calls ``generate`` once a turn and counts the tokens written."""
    settings: dict[str, Any] = {"do_sample": True, "top_k": 0, "max_new_tokens": TURN_TOKENS}

    @torch.inference_mode()
    def play() -> int:
        texts = [prompt_of(row) for row in range(rows)]
        written = 0
        for turn in range(1, TURNS + 1):
            width = max(map(len, texts))
            ids, mask = torch.full((rows, width), PAD), torch.zeros(rows, width, dtype=torch.int64)
            for row, text in enumerate(texts):
                ids[row, width - len(text) :] = torch.tensor(text)
                mask[row, width - len(text) :] = 1
            made = model.generate(ids, attention_mask=mask, eos_token_id=None, **settings)
            for text, new in zip(texts, made[:, width:].tolist(), strict=True):
                written += len(new)
                text += new + reply_to(text[0], turn)
        return written

    return play


def ours_arm(model: PreTrainedModel, rows: int) -> Callable[[], int]:
    """Return a function that plays one round and counts the tokens written."""
    envs = TokenGenerationVectorEnv(
        num_envs=rows,
        tokenizer=make_tokenizer(model.config.vocab_size),
        prompts=[" ".join(f"w{token}" for token in prompt_of(row)) for row in range(rows)],
        partner=partner,
        max_turns=TURNS,
        max_turn_tokens=TURN_TOKENS,
        max_new_tokens=TURNS * TURN_TOKENS + (TURNS - 1) * REPLY_TOKENS[-1] + 1,
        forbidden_token_ids=(EOS,),
    )
    agent = PPO(
        "CausalLMPolicy",
        envs,
        value_network="trunk",
        policy_kwargs={"model": copy.deepcopy(model), "products": "torch"},  # set on the modules
        device="cpu",
    )
    rounds, options = as_rounds(envs), {"prompt_ids": list(range(rows))}

    def play() -> int:
        played = play_round(agent.sampler(), rounds, options=options)
        assert played is not None
        return sum(episode.num_written for episode in played.episodes)

    return play


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["small", "large"])
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    settings = parser.parse_args()
    torch.set_num_threads(settings.threads)
    logging.disable(logging.WARNING)
    print(
        f"{settings.rows} conversations of {TURNS} turns of {TURN_TOKENS} tokens, prompts of "
        f"{PROMPT_TOKENS}, replies of {REPLY_TOKENS[0]} to {REPLY_TOKENS[-1]}, float32, "
        f"{settings.threads} thread(s), products by torch, medians of {settings.repeats}\n"
    )
    print("| | generate, tokens/CPU s | tokengym | ratio | generate, tokens/s | tokengym | ratio |")
    print("|---|---|---|---|---|---|---|")
    for size in settings.sizes:
        model = make_model(size, "float32", 1e-30)
        fuse_activations(model)  # for `generate` too
        arms = {"generate": generate_arm(model, settings.rows)}
        arms["tokengym"] = ours_arm(model, settings.rows)
        assert len({arm() for arm in arms.values()}) == 1, "the arms write different numbers"
        speeds = measure(arms, settings.repeats)
        pairs = zip(speeds["generate"], speeds["tokengym"], strict=True)
        cells = [f"{theirs:,.0f} | {ours:,.0f} | {ours / theirs:.2f}" for theirs, ours in pairs]
        shape = f"{model.config.num_hidden_layers}x{model.config.hidden_size}"
        print(f"| {size}, {shape} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
