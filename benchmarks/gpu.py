"""How fast a GPU writes and learns, beside what its memory and matrix units allow.

- rollout: tokens per second through the environment's ``step``, of models with random weights in
  bfloat16, against ``generate`` with a growing cache and with a static cache that it compiles. The
  limit is that of reading all weights and the cache once per step at the measured bandwidth.
- peer: one PPO step of a GPT-2 in float32 against TRL 1.12's, by ``ppo_peer.py``, where ``--trl``
  names the folder of its package.
- step: one PPO step by phase, with its peak memory; the value is read from the policy's trunk or
  by a network of its own. The update's share is 6 floating-point operations per weight, of each
  network that learns, and token and epoch (4 with LoRA, whose frozen weights need no gradient)
  against the measured rate of a matrix product in bfloat16.

The most important figures come first; one for which too little time is left is written as skipped.
Products in float32 are in TF32. Each figure is warmed up and taken twice: a difference smaller than
between the two is none. ``captured`` says whether the steps were replayed as CUDA graphs, and
``kernels`` what was used: "triton", "triton, plain blocks" (in rollouts they choose tokens, and the
model's own forward makes the states) or "plain", which is also what they fall back to. Writes
``gpu.json`` and ``gpu.md``, row by row.

    python benchmarks/gpu.py --out runs/gpu [--seconds 450] [--shapes qwen2-0.5b]
    python benchmarks/gpu.py --out runs/gpu --dry-run --device cpu
    python benchmarks/gpu.py --out docs/results/speed --page docs/results/speed/gpu.txt

The last measures nothing: it puts the tables of a ``gpu.json`` into a page.

A dry run does the same with tiny models, to see that everything works; its figures mean nothing.
"""

import argparse
import gc
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig
from rollout_speed import EOS, PAD, make_tokenizer
from transformers import AutoModelForCausalLM, PreTrainedModel

from tokengym import __version__
from tokengym.agents import PPO
from tokengym.agents.rollouts.playing import play_round
from tokengym.agents.rollouts.rounds import as_rounds
from tokengym.base.files import write_json, write_text
from tokengym.envs import TokenGenerationVectorEnv
from tokengym.rewards import FunctionScorer, SparseReward

IDS = {"bos_token_id": EOS, "eos_token_id": EOS, "pad_token_id": PAD}
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2-124m": ("GPT2", {}),
    "qwen2-0.5b": (
        "Qwen2",
        {
            "vocab_size": 151_936,
            "hidden_size": 896,
            "intermediate_size": 4_864,
            "num_hidden_layers": 24,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "tie_word_embeddings": True,
        },
    ),
    "llama-1b": (
        "Llama",
        {
            "vocab_size": 128_256,
            "hidden_size": 2_048,
            "intermediate_size": 8_192,
            "num_hidden_layers": 16,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 64,
            "tie_word_embeddings": True,
        },
    ),
}
TINY = {
    "vocab_size": 512,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
QWEN, GPT2, LLAMA = "qwen2-0.5b", "gpt2-124m", "llama-1b"


@dataclass(frozen=True)
class Item:
    """One figure.

    An arm of a rollout begins with who writes: "generate", "dynamic" or "captured". Other words
    of an arm: "top-k" (50, with top-p 0.9), "lora", "ragged" (responses that end early); of a step,
    "k1" (else the exact KL), "own value network" (PPO's default; else the value is read from the
    policy's trunk), "micro-batch N" (else 32), "bf16-mixed". Of both: "plain",
    without Triton's kernels.
    """

    table: str
    shape: str
    rows: int
    arm: str
    needs: int
    """Seconds that it may take."""


PLAN = (
    Item("rollout", QWEN, 256, "captured", 25),
    Item("rollout", QWEN, 32, "captured", 20),
    Item("step", QWEN, 256, "exact KL", 50),
    Item("rollout", QWEN, 256, "captured, plain", 25),
    Item("step", QWEN, 256, "exact KL, plain", 50),
    Item("step", QWEN, 256, "k1", 40),
    Item("step", QWEN, 256, "exact KL, own value network", 50),
    Item("rollout", QWEN, 256, "captured, top-k", 25),
    Item("step", QWEN, 256, "exact KL, lora", 50),
    Item("step", QWEN, 256, "exact KL, micro-batch 16", 50),
    Item("rollout", QWEN, 256, "captured, lora", 25),
    Item("rollout", QWEN, 256, "generate", 15),
    Item("rollout", QWEN, 32, "generate", 15),
    Item("step", QWEN, 256, "exact KL, ragged", 40),
    Item("step", QWEN, 256, "k1, bf16-mixed, micro-batch 16", 60),
    Item("step", QWEN, 256, "exact KL, top-k", 60),
    Item("rollout", GPT2, 256, "captured", 15),
    Item("rollout", GPT2, 32, "captured", 15),
    Item("rollout", LLAMA, 256, "captured", 20),
    Item("rollout", LLAMA, 32, "captured", 20),
    Item("rollout", QWEN, 256, "captured, ragged", 20),
    Item("rollout", QWEN, 256, "dynamic", 25),
    Item("rollout", GPT2, 256, "generate", 15),
    Item("rollout", LLAMA, 256, "generate", 15),
    Item("rollout", QWEN, 256, "generate, static", 90),
)
"""What is measured, the most important first."""

COLUMNS: dict[str, dict[str, str]] = {
    "rollout": {
        "tokens_per_second": "tokens/s",
        "limit": "limit",
        "share_of_limit": "share",
        "taken_s": "seconds, twice",
        "captured": "captured",
        "kernels": "kernels",
    },
    "step": {
        "rollout_s": "rollout, s",
        "assign_s": "assign, s",
        "update_s": "update, s",
        "step_s": "step, s",
        "update_tflops": "update, TFLOP/s",
        "share_of_matrix_rate": "share",
        "peak_gib": "peak, GiB",
        "log_prob_gap": "log-prob gap",
        "taken_s": "seconds, twice",
        "captured": "captured",
        "kernels": "kernels",
    },
}


@dataclass(frozen=True)
class Sizes:
    """Sizes of what is measured."""

    prompt: int
    new_tokens: int
    """Length of a rollout's responses."""
    step_tokens: int
    """New tokens of a response in a PPO step."""
    micro_batch_size: int
    n_epochs: int = 2
    n_minibatches: int = 4
    copied: int = 2**30
    """Bytes of the copy that measures the bandwidth."""
    matrix: int = 8_192
    """Rows and columns of the product that measures the matrix rate."""


FULL = Sizes(prompt=32, new_tokens=128, step_tokens=256, micro_batch_size=32)
DRY = Sizes(
    prompt=4,
    new_tokens=6,
    step_tokens=6,
    micro_batch_size=2,
    copied=2**20,
    matrix=128,
)


DRY_ROWS = 4


class Bench:
    """Measurements on one device.

    Args:
        settings: The command's own.
    """

    def __init__(self, settings: argparse.Namespace) -> None:
        self.device = torch.device(settings.device)
        self.is_dry: bool = settings.dry_run
        self.sizes = DRY if self.is_dry else FULL
        self.repeats: int = settings.repeats
        self.taken: list[float] = []
        """Seconds of the figure measured last, each time."""
        self.is_gpu = self.device.type == "cuda"
        self.bandwidth = self._bandwidth()
        self.matrix_rate = self._matrix_rate()

    def seconds(self, function: Callable[[], Any]) -> float:
        """Return the mean seconds of a call, which is warmed up."""
        taken = []
        for _ in range(self.repeats + 1):
            self.wait()
            started = time.perf_counter()
            function()
            self.wait()
            taken.append(time.perf_counter() - started)
        self.taken = taken[1:]
        return statistics.mean(self.taken)

    def wait(self) -> None:
        """Let the device finish."""
        if self.is_gpu:
            torch.cuda.synchronize(self.device)

    def _bandwidth(self) -> float:
        """Return the bytes that a copy reads and writes per second."""
        source = torch.zeros(self.sizes.copied, dtype=torch.uint8, device=self.device)
        target = torch.empty_like(source)
        return 2 * self.sizes.copied / self.seconds(lambda: target.copy_(source))

    def _matrix_rate(self) -> float:
        """Return the floating-point operations per second of a product in bfloat16."""
        size = self.sizes.matrix
        left = torch.randn(size, size, device=self.device, dtype=torch.bfloat16)
        return 2 * size**3 / self.seconds(lambda: left @ left)

    def model(self, shape: str, dtype: torch.dtype = torch.bfloat16) -> PreTrainedModel:
        """Return a model of a shape with random weights."""
        family, settings = SHAPES[shape]
        if self.is_dry:
            family, settings = "Llama", TINY
        config = getattr(transformers, f"{family}Config")(**settings, **IDS)
        torch.manual_seed(0)
        with self.device:
            return AutoModelForCausalLM.from_config(config).to(dtype).eval()

    def agent(self, model: Any, rows: int, tokens: int, arm: str, **policy: Any) -> PPO:
        """Return a PPO agent; every response has the same score."""
        sizes, vocab_size = self.sizes, model.config.vocab_size
        words = [
            " ".join(f"w{2 + (7 * i + j) % 500}" for j in range(sizes.prompt)) for i in range(64)
        ]
        # EOS is one of few tokens, so that a model with random weights ends its responses.
        few = sizes.step_tokens // 2
        envs = TokenGenerationVectorEnv(
            num_envs=rows,
            tokenizer=make_tokenizer(vocab_size),
            prompts=words,
            max_new_tokens=tokens,
            forbidden_token_ids=range(few, vocab_size) if "ragged" in arm else (),
        )
        if "lora" in arm:
            maps = ["c_attn", "c_proj", "c_fc"] if "GPT2" in type(model).__name__ else "all-linear"
            policy["lora"] = LoraConfig(
                r=16, target_modules=maps, fan_in_fan_out=maps != "all-linear"
            )
        settings: dict[str, Any] = {"top_k": 50, "top_p": 0.9} if "top-k" in arm else {}
        size = re.search(r"micro-batch (\d+)", arm)
        return PPO(
            "CausalLMPolicy",
            SparseReward(envs, FunctionScorer(lambda *_: 1.0)),
            n_epochs=sizes.n_epochs,
            n_minibatches=sizes.n_minibatches,
            micro_batch_size=sizes.micro_batch_size if size is None else int(size[1]),
            kl_estimator="k1" if "k1" in arm else "exact",
            value_network="own" if "own value network" in arm else "trunk",
            policy_kwargs={
                "model": model,
                "decoding": self.decoding,
                "kernels": "plain" if "plain" in arm else "auto",
                **policy,
            },
            seed=0,
            device=self.device,
            **settings,
        )

    @property
    def decoding(self) -> str:
        """Decoding of captured arms; "auto" gives a figure even where the capture fails."""
        return "auto" if self.is_gpu else "static"

    # --- rollouts ---------------------------------------------------------------------------------

    def rollout(self, shape: str, rows: int, arm: str) -> dict[str, Any]:
        """Return the tokens per second of one way to write."""
        model: Any = self.model(shape)
        tokens: float = rows * self.sizes.new_tokens
        limit = rows / self._step_seconds(model, rows)
        captured = kernels = None
        if arm.startswith("generate"):
            seconds = self.seconds(self._generate(model, rows, is_static=arm.endswith("static")))
        else:
            decoding = "dynamic" if arm.startswith("dynamic") else self.decoding
            agent = self.agent(model, rows, self.sizes.new_tokens, arm, decoding=decoding)
            rounds, played = as_rounds(agent.env), []
            seconds = self.seconds(lambda: played.append(play_round(agent.sampler(), rounds)))
            captured, kernels = agent.policy.captured, kernels_of(agent)
            # Those of a ragged round are fewer, and others each time.
            written = [
                sum(len(e.response_ids) for e in p.episodes) for p in played if p is not None
            ]
            tokens = statistics.mean(written[1:])
        measurements = {"tokens_per_second": tokens / seconds, "limit": limit, "captured": captured}
        measurements |= {"share_of_limit": tokens / seconds / limit, "kernels": kernels}
        return measurements | {"taken_s": self.taken}

    def _generate(self, model: Any, rows: int, *, is_static: bool) -> Callable[[], None]:
        ids = torch.randint(2, 500, (rows, self.sizes.prompt), device=self.device)
        settings: dict[str, Any] = {"do_sample": True, "top_k": 0, "eos_token_id": None}
        if is_static:
            settings["cache_implementation"] = "static"
            settings["disable_compile"] = not self.is_gpu

        @torch.inference_mode()
        def play() -> None:
            model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=self.sizes.new_tokens,
                **settings,
            )

        return play

    def _step_seconds(self, model: Any, rows: int) -> float:
        """Return the least seconds of a step: all weights and the cache so far, read once."""
        weights = sum(p.numel() * p.element_size() for p in model.parameters())
        config = model.config
        heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
        width = (
            getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        )
        per_token = 2 * config.num_hidden_layers * heads * width * model.dtype.itemsize
        length = self.sizes.prompt + self.sizes.new_tokens / 2
        return (weights + rows * length * per_token) / self.bandwidth

    # --- PPO steps --------------------------------------------------------------------------------

    def step(self, shape: str, rows: int, arm: str) -> dict[str, Any]:
        """Return the seconds of a PPO step's phases, its peak memory and its share of the rate."""
        sizes, is_mixed = self.sizes, "bf16-mixed" in arm
        model = self.model(shape, torch.float32 if is_mixed else torch.bfloat16)
        weights = sum(parameter.numel() for parameter in model.parameters())
        if "own value network" in arm:  # a second trunk, without a head
            weights += sum(parameter.numel() for parameter in model.base_model.parameters())
            weights -= model.get_input_embeddings().weight.numel()
        options = {"precision": "bf16-mixed"} if is_mixed else {}
        agent = self.agent(model, rows, sizes.step_tokens, arm, **options)
        phases: dict[str, list[float]] = {"rollout": [], "assign": [], "update": []}
        trained = 0
        if self.is_gpu:
            torch.cuda.reset_peak_memory_stats(self.device)
        for _ in range(self.repeats + 1):
            passed: Any = None
            for name, phase in (
                ("rollout", lambda _: agent.collect()),
                ("assign", agent.assign),
                ("update", lambda experience: (experience, agent.update(experience))[0]),
            ):
                started = time.perf_counter()
                passed = phase(passed)
                self.wait()
                phases[name].append(time.perf_counter() - started)
            trained = int(passed.sequences.lengths.sum()) * sizes.n_epochs
        phase_seconds = {f"{name}_s": statistics.mean(taken[1:]) for name, taken in phases.items()}
        rate = (4 if "lora" in arm else 6) * weights * trained / phase_seconds["update_s"]
        return phase_seconds | {
            "step_s": sum(phase_seconds.values()),
            "taken_s": [sum(taken) for taken in zip(*phases.values(), strict=True)][1:],
            "captured": agent.policy.captured,
            "kernels": kernels_of(agent),
            "update_tflops": rate / 1e12,
            "share_of_matrix_rate": rate / self.matrix_rate,
            "log_prob_gap": float(agent.logger.name_to_value["train/log_prob_gap"]),
            "peak_gib": torch.cuda.max_memory_allocated(self.device) / 2**30
            if self.is_gpu
            else None,
        }


def kernels_of(agent: PPO) -> str:
    """Return what has computed what torch has no one operation for."""
    if not agent.policy.kernels:
        return "plain"
    is_fused = all(decoder.is_fused for decoder in agent.policy.decoders)
    return "triton" if is_fused else "triton, plain blocks"


def measured(bench: Bench, settings: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the rows of both tables; one that runs out of memory or time says so."""
    began = time.monotonic()
    for item in PLAN:
        if item.shape not in settings.shapes or item.table not in settings.only:
            continue
        rows = DRY_ROWS if bench.is_dry else item.rows
        row = {"table": item.table, "shape": item.shape, "rows": rows, "arm": item.arm}
        left = settings.seconds - (time.monotonic() - began)
        if left < item.needs / (10 if bench.is_dry else 1):
            yield row | {"error": f"skipped: {left:.0f} s left"}
            continue
        measure = bench.rollout if item.table == "rollout" else bench.step
        try:
            yield row | measure(item.shape, rows, item.arm)
        except torch.cuda.OutOfMemoryError:
            yield row | {"error": "out of memory"}
        except Exception as error:  # the others are wanted all the same
            yield row | {"error": f"{type(error).__name__}: {str(error)[:200]}"}
        gc.collect()
        if bench.is_gpu:
            torch.cuda.empty_cache()


def against_trl(bench: Bench, folder: str) -> str:
    """Return the table of ``ppo_peer.py``."""
    command = [sys.executable, str(Path(__file__).with_name("ppo_peer.py")), "--trl", folder]
    command += ["--device", bench.device.type, "--size", "small" if bench.is_dry else "large"]
    command += ["--steps", str(bench.repeats)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def as_markdown(results: dict[str, Any]) -> str:
    """Return the tables."""
    about = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    lines = [
        f"{results['card']}: copies {results['bandwidth_gb_s']:,.0f} GB/s, products in bfloat16 "
        f"{results['matrix_tflops']:,.0f} TFLOP/s. {about}.",
        "",
    ]
    for table, titles in COLUMNS.items():
        rows = [row for row in results["rows"] if row["table"] == table]
        if not rows:
            continue
        lines.append(f"| shape | rows | {table} | {' | '.join(titles.values())} |")
        lines.append("|" + "---|" * (len(titles) + 3))
        for row in rows:
            cells = [row.get("error") or _cell(row[name]) for name in titles]
            lines.append(f"| {row['shape']} | {row['rows']} | {row['arm']} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join([*lines, results.get("peer", "")])


def tables_of(folder: Path) -> str:
    """Return the tables of the ``gpu.json`` in a folder."""
    return as_markdown(json.loads((folder / "gpu.json").read_text())).strip()


def _cell(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "-", True: "yes", False: "NO"}[value]
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return ", ".join(map(_cell, value))
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def main() -> None:
    """Measure and write both files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of gpu.json and gpu.md")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--seconds", type=float, default=450.0, help="time for the figures")
    parser.add_argument(
        "--only", nargs="+", choices=("rollout", "step"), default=["rollout", "step"]
    )
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--trl", help="folder that holds TRL 1.12.0's package")
    parser.add_argument("--page", type=Path, help="page to put the tables of gpu.json into")
    settings = parser.parse_args()
    if settings.page is not None:
        from tokengym.lab.tables import fill  # a GPU machine may lack the laboratory

        fill(settings.page, {"measured": tables_of(settings.out)})
        return
    device = torch.device(settings.device)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        parser.error(f"--device {device}: no such GPU; add --dry-run --device cpu")
    torch.set_float32_matmul_precision("high")  # TF32 for the float32 head of bf16-mixed
    bench = Bench(settings)
    results: dict[str, Any] = {
        "card": torch.cuda.get_device_name(bench.device) if bench.is_gpu else "CPU",
        "is_dry_run": bench.is_dry,
        "bandwidth_gb_s": bench.bandwidth / 1e9,
        "matrix_tflops": bench.matrix_rate / 1e12,
        "versions": {
            "tokengym": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "rows": [],
    }
    settings.out.mkdir(parents=True, exist_ok=True)
    for row in measured(bench, settings):
        results["rows"].append(row)  # written row by row: what was measured stays
        write_json(settings.out / "gpu.json", results)
        write_text(settings.out / "gpu.md", as_markdown(results))
        print(json.dumps(row), flush=True)
    if settings.trl is not None:
        results["peer"] = against_trl(bench, settings.trl)
        write_json(settings.out / "gpu.json", results)
        write_text(settings.out / "gpu.md", as_markdown(results))


if __name__ == "__main__":
    main()
