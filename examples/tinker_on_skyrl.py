"""A credit rule on an engine for large models: SkyRL's JAX engine, fed with Tinker's datum.

    pip install tokengym "jax<1" flax optax orbax-checkpoint cloudpathlib sqlmodel
    pip install --no-deps skyrl==0.3.0  # else transformers 5.8 and PEFT 0.18.1
    python examples/tinker_on_skyrl.py --rewards sparse abc-signed --seeds 10 --out runs/skyrl
    tokengym report --curves runs/skyrl/curves.csv --out runs/skyrl/report

The engine samples, takes the gradient and steps the optimiser, sharded over a mesh where there is
one. The prompts, the score and the rule are those of an environment of this project. What passes
between them is a Tinker datum: tokens, their log-probabilities as sampled, and an advantage each.
Against a server `Engine` becomes a `tinker.ServiceClient`, and `train` stays as it is.

The policy is a Qwen3 of two layers that is taught the task's language first, in half a minute. It
needs a LoRA on its output layer to learn at all. The engine trains adapters alone, none of them on
the embeddings, and refuses one on an output layer that shares their weights. Adapters inside the
layers turn a hidden state whose length the last norm fixes, so that the frozen output layer bounds
every logit.
"""

import csv
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import tyro
from skyrl.backends.jax import JaxBackend, JaxBackendConfig
from skyrl.tinker import types
from skyrl.tinker.engine import prepare_model_pass_batch, prepare_sample_batch
from transformers import Qwen3Config, Qwen3ForCausalLM

from tokengym import TokenCredit
from tokengym.agents import SFT, collect
from tokengym.bridges.rows import Row, credit_rows
from tokengym.bridges.tinker import loss_inputs
from tokengym.envs import Bundle, bundled
from tokengym.rewards import gold_scorer

RUN = "run"
"""The engine's name of the adapter that is trained."""


@dataclass(frozen=True)
class Args:
    """Settings of all runs."""

    rewards: tuple[str, ...] = ("sparse", "abc-signed")
    """Credit rules to train with."""
    seeds: int = 10
    """Runs of each rule; runs of one seed are a pair, with the same prompts and adapter."""
    out: Path = field(default_factory=lambda: Path("runs/skyrl"))
    """Folder of curves.csv, and of the policy, which is made where there is none of its sizes."""
    updates: int = 40
    """Rounds of sampling and one optimiser step."""
    prompts: int = 32
    """Prompts of a round."""
    group_size: int = 4
    """Responses to each prompt, each other's baseline."""
    max_new_tokens: int = 24
    """Tokens of a response; the policy is taught texts without an end."""
    learning_rate: float = 1e-3
    """Learning rate of AdamW, constant."""
    rank: int = 32
    """Rank of the LoRA, and its alpha."""
    output_adapter: bool = True
    """Whether the output layer has an adapter too."""
    evaluate_every: int = 5
    """Updates between two evaluations."""
    held_out: int = 128
    """Held-out prompts of an evaluation, with one sampled response each."""
    hidden_size: int = 64
    """Width of the policy."""
    texts: int = 6000
    """Texts that the policy is taught, three times."""


def teach(folder: Path, bundle: Bundle, args: Args) -> None:
    """Save a small Qwen3 that writes like the task's own policy."""
    envs = gym.make_vec(
        "tokengym/MovieReview-v0",
        num_envs=128,
        max_new_tokens=args.max_new_tokens,
        min_new_tokens=args.max_new_tokens,
    )
    texts = collect(SFT(envs, seed=0), envs, args.texts, seed=0)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(bundle.tokenizer),
        hidden_size=args.hidden_size,
        intermediate_size=2 * args.hidden_size,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=args.hidden_size // 4,
        max_position_embeddings=128,
        tie_word_embeddings=False,  # or the engine refuses a LoRA on the output layer
        eos_token_id=bundle.tokenizer.eos_token_id,
        pad_token_id=bundle.tokenizer.pad_token_id,
        bos_token_id=None,
    )
    start = folder.with_name("untrained")
    Qwen3ForCausalLM(config).save_pretrained(start)
    bundle.tokenizer.save_pretrained(start)
    learner = SFT(
        str(start),
        texts,
        learning_rate=3e-3,
        num_train_epochs=3,
        per_device_train_batch_size=32,
        output_dir=folder.with_name("teaching"),
        seed=0,
    )
    learner.train()
    learner.save_model(str(folder))


@dataclass(frozen=True)
class Sampled:
    """Responses of the engine, in the order of their prompts."""

    rows: list[Row]
    log_probs: list[list[float]]
    """(rows,) of (time,), nats, of the tokens as sampled."""


class Engine:
    """SkyRL's JAX engine in this process, by the requests that its server takes."""

    def __init__(self, model: Path, args: Args) -> None:
        self.args = args
        settings = JaxBackendConfig(max_lora_adapters=2, max_lora_rank=args.rank)  # 0 is the base
        self.backend = JaxBackend(str(model), settings)

    def begin(self, seed: int) -> None:
        """Start anew with an adapter that changes nothing yet."""
        if self.backend.has_model(RUN):
            self.backend.delete_model(RUN)
        rank = self.args.rank
        lora = types.LoraConfig(
            rank=rank, alpha=rank, seed=seed, train_unembed=self.args.output_adapter
        )
        self.backend.create_model(RUN, lora)
        # The sampler reads the adapter that is trained; a name that it knows is not loaded again.
        self.backend.models[RUN].loaded_checkpoint_id = RUN

    def sample(self, prompts: Sequence[Sequence[int]], count: int, seed: int) -> Sampled:
        """Return some responses to each prompt; each has a seed of its own."""
        requests = {}
        for number, ids in enumerate(prompts):
            params = types.SamplingParams(
                temperature=1.0, max_tokens=self.args.max_new_tokens, seed=seed + number * count
            )
            request = types.SampleInput(
                prompt=model_input(ids),
                sampling_params=params,
                num_samples=count,
                checkpoint_id=RUN,
                prompt_logprobs=False,
            )
            requests[str(number)] = (RUN, request)
        answers = self.backend.sample(prepare_sample_batch(requests))
        rows, log_probs = [], []
        for number, ids in enumerate(prompts):
            for answer in answers[str(number)].sequences:
                rows.append(Row(prompt_ids=ids, response_ids=answer.tokens, group=number))
                log_probs.append(answer.logprobs)
        return Sampled(rows, log_probs)

    def learn(self, sampled: Sampled, advantages: Sequence[Any]) -> None:
        """Take one step along the gradient of the advantages."""
        self.gradient(
            [
                datum(row, advantage, log_probs)
                for row, advantage, log_probs in zip(
                    sampled.rows, advantages, sampled.log_probs, strict=True
                )
            ]
        )
        adam = types.AdamParams(
            learning_rate=self.args.learning_rate,
            beta1=0.9,
            beta2=0.95,
            eps=1e-8,
            weight_decay=0.0,
        )
        self.backend.optim_step(RUN, types.OptimStepInput(adam_params=adam))

    def gradient(self, data: Sequence[types.Datum]) -> types.ForwardBackwardOutput:
        """Add the gradient of some rows to what the next step takes."""
        request = types.ForwardBackwardInput(data=data, loss_fn="importance_sampling")
        batch = prepare_model_pass_batch({"0": (RUN, request)})
        return self.backend.forward_backward(batch)["0"]


def model_input(ids: Sequence[int]) -> types.ModelInput:
    """Return tokens as the engine takes them."""
    return types.ModelInput(chunks=[types.EncodedTextChunk(tokens=[int(one) for one in ids])])


def datum(row: Row, advantages: Any, log_probs: Sequence[float]) -> types.Datum:
    """Return what the engine learns from a row."""
    inputs = loss_inputs(row, advantages, log_probs, mean_per_row=True)
    arrays = {
        name: types.TensorData(data=array.tolist()) for name, array in inputs.loss_fn_inputs.items()
    }
    weights = types.TensorData(data=[1.0] * len(inputs.tokens))  # the server's own default
    return types.Datum(
        model_input=model_input(inputs.tokens),
        loss_fn_inputs=types.LossFnInputs(weights=weights, **arrays),
    )


def train(
    engine: Engine, bundle: Bundle, credit: TokenCredit, seed: int, args: Args
) -> Iterator[dict[str, float]]:
    """Train one run; yield the scores of held-out prompts as it goes."""
    engine.begin(seed)
    random = np.random.default_rng(seed)
    prompts, held_out = (
        [bundle.tokenizer(prompt.text)["input_ids"] for prompt in bundle.prompts(split)]
        for split in ("train", "test")
    )
    gold = gold_scorer(bundle)
    assert gold is not None
    for update in range(args.updates + 1):
        if update % args.evaluate_every == 0 or update == args.updates:
            shown = engine.sample(held_out[: args.held_out], 1, seed=10**6)
            texts = credit(
                [row.response_ids for row in shown.rows],
                prompts=[row.prompt_ids for row in shown.rows],
            )
            yield {
                "step": update,
                "score": float(texts.scores.mean()),
                "gold_score": float(gold.score(texts.episodes).values.mean()),
            }
        if update < args.updates:
            chosen = random.choice(len(prompts), args.prompts, replace=False)
            sampled = engine.sample(
                [prompts[number] for number in chosen],
                args.group_size,
                seed=int(random.integers(2**30)),
            )
            engine.learn(sampled, credit_rows(sampled.rows, credit).advantages)


def policy_folder(args: Args) -> Path:
    """Return the folder of a policy of these sizes; one that exists is not taught again."""
    sizes = f"{args.hidden_size}-wide-{args.texts}-texts-of-{args.max_new_tokens}"
    return args.out / f"policy-{sizes}"


def main(args: Args) -> None:
    """Train every rule with every seed; write and print the curves."""
    bundle = bundled("movie_review")
    policy = policy_folder(args)
    if not policy.exists():
        args.out.mkdir(parents=True, exist_ok=True)
        teach(policy, bundle, args)
    logging.getLogger("skyrl").setLevel(logging.ERROR)  # it tells of every step
    engine = Engine(policy, args)
    credits = {
        rule: TokenCredit(bundle.reward_model, rule, tokenizer=bundle.tokenizer)
        for rule in args.rewards
    }
    with (args.out / "curves.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["credit", "seed", "step", "score", "gold_score"])
        writer.writeheader()
        for seed in range(args.seeds):
            for rule, credit in credits.items():
                began = time.process_time()
                curve = list(train(engine, bundle, credit, seed, args))
                rows = ({name: round(value, 4) for name, value in point.items()} for point in curve)
                writer.writerows({"credit": rule, "seed": seed, **row} for row in rows)
                file.flush()
                first, last = curve[0]["score"], curve[-1]["score"]
                seconds = time.process_time() - began
                print(
                    f"{rule:12} seed {seed}  score {first:5.2f} -> {last:5.2f}  {seconds:.0f} s CPU"
                )


if __name__ == "__main__":
    main(tyro.cli(Args))
