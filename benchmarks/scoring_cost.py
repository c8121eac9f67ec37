"""What reading token credit out of a scoring pass costs, against a scoring pass alone.

Arms: ABC's attention row, RED's scores at every position, signed attention, gradient x input,
integrated gradients; each scores the same texts as the plain pass (transformers' own SDPA, the
model never switched to the one-row attention).

- time: CPU seconds of one thread, the ratio of the medians to the plain pass's. The plain pass,
  ABC, RED and signed attention are interleaved in a new order each time; the plain pass is measured
  twice, and how far the two differ is the noise. Gradients, which cost several times as much, run
  after them, once to three times each;
- memory: each pass in a forked process of its own, the peak of its resident memory during the pass
  above what it held before it (weights, libraries, a short warm-up), median of several. The
  allocator is told to hand large blocks back at once, so that the peak is what was in use.

Models: the bundled film-review one at its task's length and at the longest it reads, and a random
GPT-2 of 124M parameters at 512 tokens; sequences of one length (no padding, no mask), and mixed
ones.

    python benchmarks/scoring_cost.py [--repeats 31] [--json FILE] [--models bundled gpt2]
"""

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, GPT2Config

from tokengym.base.bundle import bundled
from tokengym.envs import Episode
from tokengym.rewards import RewardModel
from tokengym.rewards.models.loading import quiet

ARMS: dict[str, str | None] = {
    "plain": None,
    "plain again": None,
    "abc": "attention",
    "red": "prefix",
    "abc-signed": "signed-attention",
    "gradient": "gradient",
    "integrated-gradients": "integrated-gradients",
}
"""Arm -> the attribution that the scorer is asked for."""
CHEAP = ("plain", "plain again", "abc", "red", "abc-signed")
CASES: dict[str, list[tuple[int, int, bool]]] = {
    "bundled": [(64, 56, False), (64, 56, True), (16, 256, False)],
    "gpt2": [(1, 512, False)],
}
"""Model -> (batch, tokens, whether lengths are mixed) of its cases."""
DEAR = 5_000_000_000
"""Products of parameters and tokens above which integrated gradients are left out."""
TARGETS = {"abc": (1.05, 1.1), "red": (1.2, None)}
"""Arm -> the most it may cost in time and in memory, as factors."""


def make_scorer(name: str, batch_size: int) -> RewardModel:
    """Return a reward model of its own, so that no arm changes another's attention."""
    if name == "bundled":
        path = bundled("movie_review").reward_model
        with quiet():
            model = AutoModelForSequenceClassification.from_pretrained(path)
    else:
        torch.manual_seed(0)
        config = GPT2Config(num_labels=1, pad_token_id=0)  # GPT-2 small: 124M parameters
        model = AutoModelForSequenceClassification.from_config(config)
    return RewardModel(model.eval(), batch_size=batch_size)


def make_episodes(scorer: RewardModel, batch: int, tokens: int, *, mixed: bool) -> list[Episode]:
    """Return random texts of ``tokens`` tokens, or of a half of them to all of them."""
    rng = np.random.default_rng(0)
    lengths = np.linspace(tokens // 2, tokens, batch).astype(int) if mixed else [tokens] * batch
    episodes = []
    for length in lengths:
        ids = rng.integers(3, scorer.model.config.vocab_size, int(length)).tolist()
        episodes.append(Episode(prompt="", response="", prompt_ids=ids[:8], response_ids=ids[8:]))
    return episodes


def arms_of(scorer: RewardModel, tokens: int) -> list[str]:
    """Return the arms that a case affords."""
    dear = scorer.model.num_parameters() * tokens > DEAR
    return [arm for arm in ARMS if not (dear and arm == "integrated-gradients")]


def cpu_seconds(run: Callable[[], Any]) -> float:
    """Return the CPU time of one call."""
    start = time.process_time()
    run()
    return time.process_time() - start


def measure_time(
    name: str, batch: int, tokens: int, *, mixed: bool, repeats: int
) -> dict[str, dict[str, float]]:
    """Return each arm's seconds and its ratio to the plain pass."""
    plain, switched = make_scorer(name, batch), make_scorer(name, batch)
    scorers = {arm: switched if ARMS[arm] else plain for arm in ARMS}
    episodes = make_episodes(scorers["plain"], batch, tokens, mixed=mixed)
    arms = arms_of(scorers["plain"], batch * tokens)
    seconds: dict[str, list[float]] = {arm: [] for arm in arms}
    rng = np.random.default_rng(0)

    def once(arm: str) -> float:
        return cpu_seconds(lambda: scorers[arm].score(episodes, attribution=ARMS[arm]))

    for arm in arms:
        once(arm)  # a warm-up
    for _ in range(repeats):
        for arm in rng.permutation(CHEAP):
            seconds[arm].append(once(arm))
    for _ in range(3 if statistics.median(seconds["plain"]) < 0.5 else 1):
        for arm in [name for name in arms if name not in CHEAP]:
            seconds[arm].append(once(arm))
    medians = {arm: statistics.median(taken) for arm, taken in seconds.items()}
    return {
        arm: {"seconds": median, "ratio": median / medians["plain"]}
        for arm, median in medians.items()
    }


def measure_memory(
    name: str, batch: int, tokens: int, *, mixed: bool, repeats: int
) -> dict[str, dict[str, float]]:
    """Return each arm's peak above the weights, MiB, and its ratio to the plain pass's."""
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_TRIM_THRESHOLD_": "65536",
        "MALLOC_ARENA_MAX": "1",
    }
    case = json.dumps([name, batch, tokens, mixed, repeats])
    command = [sys.executable, __file__, "--peaks-of", case]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    peaks = json.loads(done.stdout.splitlines()[-1])
    plain = statistics.median(peaks["plain"])
    return {
        arm: {"mib": statistics.median(arm_peaks), "ratio": statistics.median(arm_peaks) / plain}
        for arm, arm_peaks in peaks.items()
    }


def peaks_of(
    name: str, batch: int, tokens: int, mixed: bool, repeats: int
) -> dict[str, list[float]]:
    """Return, per arm, by how much one pass raised the resident memory of its process, MiB."""
    peaks: dict[str, list[float]] = {}
    for arm, kind in ARMS.items():
        scorer = make_scorer(name, batch)
        if arm not in arms_of(scorer, batch * tokens):
            continue
        small, large = (
            functools.partial(
                scorer.score, make_episodes(scorer, *size, mixed=mixed), attribution=kind
            )
            for size in ((2, 32), (batch, tokens))
        )
        small()
        peaks[arm] = [peak_in_fork(large, small) for _ in range(repeats)]
    return peaks


def peak_in_fork(run: Callable[[], Any], warm_up: Callable[[], Any]) -> float:
    """Return by how much a call raises the resident memory of a copy of this process, MiB.

    The warm-up is run in the copy too: it brings in the pages of weights and libraries, which a
    copy has in its address space but not yet in its count.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            warm_up()
            Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
            before = _status("VmRSS")
            run()
            os.write(writing, str((_status("VmHWM") - before) / 1024).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        peak = pipe.read()
    os.waitpid(child, 0)
    if not peak:
        raise RuntimeError("the pass failed in its process; run it by hand to see why")
    return float(peak)


def _status(field: str) -> float:
    """Return a line of /proc/self/status, KiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return float(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {field}; memory is measured on Linux only")


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=31)
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--models", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("--peaks-of", default=None, help=argparse.SUPPRESS)
    settings = parser.parse_args()
    torch.set_num_threads(1)
    if settings.peaks_of is not None:
        print(json.dumps(peaks_of(*json.loads(settings.peaks_of))))
        return
    report = []
    for name in settings.models:
        for batch, tokens, mixed in CASES[name]:
            case: dict[str, Any] = {"batch": batch, "tokens": tokens, "mixed": mixed}
            times = measure_time(name, **case, repeats=settings.repeats)
            memory = measure_memory(name, **case, repeats=settings.processes)
            report.append({"model": name, **case, "time": times, "memory": memory})
            show(report[-1])
    if settings.json is not None:
        settings.json.write_text(json.dumps(report, indent=1) + "\n")


def show(entry: dict[str, Any]) -> None:
    """Print one case as a table."""
    lengths = f"{entry['tokens'] // 2} to {entry['tokens']}" if entry["mixed"] else entry["tokens"]
    print(f"\n{entry['model']}, {entry['batch']} texts of {lengths} tokens")
    print(f"{'':22}{'seconds':>9}{'time':>8}{'MiB':>9}{'memory':>8}")
    for arm in entry["time"]:
        spent, held = entry["time"][arm], entry["memory"][arm]
        time_target, memory_target = TARGETS.get(arm, (None, None))
        missed = [
            what
            for what, ratio, target in (
                ("time", spent["ratio"], time_target),
                ("memory", held["ratio"], memory_target),
            )
            if target is not None and ratio > target
        ]
        note = f"  over its target: {' and '.join(missed)}" if missed else ""
        print(
            f"{arm:22}{spent['seconds']:9.3f}{spent['ratio']:8.3f}{held['mib']:9.1f}"
            f"{held['ratio']:8.3f}{note}",
            flush=True,
        )


if __name__ == "__main__":
    main()
