"""How fast an agent writes through an environment's ``step``, against ``model.generate``.

Both sample, without top-k, from the same random GPT-2 or Llama; ours also returns every token's
log-prob, value and entropy, and the environment's observations. Arms take turns in one process;
medians of tokens per CPU second, so that other work on the machine counts less, and per second.

- even: no EOS, every row writes all its tokens;
- ragged: EOS with probability 1/24 at each step, by the bias of GPT-2's last norm; tokens count up
  to it.

    python benchmarks/rollout_speed.py [--size small] [--repeats 7] [--threads 1]
    python benchmarks/rollout_speed.py --products torch onednn
    python benchmarks/rollout_speed.py --size large --dtypes float32 bfloat16 --repeats 3
    python benchmarks/rollout_speed.py --size llama --dtypes float32 bfloat16 --repeats 3
"""

import argparse
import copy
import logging
import math
import statistics
import time
from collections.abc import Callable
from typing import Any, get_args

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from tokengym.agents import PPO
from tokengym.agents.policy.language_model import fuse_activations
from tokengym.agents.policy.settings import Products
from tokengym.agents.rollouts.playing import play_round
from tokengym.agents.rollouts.rounds import as_rounds
from tokengym.envs import TokenGenerationVectorEnv

SIZES: dict[str, dict[str, int]] = {
    "small": {"n_layer": 4, "n_embd": 128, "n_head": 4, "vocab_size": 2_048},
    "large": {"n_layer": 6, "n_embd": 768, "n_head": 12, "vocab_size": 50_257},
    "llama": {  # SmolLM2-135M
        **{"num_hidden_layers": 30, "hidden_size": 576, "intermediate_size": 1_536},
        **{"num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49_152},
    },
}
PAD, EOS, PROMPT_TOKENS = 0, 1, 8


def make_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """Return a word-level tokenizer of the given size."""
    words = {"<pad>": PAD, "<eos>": EOS} | {f"w{i}": i for i in range(2, vocabulary)}
    backend = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", unk_token="<pad>"
    )


def make_model(size: str, dtype: str, eos_probability: float) -> PreTrainedModel:
    """Return a random model; a GPT-2's EOS has the wanted probability wherever it stands."""
    torch.manual_seed(0)
    ids = {"bos_token_id": EOS, "eos_token_id": EOS, "pad_token_id": PAD}
    if size == "llama":
        config = LlamaConfig(**SIZES[size], tie_word_embeddings=True, **ids)  # type: ignore[arg-type]
        return LlamaForCausalLM(config).eval().to(getattr(torch, dtype))
    model = GPT2LMHeadModel(GPT2Config(**SIZES[size], n_positions=1_024, **ids)).eval()  # type: ignore[arg-type]
    direction = torch.nn.functional.normalize(torch.randn(SIZES[size]["n_embd"]), dim=0)
    odds = eos_probability / (1 - eos_probability)
    with torch.no_grad():  # logit of EOS = wte[EOS] . (ln_f.bias + noise)
        model.transformer.ln_f.bias.copy_(8.0 * direction)
        model.transformer.wte.weight[EOS] = (
            math.log(SIZES[size]["vocab_size"] * odds) / 8 * direction
        )
    return model.to(getattr(torch, dtype))


def generate_arm(model: PreTrainedModel, tokens: int, rows: int, ragged: bool) -> Callable[[], int]:
    """Return a function that samples with ``generate`` and counts the tokens."""
    ids = torch.randint(2, 1_000, (rows, PROMPT_TOKENS), device=model.device)
    mask = torch.ones_like(ids)
    settings: dict[str, Any] = {"do_sample": True, "top_k": 0, "max_new_tokens": tokens}
    if not ragged:
        settings |= {"eos_token_id": None}

    @torch.inference_mode()
    def play() -> int:
        response_ids = model.generate(ids, attention_mask=mask, **settings)[:, PROMPT_TOKENS:]
        if not ragged:
            return response_ids.numel()
        before = (response_ids == EOS).int().cumsum(1) - (response_ids == EOS).int()
        return int((before == 0).sum())

    return play


def ours_arm(
    model: PreTrainedModel, settings: argparse.Namespace, products: Products
) -> Callable[[], int]:
    """Return a function that plays one round and counts the tokens."""
    tokenizer = make_tokenizer(model.config.vocab_size)
    envs = TokenGenerationVectorEnv(
        num_envs=settings.rows,
        tokenizer=tokenizer,
        prompts=[
            " ".join(f"w{2 + (7 * i + j) % 900}" for j in range(PROMPT_TOKENS)) for i in range(64)
        ],
        max_new_tokens=settings.new_tokens,
    )
    agent = PPO(
        "CausalLMPolicy",
        envs,
        value_network="trunk",
        # A copy: products are set on the modules.
        policy_kwargs={"model": copy.deepcopy(model), "products": products},
        device=settings.device,
    )
    rounds = as_rounds(envs)

    def play() -> int:
        played = play_round(agent.sampler(), rounds)
        assert played is not None
        return sum(len(episode.response_ids) for episode in played.episodes)

    return play


def make_arms(dtype: str, settings: argparse.Namespace) -> dict[str, Callable[[], int]]:
    """Return `generate` and ours by each library of products, on even and on ragged lengths."""
    arms: dict[str, Callable[[], int]] = {}
    for kind in ("even",) if settings.size == "llama" else ("even", "ragged"):
        model: Any = make_model(settings.size, dtype, 1 / 24 if kind == "ragged" else 1e-30)
        model.to(settings.device)
        fuse_activations(model)  # for `generate` too
        arms[f"{dtype}, {kind}: generate"] = generate_arm(
            model, settings.new_tokens, settings.rows, kind == "ragged"
        )
        for products in settings.products if dtype == "float32" else settings.products[:1]:
            arms[f"{dtype}, {kind}: {products}"] = ours_arm(model, settings, products)
    return arms


def measure(arms: dict[str, Callable[[], int]], repeats: int) -> dict[str, tuple[float, float]]:
    """Return each arm's median tokens per CPU second and per second, the arms taking turns."""
    speeds: dict[str, list[tuple[float, float]]] = {name: [] for name in arms}
    for repeat in range(repeats + 1):
        for name, arm in arms.items():
            cpu, wall = time.process_time(), time.perf_counter()
            count = arm()
            if repeat > 0:  # the first warms up
                taken = time.process_time() - cpu, time.perf_counter() - wall
                speeds[name].append((count / taken[0], count / taken[1]))
    return {
        name: (statistics.median(s[0] for s in seen), statistics.median(s[1] for s in seen))
        for name, seen in speeds.items()
    }


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "bfloat16"), default=["float32"])
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--products", nargs="+", choices=get_args(Products), default=["torch"])
    settings = parser.parse_args()
    torch.set_num_threads(settings.threads)
    logging.disable(logging.WARNING)
    arms = {k: arm for dtype in settings.dtypes for k, arm in make_arms(dtype, settings).items()}
    speeds = measure(arms, settings.repeats)
    config = make_model(settings.size, "float32", 1e-30).config
    title = "Llama" if settings.size == "llama" else "GPT-2"
    print(
        f"{title} {config.num_hidden_layers}x{config.hidden_size}, "
        f"vocabulary {config.vocab_size:,}, "
        f"{settings.rows} rows of {PROMPT_TOKENS} + {settings.new_tokens} tokens, "
        f"{settings.threads} thread(s) on {settings.device}, medians of {settings.repeats}\n"
    )
    heads = "generate, tokens/CPU s | tokengym | ratio | generate, tokens/s | tokengym | ratio"
    print(f"| | products | {heads} |")
    print("|---|---|---|---|---|---|---|---|")
    for kind, products in (name.split(": ") for name in arms if not name.endswith("generate")):
        pairs = zip(speeds[f"{kind}: generate"], speeds[f"{kind}: {products}"], strict=True)
        cells = [f"{theirs:,.0f} | {ours:,.0f} | {ours / theirs:.2f}" for theirs, ours in pairs]
        print(f"| {kind} | {products} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
